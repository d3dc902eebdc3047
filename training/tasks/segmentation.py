# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Semantic segmentation (drivable area, lanes, 19-class mask).

Head: a decoder (`decoders.py`) and a 1x1 classifier.

Target: uint8 [H, W] at input size. A value below the class count is a class, 255 is unlabelled, and
`len(classes) + g` says only that the pixel is of one of the classes of `GROUPS[task][g]`: data sets
with coarser labels (one road class, seven super-classes) then train the fine task without inventing
labels. The losses (`mask_loss.py`) take such sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_perception.tasks import DRIVABLE, SEMANTIC, Task
from training.layers import ConvNorm
from training.tasks.base import Features, Head
from training.tasks.decoders import FINEST, Decoding, check_decoder
from training.tasks.kind import TaskKind
from training.tasks.mask_loss import MaskLossConfig, amounts, at_loss_stride, mask_loss
from training.tasks.targets import Counting, TaskTargets

if TYPE_CHECKING:
    from training.data.sample import Sample

NEVER = 8.0
"""By how much the logit of a class that is not to be said stays below one that is."""

COARSE7 = (
    (0,), (1, 9), (11, 12), (13, 14, 15, 16, 17, 18), (3, 4, 5, 6, 7), (2, 8), (10,),
)  # fmt: skip
"""IDD-Lite's seven super-classes as sets of the 19 ids."""

UNDRIVABLE = tuple(range(1, 11))
MOVABLE = tuple(range(11, 19))
"""Two colours of comma10k as sets of the 19 ids: what neither moves nor is road, and what moves."""

GROUPS: dict[str, tuple[tuple[int, ...], ...]] = {
    DRIVABLE.name: ((0, 1),),
    SEMANTIC.name: (*COARSE7, UNDRIVABLE, MOVABLE),
}


@dataclass
class SegmentationConfig(MaskLossConfig):
    """decoder: fpn (ours), or one of `decoders.DECODERS`; the rest as in `MaskLossConfig`."""

    decoder: str = 'fpn'

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        check_decoder('segmentation', self.decoder)


class MaskOutputs(NamedTuple):
    """logits [B, C, H/s, W/s]; auxiliary: the same, coarser, in training with deep supervision."""

    logits: Tensor
    auxiliary: Tensor | None = None


class MaskHead(Head):
    """Loss and deployed form of class masks; subclasses make `MaskOutputs`."""

    stride = FINEST
    """Input pixels per cell of the logits."""
    one_road = False
    """Whether the deployed head says `direct` for all of the road, `alternative` for none."""
    members: Tensor

    def __init__(
        self, task: Task, trunk_channels: Sequence[int], neck_channels: int, loss: MaskLossConfig
    ) -> None:
        """Keep the class sets that the task's labels may name."""
        super().__init__(task, trunk_channels, neck_channels)
        self.loss_config = loss
        groups = GROUPS.get(task.name, ())
        members = torch.zeros(len(groups), len(task.classes), dtype=torch.bool)
        for row, group in enumerate(groups):
            members[row, list(group)] = True
        self.register_buffer('members', members, persistent=False)

    def loss(self, outputs: MaskOutputs, targets: TaskTargets) -> Tensor:
        """Sum over labelled pixels, at the loss's resolution."""
        target = at_loss_stride(targets).to(outputs.logits.device).long()
        total = mask_loss(outputs.logits, target, self.members, self.loss_config)
        if outputs.auxiliary is not None:
            further = mask_loss(outputs.auxiliary, target, self.members, self.loss_config)
            total = total + self.loss_config.auxiliary * further
        return total

    def counting(self) -> Counting:
        """Labelled pixels, at the loss's resolution, as the configuration counts them."""
        return partial(_counted_pixels, config=self.loss_config)

    def deploy(self, outputs: MaskOutputs) -> dict[str, Tensor]:
        """Logits float32 [B, C, H/s, W/s]; `decode/masks.py` upsamples and takes the argmax."""
        logits = outputs.logits.float()
        if self.one_road:
            direct, alternative, rest = logits.split((1, 1, logits.shape[1] - 2), dim=1)
            road = direct + F.softplus(alternative - direct)  # the log of the sum of their powers
            logits = torch.cat((road, road - NEVER, rest), dim=1)
        return {self.task.name: logits}

    def deployed_names(self) -> dict[str, tuple[str, int]]:
        """One logits tensor, named as the task."""
        return {self.task.name: ('logits', self.stride)}


def _counted_pixels(values: Tensor, config: MaskLossConfig) -> Tensor:
    return amounts(at_loss_stride(values).long(), config)


class SegmentationHead(Decoding, MaskHead):
    """Neck levels, or trunk levels for the other decoders -> logits at the decoder's stride."""

    def __init__(
        self,
        task: Task,
        trunk_channels: Sequence[int],
        neck_channels: int,
        config: SegmentationConfig | None = None,
    ) -> None:
        """A decoder and a 1x1 classifier."""
        config = config or SegmentationConfig()
        super().__init__(task, trunk_channels, neck_channels, config)
        channels = self.make_decoder(config.decoder, trunk_channels, neck_channels)
        self.logits = nn.Conv2d(channels, len(task.classes), 1)
        if config.auxiliary:
            self.auxiliary = nn.Sequential(
                ConvNorm(trunk_channels[-2], neck_channels, 3),
                nn.Conv2d(neck_channels, len(task.classes), 1),
            )

    def forward(self, features: Features) -> MaskOutputs:
        """Decode and classify."""
        decoded = self.decode(features)
        auxiliary = None
        if self.training and self.loss_config.auxiliary:
            auxiliary = self.auxiliary(features.trunk[-2])
        return MaskOutputs(self.logits(decoded), auxiliary)


class SegmentationKind(TaskKind):
    """Masks of class ids and class sets."""

    name = 'segmentation'
    head = SegmentationHead
    label_bytes = 1
    is_dense = True

    def label(self, sample: Sample, task: Task) -> Any:
        """Its mask."""
        return sample.masks.get(task.name)


KIND = SegmentationKind()
