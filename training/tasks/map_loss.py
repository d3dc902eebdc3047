# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What depth and normals have in common: a map of numbers whose labels have holes.

Losses are summed over the labelled pixels at half resolution, as masks are, and divided by their
number.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn

from mtl_perception.tasks import Task
from training.tasks.base import Features, Head
from training.tasks.decoders import Decoding
from training.tasks.mask_loss import at_labels, at_loss_stride
from training.tasks.targets import Counting, TaskTargets


class MapHead(Decoding, Head):
    """A decoder and a 1x1 convolution to `channels` numbers per cell."""

    def __init__(
        self,
        task: Task,
        trunk_channels: Sequence[int],
        neck_channels: int,
        decoder: str,
        channels: int,
    ) -> None:
        """decoder: a name of `decoders.py`."""
        super().__init__(task, trunk_channels, neck_channels)
        width = self.make_decoder(decoder, trunk_channels, neck_channels)
        self.values = nn.Conv2d(width, channels, 1)

    def forward(self, features: Features) -> Tensor:
        """Decode: [B, channels, H / stride, W / stride]."""
        return self.values(self.decode(features))

    def loss(self, outputs: Tensor, targets: TaskTargets) -> Tensor:
        """Sum over the labelled pixels, at the loss's resolution."""
        target = at_loss_stride(targets).to(outputs.device)
        found = at_labels(outputs, target.shape[1:3])
        return self.errors(found.movedim(1, -1), target).where(self.known(target), 0).sum()

    def counting(self) -> Counting:
        """Labelled pixels, at the loss's resolution."""
        return partial(_known_pixels, known=type(self).known)

    @staticmethod
    @abstractmethod
    def known(target: Tensor) -> Tensor:
        """Which pixels are labelled: bool [B, h, w]."""

    @abstractmethod
    def errors(self, found: Tensor, target: Tensor) -> Tensor:
        """Loss of each pixel [B, h, w], finite in the unlabelled too; found [B, h, w, channels]."""


def _known_pixels(values: Tensor, known: Callable[[Tensor], Tensor]) -> Tensor:
    return known(at_loss_stride(values)).sum((1, 2)).float()
