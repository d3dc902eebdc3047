# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Accuracy metrics with one owner: training validates with them, replay and demo report them.

Each metric is a sum over frames: `update` adds one frame, `merge` adds another metric's frames, and
merging parts gives exactly the result of one pass, in whatever order. All scores are fractions in
[0, 1]; None means that the truth holds nothing to measure, which is not the same as 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from numpy.typing import NDArray

from mtl_evaluation.metrics.classification import ClassificationMetric
from mtl_evaluation.metrics.depth import DepthMetric
from mtl_evaluation.metrics.detection import DetectionMetric, DetectionTable
from mtl_evaluation.metrics.normals import NormalsMetric
from mtl_evaluation.metrics.segmentation import SegmentationMetric
from mtl_evaluation.metrics.sums import SumTable
from mtl_perception.decode import Thresholds
from mtl_perception.tasks import Task

THRESHOLDS = Thresholds(score=0.001, max_detections=300, across_iou=1.0)
"""What accuracy is measured with: the node's own score threshold would cut off the curve that
average precision is the area of."""


Metric: TypeAlias = (
    SegmentationMetric | DetectionMetric | ClassificationMetric | DepthMetric | NormalsMetric
)

_METRICS: dict[str, type[Metric]] = {
    'segmentation': SegmentationMetric,
    'detection': DetectionMetric,
    'classification': ClassificationMetric,
    'depth': DepthMetric,
    'normals': NormalsMetric,
}

_TABLED: dict[str, type[SegmentationMetric | DetectionMetric | ClassificationMetric]] = {
    'segmentation': SegmentationMetric,
    'detection': DetectionMetric,
    'classification': ClassificationMetric,
}


def metric_for(task: Task) -> Metric:
    """The metric of the task's kind from no frame."""
    return _METRICS[task.kind](task)


def metric_from(task: Task, arrays: Mapping[str, NDArray[Any]]) -> Metric:
    """The metric whose `to_arrays` gave these."""
    return _METRICS[task.kind].from_arrays(task, arrays)


def table_for(task: Task) -> SumTable | DetectionTable | None:
    """An empty table for the task's frames, one by one; None for a kind that has none yet."""
    kind = _TABLED.get(task.kind)
    return kind.table(task) if kind else None


def figure_names(task: Task) -> Iterator[str]:
    """Names of all figures of a task's table, the headline first."""
    kind = _TABLED.get(task.kind)
    if kind:
        yield from kind.figure_names(task)
