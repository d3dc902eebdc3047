# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Accuracy and F1 of one label a frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.metrics.checks import check_kind, check_same_task
from mtl_evaluation.metrics.sums import (
    Figures,
    Floats,
    by_class,
    mean_of_known,
    plain,
    share,
)
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

    @staticmethod
    def figure_names(task: Task) -> Iterator[str]:
        """Names of all figures, the headline first."""
        yield from ('accuracy', 'macro_f1')
        yield from (f'f1/{name}' for name in task.classes)

    def counts(self) -> NDArray[np.int64]:
        """The confusion, row by row."""
        return self.confusion.ravel()

    @staticmethod
    def labelled(task: Task, counts: Floats) -> NDArray[np.bool_]:
        """Which classes the truth of each row of counts holds, [rows, classes]."""
        classes = len(task.classes)
        return np.asarray(counts.reshape(-1, classes, classes).sum(2) > 0)

    @staticmethod
    def figures(task: Task, sums: Floats) -> Figures:
        """Accuracy; macro_f1 over the classes in the truth; f1 by class, of each sum of counts."""
        classes = len(task.classes)
        confusion = sums.reshape(-1, classes, classes)
        right = np.einsum('nii->ni', confusion)
        labelled, predicted = confusion.sum(2), confusion.sum(1)
        f1 = np.where(labelled > 0, share(2 * right, labelled + predicted), np.nan)
        return {
            'accuracy': share(right.sum(1), labelled.sum(1)),
            'macro_f1': mean_of_known(f1),
            **{f'f1/{name}': f1[:, i] for i, name in enumerate(task.classes)},
        }

    def result(self) -> dict[str, Any]:
        """Figures so far, as `figures`; None for what the truth lacks."""
        figures = plain(self, self.task)
        return {
            'frames': self.frames,
            'accuracy': figures['accuracy'],
            'macro_f1': figures['macro_f1'],
            'f1': by_class(figures, 'f1', self.task.classes),
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
