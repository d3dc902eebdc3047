# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""One trunk per task, run level by level, with something between them at every level.

What Cross-Stitch and NDDR have in common. Shared: the trunks and what is between them, because the
loss of each task reaches them all; the neck and head of a task are its own.
"""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from training.networks.base import MultiTaskNetwork
from training.networks.sharing.parts import OfTask, Parts
from training.networks.stages import StagedTrunk
from training.tasks import Features
from training.tasks.base import TaskFeatures


class Mix(nn.Module):
    """T maps [B, C, H, W] -> T maps of the same shape."""

    lr_factor = 1.0

    @abstractmethod
    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """One map a task."""


class Lockstep(MultiTaskNetwork):
    """T trunks; subclasses say what is between them."""

    trunk: nn.ModuleList

    def __init__(self, parts: Parts) -> None:
        """A trunk per task, and `make_mix` at each level."""
        trunks = [parts.stages() for _ in parts.tasks]
        channels = trunks[0].channels
        heads = {task.name: OfTask(parts.own(task, channels)) for task in parts.tasks}
        super().__init__(nn.ModuleList(trunks), nn.Identity(), parts.tasks, heads)
        self.mixes = nn.ModuleList(self.make_mix(c, len(trunks)) for c in channels)

    @abstractmethod
    def make_mix(self, channels: int, tasks: int) -> Mix:
        """What is between the trunks at a level."""

    def features(self, image: Tensor) -> TaskFeatures:
        """All trunks for all images: every task's features depend on every trunk."""
        trunks: list[StagedTrunk] = list(self.trunk)  # type: ignore[arg-type]
        maps = [trunk.start(image) for trunk in trunks]
        levels: list[list[Tensor]] = [[] for _ in trunks]
        for level, mix in enumerate(self.mixes):
            maps = mix([trunk.stages[level](x) for trunk, x in zip(trunks, maps, strict=True)])
            for own, x in zip(levels, maps, strict=True):
                own.append(x)
        pyramids = {t.name: Features(own, []) for t, own in zip(self.tasks, levels, strict=True)}

        def make(task: str, index: Tensor | None) -> Features:
            return pyramids[task] if index is None else pyramids[task].rows(index)

        return TaskFeatures(make, next(self.trunk.parameters()))
