# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What every head offers: training outputs, a loss on the labelled rows, and a deployed form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mtl_perception.tasks import Task
from training.tasks.targets import Counting, Targets, TaskTargets


@dataclass(frozen=True)
class Features:
    """Shared features of a batch: lists over strides 4, 8, 16, 32 of [B, C, H/s, W/s]."""

    trunk: Sequence[Tensor]
    neck: Sequence[Tensor]

    def rows(self, index: Tensor) -> Features:
        """The features of some images of the batch; int64 [N]."""
        if len(index) == len(self.trunk[0]):
            return self
        return Features([f[index] for f in self.trunk], [f[index] for f in self.neck])

    def nothing(self) -> Tensor:
        """A zero whose gradient reaches what made the features; for a batch without any label."""
        levels = [self.trunk[-1], *self.neck[:1]]
        return 0.0 * torch.stack([level[-1:].float().sum() for level in levels]).sum()


@dataclass(frozen=True)
class TaskFeatures:
    """Features that differ by task, and are made when a head asks for its own.

    make: (task, rows int64 [N] or None for all) -> features. anchor: a parameter that they depend
    on.
    """

    make: Callable[[str, Tensor | None], Features]
    anchor: Tensor
    index: Tensor | None = None

    def rows(self, index: Tensor) -> TaskFeatures:
        """The features of some images of the batch; int64 [N]."""
        return TaskFeatures(self.make, self.anchor, index)

    def of(self, task: str) -> Features:
        """What the head of a task reads."""
        return self.make(task, self.index)

    def nothing(self) -> Tensor:
        """As of `Features`."""
        return 0.0 * self.anchor.float().sum()


class Head(nn.Module, ABC):
    """One task's head.

    Targets of a batch are a `Targets`, which the loader packs from one value per image, None where
    the image is not labelled for the task; a plain list of such values does as well.
    """

    reads_neck: bool = True
    """Whether the features' neck is read; False for heads on the trunk alone."""

    def __init__(self, task: Task, trunk_channels: Sequence[int], neck_channels: int) -> None:
        """Keep the task; subclasses add their layers."""
        super().__init__()
        self.task = task

    @abstractmethod
    def forward(self, features: Any) -> Any:
        """`Features`, or `TaskFeatures` -> training outputs, handed to `loss` or `deploy`."""

    @abstractmethod
    def loss(self, outputs: Any, targets: TaskTargets) -> Tensor:
        """Loss summed, not averaged, over the rows; one target per row, none of them None.

        Whatever the head adds up is counted in the unit of `normaliser`: the training loop divides
        the sums of all ranks and accumulated parts by the sum of their normalisers.
        """

    @abstractmethod
    def counting(self) -> Counting:
        """What summed losses are divided by, image by image: labelled pixels, truth boxes or 1.

        A function of the targets alone, and additive over them. So it is known before the forward
        pass, and one batch, its parts and its shares on several GPUs give the same mean. The
        loader's workers call it, in other processes: it holds numbers, no modules.
        """

    def normaliser(self, targets: TaskTargets) -> float:
        """The sum of `counting` over labelled images."""
        packed = Targets.pack(targets)
        if packed.amount is not None:
            return packed.amount
        return float(self.counting()(packed.values).sum()) if packed.rows else 0.0

    @abstractmethod
    def deploy(self, outputs: Any) -> dict[str, Tensor]:
        """Outputs of the deployed graph by tensor name."""

    @abstractmethod
    def deployed_names(self) -> dict[str, tuple[str, int]]:
        """Tensor name -> (one of `mtl_perception.kinds.meanings()`, stride in input pixels)."""
