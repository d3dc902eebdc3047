# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""One pass over a run for what its page shows beside the figures: curves, confusions, worst frames.

Nothing of a frame stays but matches (29 bytes per detection) and how wrong it was at each task.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.metrics.average_precision import MatchTable
from mtl_evaluation.metrics.classification import ClassificationMetric
from mtl_evaluation.metrics.curves import Curve, detection_confusion, precision_recall
from mtl_evaluation.metrics.detection import DetectionMetric
from mtl_evaluation.metrics.flaws import Flaw, flaw
from mtl_evaluation.metrics.segmentation import SegmentationMetric
from mtl_evaluation.report.worst import Worst
from mtl_evaluation.runs.run import FrameRecord, Run
from mtl_perception.tasks import Task


@dataclass
class TaskReview:
    """What one pass gave for one task.

    confusion: int64 by [truth, prediction], frames or pixels or (with a last row and column for
    background) boxes. seconds, flaws: how wrong every frame was, by bag and camera.
    """

    task: Task
    confusion: NDArray[np.int64]
    worst: Worst
    matches: MatchTable | None = None
    seconds: dict[str, array[float]] = field(default_factory=dict)
    flaws: dict[str, array[float]] = field(default_factory=dict)

    def curves(self) -> dict[str, Curve]:
        """Class -> recall and best precision there or above [101], at IoU 0.5."""
        if self.matches is None or not self.matches.keys:
            return {}
        return precision_recall(self.matches.ranked())

    def over_time(self) -> dict[str, Curve]:
        """Bag (and camera) -> seconds since its first frame, and how wrong each frame was."""
        return {
            place: (np.array(self.seconds[place]), np.array(flaws))
            for place, flaws in self.flaws.items()
        }

    def add(self, record: FrameRecord, start_ns: int) -> None:
        """Add a frame, if the task was measured there."""
        piece = record.pieces.get(self.task.name)
        if piece is None:
            return
        if isinstance(piece, DetectionMetric):
            assert self.matches is not None
            self.confusion += detection_confusion(piece)
            for key, image in piece.images.items():
                self.matches.add(key, image)
        elif isinstance(piece, SegmentationMetric | ClassificationMetric):
            self.confusion += piece.confusion
        found = flaw(piece)
        self.worst.add(record, found)
        place = f'{record.bag} {record.camera}'.strip()
        self.seconds.setdefault(place, array('d')).append((record.stamp_ns - start_ns) / 1e9)
        self.flaws.setdefault(place, array('d')).append(found.badness)


@dataclass(frozen=True)
class Shown:
    """A frame of a gallery and how wrong it is."""

    record: FrameRecord
    flaw: Flaw


def review(run: Run) -> dict[str, TaskReview]:
    """Look over every record once; by task, of tasks that have a metric."""
    reviews = {task.name: made for task in run.tasks if (made := _empty(task))}
    starts: dict[str, int] = {}
    for record in run.records():
        start = starts.setdefault(record.bag, record.stamp_ns)
        for of in reviews.values():
            of.add(record, start)
    return reviews


def galleries(run: Run, reviews: Mapping[str, TaskReview]) -> dict[str, list[Shown]]:
    """By task the worst frames, worst first; read from the run again."""
    chosen = {name: of.worst.frames() for name, of in reviews.items()}
    records = records_of(run, {key for frames in chosen.values() for key, _ in frames})
    return {
        name: [Shown(records[key], found) for key, found in frames]
        for name, frames in chosen.items()
        if frames
    }


def records_of(run: Run, keys: Collection[str]) -> dict[str, FrameRecord]:
    """The records of some frames, in the order of the run."""
    return {record.key: record for record in run.records() if record.key in keys}


def _empty(task: Task) -> TaskReview | None:
    classes = len(task.classes)
    if task.kind == 'detection':
        confusion = np.zeros((classes + 1, classes + 1), np.int64)
        return TaskReview(task, confusion, Worst(task), MatchTable(task.classes))
    if task.kind in ('segmentation', 'classification'):
        return TaskReview(task, np.zeros((classes, classes), np.int64), Worst(task))
    return None
