"""Accuracy and F1 of one label a frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.metrics.checks import check_kind, check_same_task, mean_of_known
from mtl_perception.tasks import Task


class ClassificationMetric:
    """Confusion of one classification task; a frame without a label is not added."""

    def __init__(self, task: Task) -> None:
        """Start from no frame; raises ValueError when the task is not a classification task."""
        check_kind(task, 'classification')
        self.task = task
        self.confusion: NDArray[np.int64] = np.zeros((len(task.classes),) * 2, np.int64)
        """Frames by [truth, prediction]."""

    @property
    def frames(self) -> int:
        """Frames so far."""
        return int(self.confusion.sum())

    def update(self, prediction: int, truth: int) -> None:
        """Add one frame by class ids; raises ValueError on an id that is no class of the task."""
        for name, label in (('prediction', prediction), ('truth', truth)):
            if not 0 <= label < len(self.task.classes):
                raise ValueError(
                    f'{self.task.name} {name} is {label}, '
                    f'expected 0 to {len(self.task.classes) - 1}'
                )
        self.confusion[truth, prediction] += 1

    def merge(self, other: ClassificationMetric) -> None:
        """Add another metric's frames; raises ValueError when its task differs."""
        check_same_task(self.task, other.task)
        self.confusion += other.confusion

    def result(self) -> dict[str, Any]:
        """Accuracy; macro_f1 over the classes in the truth; f1 by class (None when absent)."""
        truth = self.confusion.sum(1)
        either = truth + self.confusion.sum(0)
        f1 = [
            float(2 * self.confusion[i, i] / either[i]) if truth[i] else None
            for i in range(len(truth))
        ]
        return {
            'frames': self.frames,
            'accuracy': float(np.trace(self.confusion) / truth.sum()) if truth.any() else None,
            'macro_f1': mean_of_known(f1),
            'f1': dict(zip(self.task.classes, f1, strict=True)),
        }

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """For storage; `from_arrays` is the inverse."""
        return {'confusion': self.confusion}

    @classmethod
    def from_arrays(cls, task: Task, arrays: Mapping[str, NDArray[Any]]) -> ClassificationMetric:
        """What `to_arrays` gave."""
        metric = cls(task)
        metric.confusion = arrays['confusion']
        return metric
