# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""One metric per task, fed with results and truth."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mtl_evaluation.metrics.classification import ClassificationMetric
from mtl_evaluation.metrics.depth import DepthMetric
from mtl_evaluation.metrics.detection import DetectionMetric
from mtl_evaluation.metrics.metrics import Metric, metric_for
from mtl_evaluation.metrics.normals import NormalsMetric
from mtl_evaluation.metrics.segmentation import SegmentationMetric
from mtl_evaluation.truth.truth import Truth, class_ids, same_size
from mtl_perception.frame import Result
from mtl_perception.tasks import Task


class Scores:
    """One metric per task over the frames that have both a prediction and a truth for it."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        """A metric for every task."""
        self.metrics: dict[str, Metric] = {task.name: metric_for(task) for task in tasks}

    def update(self, frame: str, result: Result, truth: Truth, size: tuple[int, int]) -> None:
        """Add one frame; `size` is its width and height.

        Raises ValueError when the truth names classes, or holds ids, that the task does not have.
        """
        for name, metric in self.metrics.items():
            if isinstance(metric, DetectionMetric):
                found = result.detections.get(name)
                if found is not None and truth.boxes is not None:
                    labels = class_ids(metric.task, truth.boxes.classes)
                    metric.update(
                        frame, found, truth.boxes.boxes, labels, truth.boxes.ignore,
                        width=size[0], height=size[1],
                    )  # fmt: skip
            elif isinstance(metric, SegmentationMetric):
                mask, expected = result.masks.get(name), truth.masks.get(name)
                if mask is not None and expected is not None:
                    metric.update(mask, same_size(expected, mask))
            elif isinstance(metric, DepthMetric | NormalsMetric):
                values, wanted = result.maps.get(name), truth.maps.get(name)
                if values is not None and wanted is not None:
                    metric.update(values, same_size(wanted, values))
            elif isinstance(metric, ClassificationMetric):
                found_class, expected_name = result.probabilities.get(name), truth.labels.get(name)
                if found_class is not None and expected_name is not None:
                    label = class_ids(metric.task, (expected_name,))[0]
                    metric.update(int(found_class.argmax()), label)

    def merge(self, other: Scores) -> None:
        """Add another bag's frames; raises ValueError when tasks differ."""
        if self.metrics.keys() != other.metrics.keys():
            raise ValueError(f'tasks differ: {sorted(self.metrics)} and {sorted(other.metrics)}')
        for name, metric in self.metrics.items():
            metric.merge(other.metrics[name])  # type: ignore[arg-type]

    def result(self) -> dict[str, dict[str, Any]]:
        """By task: `kind` and the metric's result; `frames` 0 where nothing was measured."""
        return {
            name: {'kind': metric.task.kind, **metric.result()}
            for name, metric in self.metrics.items()
        }
