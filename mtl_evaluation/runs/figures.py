# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Every figure of a run, made of its records in one pass that holds no picture and no box.

What grows with the run: 29 bytes per detection that is scored (`MatchTable`), thrice while they are
ranked, and per frame its name, its times and which groups it belongs to, some 200 bytes together.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from mtl_evaluation import kinds
from mtl_evaluation.accuracy import note
from mtl_evaluation.metrics.average_precision import ScoredImage
from mtl_evaluation.metrics.box_faults import PublishedBoxes
from mtl_evaluation.metrics.gathered import Results
from mtl_evaluation.metrics.road import RoadRecall
from mtl_evaluation.metrics.temporal import Stability
from mtl_evaluation.metrics.tracking import TrackingMetric
from mtl_evaluation.runs.part import FrameRecord
from mtl_evaluation.runs.run import Run, answers_hash
from mtl_evaluation.runs.tracks import Sequences
from mtl_perception.geometry import Mount
from mtl_perception.tasks import Task

CAMERA = 'camera'
"""Where a run has several cameras, each is a slice `camera=<topic>`."""


def figures(run: Run, mount: Mount | None = None) -> dict[str, Any]:
    """What `run.json` says about the records; `mount` is needed for recall by distance.

    frames: processed and labelled. accuracy: by task, `kind` and the metric's result. slices:
    `weather=rainy` -> the same over these frames. bags: name, frames, cameras and accuracy of each.
    published: by detection task, right and wrong boxes of those that the node would publish
    (`box_faults.py`). road: recall by box height and distance (`road.py`). temporal: by task
    (`temporal.py`).
    tracking: by detection task, over all and of each bag, where the truth has identities.
    stages_ms: min, p50, p99 and mean of each stage. answers_sha256: over all answers in order.
    """
    whole: _Frames | None = None
    stability = Stability()
    times: dict[str, array[float]] = defaultdict(lambda: array('d'))
    digests: list[str] = []
    boxed = [task for task in run.tasks if kinds.of(task).has_boxes]
    road = {task.name: RoadRecall(task.classes, mount) for task in boxed}
    published = {task.name: PublishedBoxes(task) for task in boxed}
    tracking: dict[str, TrackingMetric] = {}
    bags = []
    for bag in run.bags:
        of_bag = _Frames(run.tasks)
        sequences = Sequences(run.tasks)
        for record in run.records([bag]):
            of_bag.add(record, road, published)
            digests.append(record.digest)
            for name, value in record.timings_ms.items():
                times[name].append(value)
            if record.stability is not None:
                stability.merge(record.stability)
            sequences.add(f'{record.bag}{record.camera}', record.tracks)
        of_tracks = sequences.metrics()
        for name, metric in of_tracks.items():
            tracking.setdefault(name, TrackingMetric(metric.task)).merge(metric)
        bags.append(
            {
                'name': bag,
                'frames': of_bag.count,
                'labelled': of_bag.labelled,
                'cameras': sorted(of_bag.cameras),
                'accuracy': of_bag.results()[0],
                'tracking': _results(of_tracks),
            }
        )
        if whole is None:
            whole = of_bag
        else:
            whole.extend(of_bag)
    whole = whole or _Frames(run.tasks)
    accuracy, slices = whole.results(whole.slices())
    origins = {bag.get('kind') for bag in run.summary['bags']}
    return {
        'frames': {'processed': whole.count, 'labelled': whole.labelled},
        'answers_sha256': answers_hash(digests),
        'stages_ms': {
            name: {
                'min': min(values),
                'p50': rank(values, 50),
                'p99': rank(values, 99),
                'mean': float(np.mean(values)),
            }
            for name, values in times.items()
        },
        'accuracy': accuracy,
        'accuracy_note': note('generated' if 'generated' in origins else 'bag', accuracy),
        'slices': slices,
        'bags': bags,
        'published': {name: boxes.result() for name, boxes in published.items()},
        'road': {name: recall.result() for name, recall in road.items()},
        'temporal': stability.result(),
        'tracking': _results(tracking),
    }


def _results(metrics: Mapping[str, TrackingMetric]) -> dict[str, Any]:
    return {name: metric.result() for name, metric in metrics.items()}


def rank(values: array[float], percent: int) -> float:
    """A percentile."""
    return float(np.percentile(values, percent))


class _Frames:
    """Sums over some frames and over each slice of them."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._tasks = tuple(tasks)
        self.count = self.labelled = 0
        self.cameras: set[str] = set()
        self._gathered = {task.name: kinds.of(task).gathered(task) for task in self._tasks}

    def add(
        self,
        record: FrameRecord,
        road: Mapping[str, RoadRecall],
        published: Mapping[str, PublishedBoxes],
    ) -> None:
        self.count += 1
        self.labelled += bool(record.pieces)
        self.cameras.add(record.camera)
        groups = [f'{name}={value}' for name, value in record.slices.items()]
        groups.append(f'{CAMERA}={record.camera}')
        for task, piece in record.pieces.items():
            self._gathered[task].add(piece, groups)
            if task in road:
                for image in piece.images.values():  # type: ignore[attr-defined]
                    _add_places(road[task], image, record)
                    published[task].add(image)

    def extend(self, other: _Frames) -> None:
        """Add the frames of another bag."""
        self.count += other.count
        self.labelled += other.labelled
        self.cameras |= other.cameras
        for name, gathered in self._gathered.items():
            gathered.extend(other._gathered[name])

    def slices(self) -> list[str]:
        """Names of the slices, those of cameras only where there are several."""
        groups = {name for gathered in self._gathered.values() for name in gathered.slices()}
        if len(self.cameras) < 2:
            groups = {group for group in groups if not group.startswith(f'{CAMERA}=')}
        return sorted(groups)

    def results(self, slices: Collection[str] = ()) -> Results:
        """By task in the order of the tasks, `frames` 0 where nothing was measured.

        And the same by slice, of the tasks that are measured in it.
        """
        whole: dict[str, Any] = {}
        by_slice: dict[str, dict[str, Any]] = {name: {} for name in slices}
        for task in self._tasks:
            of_all, of_slices = self._gathered[task.name].results(slices)
            whole[task.name] = {'kind': task.kind, **of_all}
            for name, result in of_slices.items():
                if result['frames']:
                    by_slice[name][task.name] = {'kind': task.kind, **result}
        return whole, by_slice


def _add_places(road: RoadRecall, image: ScoredImage, record: FrameRecord) -> None:
    places = record.places
    road.add(
        image,
        record.camera_model,
        None if places is None else places.mount,
        None if places is None else places.feet[:, 0],
    )
