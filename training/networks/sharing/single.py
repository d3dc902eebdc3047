# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""One network per task: the single-task baselines side by side, with nothing shared.

Each task has trunk, neck and head of its own, which run for the images that it labels. Shared:
nothing, so no balancing of gradients applies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from training.networks.base import MultiTaskNetwork
from training.networks.sharing.parts import Parts
from training.networks.trunk import Trunk
from training.tasks import Features, Head
from training.tasks.base import TaskFeatures
from training.tasks.wrapped import WrappedHead


@dataclass(frozen=True)
class SingleOptions:
    """None."""


class Whole(WrappedHead):
    """Trunk, neck and head of one task."""

    def __init__(self, trunk: Trunk, head: Head) -> None:
        """head: with its neck."""
        super().__init__(head)
        self.trunk = trunk

    def forward(self, features: TaskFeatures) -> Any:
        """Take the image."""
        (image,) = features.of(self.task.name).trunk
        return self.head(Features(self.trunk(image), []))


class Single(MultiTaskNetwork):
    """As many networks as tasks."""

    def __init__(self, parts: Parts, options: SingleOptions) -> None:
        """Build them one after another."""
        heads: dict[str, Head] = {}
        for task in parts.tasks:
            trunk = parts.trunk()
            heads[task.name] = Whole(trunk, parts.own(task, trunk.channels))
        super().__init__(nn.Identity(), nn.Identity(), parts.tasks, heads)

    def features(self, image: Tensor) -> TaskFeatures:
        """The image itself."""

        def make(task: str, index: Tensor | None) -> Features:
            return Features([image if index is None else image[index]], [])

        return TaskFeatures(make, next(self.parameters(), torch.zeros(())))
