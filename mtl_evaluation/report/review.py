# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""One pass over a run for what its page shows beside the figures: curves, confusions, worst frames.

Nothing of a frame stays but its row of counts, its matches (29 bytes per detection), and how wrong
it was at each task.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_evaluation import kinds
from mtl_evaluation.kinds import Flaw
from mtl_evaluation.metrics.curves import Curve
from mtl_evaluation.report.worst import Worst
from mtl_evaluation.runs.run import FrameRecord, Run
from mtl_perception.tasks import Task


@dataclass
class TaskReview:
    """What one pass gave for one task.

    table: its frames one by one, as of its kind. confusion: int64 by [truth, prediction], of what
    the kind counts; None for kinds without classes, and while no frame is measured. seconds, flaws:
    how wrong every frame was, by bag and camera.
    """

    task: Task
    table: Any
    worst: Worst
    confusion: NDArray[np.int64] | None = None
    seconds: dict[str, array[float]] = field(default_factory=dict)
    flaws: dict[str, array[float]] = field(default_factory=dict)

    def curves(self) -> dict[str, Curve]:
        """Class -> recall and best precision there or above [101], at IoU 0.5."""
        return kinds.of(self.task).curves(self.table)

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
        kind = kinds.of(self.task)
        self.table.add(piece)
        confusion = kind.confusion(piece)
        if confusion is not None:
            self.confusion = confusion if self.confusion is None else self.confusion + confusion
        found = kind.flaw(piece)
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
    """Look over every record once; by task."""
    reviews = {
        task.name: TaskReview(task, kinds.of(task).table(task), Worst(task)) for task in run.tasks
    }
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
