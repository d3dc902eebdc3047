# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The same kind in training: a number from pooled features, by the absolute error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from mtl_perception.tasks import Task
from training.tasks.base import Features, Head
from training.tasks.kind import TaskKind
from training.tasks.targets import Counting, Targets, TaskTargets, ones


class GlowHead(Head):
    """Stride-32 trunk features -> brightness [B, 1]."""

    reads_neck = False

    def __init__(self, task: Task, trunk_channels: Sequence[int], neck_channels: int) -> None:
        super().__init__(task, trunk_channels, neck_channels)
        self.value = nn.Linear(trunk_channels[-1], 1)

    def forward(self, features: Features) -> Tensor:
        return self.value(features.trunk[-1].mean(dim=(2, 3))).sigmoid()

    def loss(self, outputs: Tensor, targets: TaskTargets) -> Tensor:
        wanted = Targets.pack(targets).values.to(outputs.device)
        return (outputs.float()[:, 0] - wanted).abs().sum()

    def counting(self) -> Counting:
        return ones

    def deploy(self, outputs: Tensor) -> dict[str, Tensor]:
        return {self.task.name: outputs.float()}

    def deployed_names(self) -> dict[str, tuple[str, int]]:
        return {self.task.name: ('brightness', 1)}


class GlowKind(TaskKind):
    """Labelled by an attribute of the image, a number from 0 to 1."""

    name = 'glow'
    head = GlowHead
    by_attribute = True

    def of_attribute(self, value: Any, task: Task) -> float:
        if not isinstance(value, float) or not 0 <= value <= 1:
            raise ValueError(f'{task.name} is {value!r}, expected a number from 0 to 1')
        return value


KIND = GlowKind()
