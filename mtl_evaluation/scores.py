# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""One metric per task, fed with results and truth."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mtl_evaluation import kinds
from mtl_evaluation.metrics.metrics import Metric
from mtl_evaluation.truth.truth import Truth
from mtl_perception.frame import Result
from mtl_perception.tasks import Task


class Scores:
    """One metric per task over the frames that have both a prediction and a truth for it."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        """A metric for every task."""
        self.metrics: dict[str, Metric] = kinds.new_metrics(tasks)

    def update(self, frame: str, result: Result, truth: Truth, size: tuple[int, int]) -> None:
        """Add one frame; `size` is its width and height.

        Raises ValueError when the truth names classes, or holds ids, that the task does not have.
        """
        for name, metric in self.metrics.items():
            kind = kinds.of(metric.task)
            answer, expected = result.answers.get(name), kind.truth(truth, metric.task)
            if answer is not None and expected is not None:
                kind.measure(metric, frame, answer, expected, size)

    def merge(self, other: Scores) -> None:
        """Add another bag's frames; raises ValueError when tasks differ."""
        if self.metrics.keys() != other.metrics.keys():
            raise ValueError(f'tasks differ: {sorted(self.metrics)} and {sorted(other.metrics)}')
        for name, metric in self.metrics.items():
            metric.merge(other.metrics[name])

    def result(self) -> dict[str, dict[str, Any]]:
        """By task: `kind` and the metric's result; `frames` 0 where nothing was measured."""
        return {
            name: {'kind': metric.task.kind, **metric.result()}
            for name, metric in self.metrics.items()
        }
