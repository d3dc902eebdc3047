# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Accuracy metrics with one owner: training validates with them, replay and demo report them.

Each metric is a sum over frames: `update` adds one frame, `merge` adds another metric's frames, and
merging parts gives exactly the result of one pass, in whatever order. All scores are fractions in
[0, 1]; None means that the truth holds nothing to measure, which is not the same as 0. The kind of
a task says which it has (`mtl_evaluation.kinds`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from mtl_perception.decode import Thresholds
from mtl_perception.tasks import Task

THRESHOLDS = Thresholds(score=0.001, max_detections=300, across_iou=1.0)
"""What accuracy is measured with: the node's own score threshold would cut off the curve that
average precision is the area of."""


class Metric(Protocol):
    """What every metric has beside its `update`, whose arguments differ by kind."""

    task: Task

    @property
    def frames(self) -> int: ...  # noqa: D102

    def merge(self, other: Any) -> None:
        """Add another metric's frames; raises ValueError when its task differs."""

    def result(self) -> dict[str, Any]:
        """Figures so far, `frames` among them; None for what the truth lacks."""

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """For storage."""

    @classmethod
    def from_arrays(cls, task: Task, arrays: Mapping[str, NDArray[Any]]) -> Metric:
        """What `to_arrays` gave."""
