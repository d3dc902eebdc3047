# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The tracks of a replay: made by the node's tracker, kept with the record of each frame.

What the tracker was given is kept too, so that an interrupted run resumes with the tracks it had.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_evaluation import kinds
from mtl_evaluation.metrics.tracking import TrackedFrame, TrackingMetric
from mtl_evaluation.truth.truth import Truth, class_ids
from mtl_perception.decode import Thresholds
from mtl_perception.frame import Detections, Result, Tracks
from mtl_perception.tasks import Task
from mtl_perception.tracking import Tracker

SHOWN = Thresholds()
"""Which detections the node publishes, and therefore tracks."""


@dataclass(frozen=True)
class FrameTracks:
    """One frame of one task.

    found: what the tracker was given. tracks: what it made of it. compared: with the truth, None
    where the truth has no identities.
    """

    found: Detections
    tracks: Tracks
    compared: TrackedFrame | None = None

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """For storage; `from_arrays` is the inverse."""
        arrays: dict[str, NDArray[Any]] = {
            'boxes': self.found.boxes, 'scores': self.found.scores, 'labels': self.found.labels,
            'rows': self.tracks.rows, 'ids': self.tracks.ids, 'classes': self.tracks.labels,
        }  # fmt: skip
        if self.compared is not None:
            arrays |= {f'truth.{key}': value for key, value in self.compared.to_arrays().items()}
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> FrameTracks:
        """What `to_arrays` gave."""
        found = Detections(arrays['boxes'], arrays['scores'], arrays['labels'])
        rows = arrays['rows']
        tracks = Tracks(
            found.boxes[rows], found.scores[rows], arrays['classes'], arrays['ids'], rows
        )
        truth = {key[6:]: value for key, value in arrays.items() if key.startswith('truth.')}
        return cls(found, tracks, TrackedFrame.from_arrays(truth) if truth else None)


class CameraTrackers:
    """The trackers of one camera, one per detection task."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        """Start from no frame."""
        self._tasks = {task.name: task for task in tasks if kinds.of(task).has_boxes}
        self._trackers = {name: Tracker(len(task.classes)) for name, task in self._tasks.items()}

    def update(
        self, stamp_ns: int, result: Result, truth: Truth, size: tuple[int, int]
    ) -> dict[str, FrameTracks]:
        """Track the next frame's detections; the tracks are put into `result`, too.

        size: width and height. Raises ValueError when the truth names a class that the task lacks,
        or an identity twice.
        """
        answers = {}
        for name, task in self._tasks.items():
            if name not in result.detections:
                continue
            found = _shown(result.detections[name])
            tracks = self._trackers[name].update(found, stamp_ns, size)
            result.tracks[name] = tracks
            answers[name] = FrameTracks(found, tracks, _compared(task, tracks, truth))
        return answers

    def resume(
        self, stamp_ns: int, frame: Mapping[str, FrameTracks], size: tuple[int, int]
    ) -> None:
        """Go through a frame that was tracked before an interruption."""
        for name, before in frame.items():
            self._trackers[name].update(before.found, stamp_ns, size)


def _shown(found: Detections) -> Detections:
    """A prefix: best score first, and weaker boxes suppress no stronger one."""
    count = min(int(np.count_nonzero(found.scores >= SHOWN.score)), SHOWN.max_detections)
    return Detections(found.boxes[:count], found.scores[:count], found.labels[:count])


def _compared(task: Task, tracks: Tracks, truth: Truth) -> TrackedFrame | None:
    boxes = truth.boxes
    if boxes is None or not boxes.has_identities:
        return None
    ids = boxes.ids or ('',) * len(boxes.classes)  # where all boxes are ignored
    return TrackedFrame.of(
        boxes.boxes, [_number(name) for name in ids], class_ids(task, boxes.classes),
        boxes.ignore, tracks.boxes, tracks.ids, tracks.labels,
    )  # fmt: skip


def _number(identity: str) -> int:
    """A number for a name: equal names, equal numbers, in every process."""
    digest = hashlib.blake2b(identity.encode(), digest_size=8).digest()
    return int.from_bytes(digest, 'little', signed=True)


class Sequences:
    """The frames of some sequences until they are whole, and what they are worth then."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        """Start from no frame."""
        self._tasks = [task for task in tasks if kinds.of(task).has_boxes]
        self._frames: dict[tuple[str, str], list[TrackedFrame]] = {}
        """By task and sequence."""

    def add(self, sequence: str, tracks: Mapping[str, FrameTracks]) -> None:
        """Append a frame: what is known of it by task."""
        for name, frame in tracks.items():
            if frame.compared is not None:
                self._frames.setdefault((name, sequence), []).append(frame.compared)

    def metrics(self) -> dict[str, TrackingMetric]:
        """By task, of every sequence in which the truth follows an object."""
        found = {task.name: TrackingMetric(task) for task in self._tasks}
        for (name, sequence), frames in self._frames.items():
            if any(len(frame.truth_ids) for frame in frames):
                found[name].update(sequence, frames)
        return {name: metric for name, metric in found.items() if metric.sequences}
