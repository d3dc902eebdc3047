# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Every figure of a run, made of its records in one pass that holds no picture and no box.

What grows with the run: 29 bytes per detection that is scored (`MatchTable`), thrice while they are
ranked, and per frame its name, its times and which groups it belongs to, some 200 bytes together.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.metrics.accuracy import note
from mtl_evaluation.metrics.average_precision import MatchTable, Ranking
from mtl_evaluation.metrics.box_faults import PublishedBoxes
from mtl_evaluation.metrics.detection import DetectionMetric
from mtl_evaluation.metrics.metrics import Metric
from mtl_evaluation.metrics.road import RoadRecall
from mtl_evaluation.metrics.temporal import Stability
from mtl_evaluation.metrics.tracking import TrackingMetric
from mtl_evaluation.runs.part import FrameRecord
from mtl_evaluation.runs.run import Run, answers_hash, new_metrics
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
    road = {
        task.name: RoadRecall(task.classes, mount) for task in run.tasks if task.kind == 'detection'
    }
    published = {t.name: PublishedBoxes(t) for t in run.tasks if t.kind == 'detection'}
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
                'accuracy': of_bag.accuracy(of_bag.ranked()),
                'tracking': _results(of_tracks),
            }
        )
        if whole is None:
            whole = of_bag
        else:
            whole.extend(of_bag)
    whole = whole or _Frames(run.tasks)
    rankings = whole.ranked()
    accuracy = whole.accuracy(rankings)
    kinds = {bag.get('kind') for bag in run.summary['bags']}
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
        'accuracy_note': note('generated' if 'generated' in kinds else 'bag', accuracy),
        'slices': whole.slices(rankings),
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
        self._sums = self._empty()
        self._slice_sums: dict[str, dict[str, Metric]] = defaultdict(self._empty)
        self._tables = {t.name: MatchTable(t.classes) for t in self._tasks if t.kind == 'detection'}
        self._members: dict[tuple[str, str], array[int]] = defaultdict(lambda: array('I'))
        """By task and slice: numbers of the images in the task's table."""

    def _empty(self) -> dict[str, Metric]:
        return new_metrics(task for task in self._tasks if task.kind != 'detection')

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
            if isinstance(piece, DetectionMetric):
                self._add_detections(task, piece, record, groups, road[task])
                for image in piece.images.values():
                    published[task].add(image)
                continue
            for sums in (self._sums, *(self._slice_sums[group] for group in groups)):
                sums[task].merge(piece)  # type: ignore[arg-type]

    def _add_detections(
        self, task: str, piece: DetectionMetric, record: FrameRecord, groups: list[str],
        road: RoadRecall,
    ) -> None:  # fmt: skip
        table = self._tables[task]
        for group in groups:
            self._members[task, group].append(len(table.keys))
        for key, image in piece.images.items():
            table.add(key, image)
            places = record.places
            road.add(
                image,
                record.camera_model,
                None if places is None else places.mount,
                None if places is None else places.feet[:, 0],
            )

    def extend(self, other: _Frames) -> None:
        """Add the frames of another bag."""
        self.count += other.count
        self.labelled += other.labelled
        self.cameras |= other.cameras
        for (task, group), members in other._members.items():
            first = len(self._tables[task].keys)
            self._members[task, group].extend(member + first for member in members)
        for task, table in other._tables.items():
            self._tables[task].extend(table)
        _merge(self._sums, other._sums)
        for group, sums in other._slice_sums.items():
            _merge(self._slice_sums[group], sums)

    def ranked(self) -> dict[str, Ranking]:
        """Detections by task."""
        return {task: table.ranked() for task, table in self._tables.items()}

    def accuracy(self, rankings: Mapping[str, Ranking]) -> dict[str, dict[str, Any]]:
        """Results by task in the order of the tasks, `frames` 0 where nothing was measured."""
        return self._results(self._sums, {task: rankings[task].result() for task in rankings})

    def slices(self, rankings: Mapping[str, Ranking]) -> dict[str, dict[str, dict[str, Any]]]:
        """Results by slice and task, of the tasks that are measured in it."""
        groups = {*self._slice_sums, *(group for _, group in self._members)}
        if len(self.cameras) < 2:
            groups = {group for group in groups if not group.startswith(f'{CAMERA}=')}
        found = {}
        for group in sorted(groups):
            detection = {
                task: ranking.result(
                    _times(self._members.get((task, group), array('I')), len(ranking.keys))
                )
                for task, ranking in rankings.items()
            }
            results = self._results(self._slice_sums.get(group, {}), detection)
            found[group] = {name: values for name, values in results.items() if values['frames']}
        return found

    def _results(
        self, sums: Mapping[str, Metric], detection: Mapping[str, dict[str, Any]]
    ) -> dict[str, dict[str, Any]]:
        results = {}
        for task in self._tasks:
            if task.name in detection:
                results[task.name] = {'kind': task.kind, **detection[task.name]}
            elif task.name in sums:
                results[task.name] = {'kind': task.kind, **sums[task.name].result()}
        return results


def _merge(ours: Mapping[str, Metric], theirs: Mapping[str, Metric]) -> None:
    for name, metric in theirs.items():
        ours[name].merge(metric)  # type: ignore[arg-type]


def _times(members: array[int], images: int) -> NDArray[np.int64]:
    times = np.zeros(images, np.int64)
    times[np.frombuffer(members, np.uint32)] = 1
    return times
