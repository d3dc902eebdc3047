# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""MTI-Net (Vandenhende et al., ECCV 2020): messages between tasks at every scale.

At each scale every dense task has features and a first answer with a loss; messages between the
tasks (as PAD-Net's) are passed at each scale by itself, because tasks that agree at one scale need
not at another. From coarse to fine the feature propagation module hands on what the coarser scale
found: the tasks' features are mixed into a common one by a softmax over the tasks, which each task
takes through squeeze-and-excitation, beside its own. The last answer sums the scales, which is our
usual decoder. Changed: our trunk, and scales are the levels of our neck. Shared: trunk, neck, the
features of all scales and messages. Heads are a task's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from timm.layers.squeeze_excite import SEModule
from torch import Tensor, nn

from training.layers import ConvNorm, SeparableConv, upsample_to
from training.networks.base import MultiTaskNetwork
from training.networks.sharing.distillation import (
    DistilledOptions,
    Messages,
    dense_tasks,
    distilled_heads,
    features_of,
    stacked,
)
from training.networks.sharing.parts import Parts
from training.networks.trunk import STRIDES
from training.tasks import Features
from training.tasks.base import TaskFeatures
from training.tasks.decoders import FPN_DECODER


class Propagation(nn.Module):
    """Feature propagation module: the tasks' features of a scale -> what the finer one is told."""

    def __init__(self, tasks: Sequence[str], channels: int) -> None:
        """One common representation of `channels`."""
        super().__init__()
        self.tasks = tuple(tasks)
        self.weigh = nn.Sequential(
            ConvNorm(len(tasks) * channels, channels),
            nn.Conv2d(channels, len(tasks) * channels, 1),
        )
        self.take = nn.ModuleDict({task: SEModule(channels) for task in tasks})

    def forward(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """By task, of the same size."""
        together = torch.stack([maps[task] for task in self.tasks], dim=1)  # [B, T, C, H, W]
        share = self.weigh(stacked({t: maps[t] for t in self.tasks}))
        common = (share.view(together.shape).softmax(dim=1) * together).sum(1)
        return {task: maps[task] + self.take[task](common) for task in self.tasks}


class Scale(nn.Module):
    """Features of every task at one scale, and the messages between them."""

    def __init__(self, tasks: Sequence[str], channels: int, coarsest: bool) -> None:
        """The coarsest is told nothing."""
        super().__init__()
        inputs = channels if coarsest else 2 * channels
        self.own = nn.ModuleDict(
            {t: nn.Sequential(ConvNorm(inputs, channels), SeparableConv(channels, channels))
             for t in tasks}
        )  # fmt: skip
        self.messages = Messages(tasks, channels)

    def forward(self, level: Tensor, told: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A task's features of the level; told: by the coarser scale, by task."""
        found = {}
        for task, layers in self.own.items():
            read = [level, upsample_to(told[task], level)] if told else [level]
            found[task] = layers(torch.cat(read, dim=1))
        return found


class MTINet(MultiTaskNetwork):
    """Shared trunk and neck, scales, messages, heads."""

    def __init__(self, parts: Parts, options: DistilledOptions) -> None:
        """See `distillation.py`."""
        trunk = parts.trunk()
        heads = distilled_heads(
            parts, 'mti_net', trunk.channels, FPN_DECODER, len(STRIDES), options.first_weight
        )
        super().__init__(trunk, parts.neck(trunk.channels), parts.tasks, heads)
        dense, coarsest = dense_tasks(parts.tasks), len(STRIDES) - 1
        channels = parts.config.neck_channels
        scales = range(len(STRIDES)) if dense else ()
        self.scales = nn.ModuleList(Scale(dense, channels, i == coarsest) for i in scales)
        self.propagate = nn.ModuleList(Propagation(dense, channels) for _ in scales[1:])

    def features(self, image: Tensor) -> TaskFeatures:
        """From the coarsest scale to the finest."""
        levels = self.trunk(image)
        shared = Features(levels, self.neck(levels))
        last: dict[str, list[Tensor]] = {}
        first: dict[str, list[Tensor]] = {}
        told: dict[str, Tensor] = {}
        for i in reversed(range(len(self.scales))):
            found = self.scales[i](shared.neck[i], told)
            if i:
                told = self.propagate[i - 1](found)
            for task, x in self.scales[i].messages(found).items():  # type: ignore[operator]
                last.setdefault(task, []).insert(0, x)
                first.setdefault(task, []).insert(0, found[task])
        necks = {task: [*last[task], *first[task]] for task in last}
        return features_of(shared, necks, next(self.trunk.parameters()))
