# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""PAD-Net (Xu et al., CVPR 2018): first answers of all tasks help the last ones.

From the shared features every dense task makes features of its own and a first answer, which has a
loss (deep supervision); distillation module C of the paper, attention-guided messages between the
tasks' features, then gives what the last answers are made from. Changed: our trunk and neck, first
features from the neck by the usual decoder; no auxiliary tasks (contours) but those configured.
Shared: trunk, neck, first features and messages, which the losses of all dense tasks reach. Heads,
first and last, are a task's own.
"""

from __future__ import annotations

from torch import Tensor, nn

from training.networks.base import MultiTaskNetwork
from training.networks.sharing.distillation import (
    DistilledOptions,
    Messages,
    dense_tasks,
    distilled_heads,
    features_of,
)
from training.networks.sharing.parts import Parts
from training.tasks import Features
from training.tasks.base import TaskFeatures
from training.tasks.decoders import FINEST_DECODER, FPN_DECODER, Decoding


class FirstFeatures(Decoding):
    """The neck -> one task's features at stride 4."""

    def __init__(self, levels: list[int], channels: int) -> None:
        """levels: channels of the trunk, of which only the number counts."""
        super().__init__()
        self.make_decoder(FPN_DECODER, levels, channels)

    def forward(self, features: Features) -> Tensor:
        """Sum the levels."""
        return self.decode(features)


class PADNet(MultiTaskNetwork):
    """Shared trunk and neck, first features, messages, two heads a dense task."""

    def __init__(self, parts: Parts, options: DistilledOptions) -> None:
        """See `distillation.py`."""
        trunk = parts.trunk()
        heads = distilled_heads(
            parts, 'pad_net', trunk.channels, FINEST_DECODER, 1, options.first_weight
        )
        super().__init__(trunk, parts.neck(trunk.channels), parts.tasks, heads)
        dense, channels = dense_tasks(parts.tasks), parts.config.neck_channels
        self.first = nn.ModuleDict({t: FirstFeatures(trunk.channels, channels) for t in dense})
        self.messages = Messages(dense, channels)

    def features(self, image: Tensor) -> TaskFeatures:
        """Messages need every task's features of every image."""
        levels = self.trunk(image)
        shared = Features(levels, self.neck(levels))
        first = {task: make(shared) for task, make in self.first.items()}
        distilled = self.messages(first)
        necks = {task: [distilled[task], first[task]] for task in first}
        return features_of(shared, necks, next(self.trunk.parameters()))
