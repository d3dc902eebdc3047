# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Classification of the whole frame (weather, scene, time of day) from pooled trunk features.

Target: class id (int). Loss: cross-entropy with label smoothing (Szegedy et al., CVPR 2016).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import functional as F

from mtl_perception.tasks import Task
from training.tasks.base import Features, Head
from training.tasks.kind import TaskKind
from training.tasks.targets import Counting, Targets, TaskTargets, ones

if TYPE_CHECKING:
    from training.data.sample import Sample


class ClassificationHead(Head):
    """Stride-32 trunk features -> logits [B, C]."""

    reads_neck = False

    def __init__(self, task: Task, trunk_channels: Sequence[int], neck_channels: int) -> None:
        """One linear layer on globally pooled features."""
        super().__init__(task, trunk_channels, neck_channels)
        self.dropout = nn.Dropout(0.1)
        self.logits = nn.Linear(trunk_channels[-1], len(task.classes))

    def forward(self, features: Features) -> Tensor:
        """Pool, drop out, classify."""
        return self.logits(self.dropout(features.trunk[-1].mean(dim=(2, 3))))

    def loss(self, outputs: Tensor, targets: TaskTargets) -> Tensor:
        """Sum over the labelled images."""
        target = Targets.pack(targets).values.to(outputs.device)
        return F.cross_entropy(outputs.float(), target, label_smoothing=0.1, reduction='sum')

    def counting(self) -> Counting:
        """Labelled images."""
        return ones

    def deploy(self, outputs: Tensor) -> dict[str, Tensor]:
        """Probabilities float32 [B, C]."""
        return {self.task.name: outputs.float().softmax(dim=1)}

    def deployed_names(self) -> dict[str, tuple[str, int]]:
        """One probability vector, named as the task."""
        return {self.task.name: ('probabilities', 1)}


class ClassificationKind(TaskKind):
    """Class ids."""

    name = 'classification'
    head = ClassificationHead
    by_attribute = True

    def label(self, sample: Sample, task: Task) -> Any:
        """Its class id."""
        return sample.classes.get(task.name)

    def of_attribute(self, value: Any, task: Task) -> int:
        """The id of a class name."""
        if value not in task.classes:
            raise ValueError(
                f'{task.name} is {value!r}, expected one of {list(task.classes)}, or `undefined`'
            )
        return task.classes.index(value)

    def truth(self, label: int, task: Task) -> str:
        """The name of the class."""
        return task.classes[label]


KIND = ClassificationKind()
