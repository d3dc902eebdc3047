# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Two runs read and laid beside each other frame by frame, for `compare`.

Each run is read once, in order; it keeps about a kilobyte per frame in memory: counts, matches, a
fingerprint of the truth. Frames pair by key (bag, camera, index). Their truth must be the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_evaluation import kinds
from mtl_evaluation.compare.ratios import RatioTable
from mtl_evaluation.kinds import Flaw
from mtl_evaluation.metrics.sums import Figures, Weights
from mtl_evaluation.metrics.tracking import TrackingMetric
from mtl_evaluation.runs.run import FrameRecord, Run
from mtl_evaluation.runs.tracks import Sequences
from mtl_perception.tasks import Task


class CompareError(Exception):
    """Two runs that cannot be compared: what, where, expected, found, next step."""


@dataclass
class TaskRows:
    """What one run has of one task: `rows` are the frames (numbered in the run) with a piece.

    The table of pieces has one row for each of them, the table of ratios one for every frame.
    """

    task: Task
    pieces: Any
    ratios: RatioTable
    rows: list[int] = field(default_factory=list)
    truth: list[int] = field(default_factory=list)
    flaws: list[Flaw] = field(default_factory=list)

    def add(self, row: int, record: FrameRecord) -> None:
        """Append a frame."""
        kind = kinds.of(self.task)
        piece = record.pieces.get(self.task.name)
        self.ratios.add(kind.ratios(self.task, piece, record.stability))
        if piece is not None:
            self.pieces.add(piece)
            self.rows.append(row)
            self.truth.append(kind.fingerprint(piece))
            self.flaws.append(kind.flaw(piece))


class Side:
    """One of the two runs, read."""

    def __init__(self, run: Run) -> None:
        """Read all records; raises RunError."""
        self.run = run
        self.tasks = {
            task.name: TaskRows(task, kind.table(task), RatioTable(kind.ratio_names(task)))
            for task in run.tasks
            for kind in [kinds.of(task)]
        }
        self.keys: list[str] = []
        self.bags: list[str] = []
        self.stamps_ns: list[int] = []
        self.digests: list[str] = []
        self.slices: list[dict[str, str]] = []
        self.tracking: dict[str, TrackingMetric] = {}
        self.bag_of: dict[str, str] = {}
        """Of every sequence (bag and camera)."""
        for bag in run.bags:
            sequences = Sequences(run.tasks)
            for record in run.records([bag]):
                self._add(record, sequences)
            for name, metric in sequences.metrics().items():
                self.bag_of |= dict.fromkeys(metric.sequences, bag)
                self.tracking.setdefault(name, TrackingMetric(metric.task)).merge(metric)

    def _add(self, record: FrameRecord, sequences: Sequences) -> None:
        row = len(self.keys)
        sequences.add(f'{record.bag}{record.camera}', record.tracks)
        self.keys.append(record.key)
        self.bags.append(record.bag)
        self.stamps_ns.append(record.stamp_ns)
        self.digests.append(record.digest)
        self.slices.append({**record.slices, 'bag': record.bag, 'camera': record.camera})
        for of in self.tasks.values():
            of.add(row, record)

    @property
    def name(self) -> str:
        """Folder of the run, as it was given."""
        return str(self.run.path)


class Pair:
    """Two runs over the same frames.

    Raises CompareError when they share no frame, or when class tables or truth differ.
    """

    def __init__(self, first: Side, second: Side) -> None:
        """Lay the runs beside each other."""
        self.sides = (first, second)
        rows = [{key: row for row, key in enumerate(side.keys)} for side in self.sides]
        self.keys = sorted(rows[0].keys() & rows[1].keys())
        self.unpaired = tuple(sorted(rows[i].keys() - rows[1 - i].keys()) for i in range(2))
        if not self.keys:
            raise CompareError(_nothing_shared(first, second))
        self._rows = [np.array([row[key] for key in self.keys]) for row in rows]
        self.tasks = tuple(self._shared_tasks())
        self._places = [np.full(len(side.keys), -1) for side in self.sides]
        """Where each frame of a run is among the paired ones; -1: nowhere."""
        for place, own in zip(self._places, self._rows, strict=True):
            place[own] = np.arange(len(own))
        self._known = {task.name: self._measured_by(task.name) for task in self.tasks}
        bags = np.array(first.bags)[self._rows[0]]
        stamps = np.array(first.stamps_ns, np.int64)[self._rows[0]]
        self.order = np.lexsort((stamps, bags))
        """Paired frames in driving order: bag by bag, cameras of a moment together."""
        self.bags, self.stamps_ns = bags[self.order], stamps[self.order]
        self.same_answers = [first.digests[a] for a in self._rows[0]] == [
            second.digests[b] for b in self._rows[1]
        ]

    def slices(self) -> dict[str, NDArray[np.bool_]]:
        """`weather=rainy` and so on -> which paired frames."""
        found: dict[str, NDArray[np.bool_]] = {}
        for place, row in enumerate(self._rows[0]):
            for name, value in self.sides[0].slices[row].items():
                if value:
                    found.setdefault(f'{name}={value}', np.zeros(len(self.keys), bool))[place] = (
                        True
                    )
        return {name: found[name] for name in sorted(found)}

    def measured(self, task: str) -> NDArray[np.bool_]:
        """Which paired frames both runs measured at the task."""
        return np.asarray(self._known[task].all(0))

    def measured_by_one(self, task: str) -> int:
        """How many paired frames only one of the runs measured at the task."""
        return int(np.count_nonzero(self._known[task][0] != self._known[task][1]))

    def figures(
        self,
        task: str,
        weights: Weights,
        chosen: NDArray[np.bool_],
        wanted: set[str] | None = None,
    ) -> tuple[Figures, Figures]:
        """Figures of both runs; weights [samples, paired frames], chosen bool [paired frames]."""
        found = []
        for i, side in enumerate(self.sides):
            figures: Figures = {}
            for table, columns, inside in self._tables(i, side.tasks[task], chosen):
                figures |= table.figures(weights[:, columns], inside, wanted)
            found.append(figures)
        return found[0], found[1]

    def evidence(self, task: str, figure: str, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which chosen frames say something about a figure, bool [paired frames]."""
        of = self.sides[0].tasks[task]
        tables = self._tables(0, of, chosen)
        table, columns, inside = tables[-1 if figure in of.ratios.names else 0]
        there = np.zeros(len(self.keys), bool)
        there[columns[inside][table.evidence(figure)[inside]]] = True
        return there

    def _tables(
        self, side: int, of: TaskRows, chosen: NDArray[np.bool_]
    ) -> list[tuple[Any, NDArray[np.int64], NDArray[np.int64]]]:
        """Each table with the paired frame of its rows (-1: none), and its rows that are chosen.

        A figure counts the same frames in both runs: those that both measured, and for ratios also
        those that neither did, which still have a stability.
        """
        known, place = self._known[of.task.name], self._places[side]
        tables = []
        for table, rows, among in (
            (of.pieces, np.array(of.rows, np.int64), known.all(0)),
            (of.ratios, np.arange(len(place)), known[0] == known[1]),
        ):
            if len(rows):
                columns = place[rows]
                inside = np.flatnonzero((columns >= 0) & (chosen & among)[columns])
                tables.append((table, columns, inside))
        return tables

    def flaws(self, task: str) -> Iterator[tuple[str, Flaw, Flaw]]:
        """Key of every frame that both measured, and how wrong each of them was."""
        by_row = [
            dict(zip(s.tasks[task].rows, s.tasks[task].flaws, strict=True)) for s in self.sides
        ]
        for place in np.flatnonzero(self.measured(task)):
            first, second = (by_row[i][int(self._rows[i][place])] for i in range(2))
            yield self.keys[place], first, second

    def _shared_tasks(self) -> Iterator[Task]:
        theirs = {task.name: task for task in self.sides[1].run.tasks}
        for task in self.sides[0].run.tasks:
            other = theirs.get(task.name)
            if other is None:
                continue
            if (task.kind, task.classes) != (other.kind, other.classes):
                raise CompareError(
                    f'the runs answer task {task.name!r} with different class tables: '
                    f'{self.sides[0].name} has {task.kind} of {", ".join(task.classes)}; '
                    f'{self.sides[1].name} has {other.kind} of {", ".join(other.classes)}. '
                    f'Figures over different classes say nothing about each other'
                )
            yield task

    def _measured_by(self, task: str) -> NDArray[np.bool_]:
        """Paired frames that each run measured, [2, frames]; raises CompareError on other truth."""
        known = []
        for side, rows in zip(self.sides, self._rows, strict=True):
            of = side.tasks[task]
            truth = dict(zip(of.rows, of.truth, strict=True))
            known.append([truth.get(int(row)) for row in rows])
        different = [
            key
            for key, first, second in zip(self.keys, *known, strict=True)
            if None not in (first, second) and first != second
        ]
        if different:
            raise CompareError(
                f'the runs were measured against different labels: {task} of {len(different)} '
                f'frames differs, {different[0]!r} first. Run both models over the same bag and '
                f'ground truth'
            )
        return np.array([[truth is not None for truth in of] for of in known], bool)


def _nothing_shared(first: Side, second: Side) -> str:
    named = [
        ', '.join(f'{bag} ({count} frames)' for bag, count in Counter(side.bags).items())
        or 'nothing'
        for side in (first, second)
    ]
    return (
        f'the runs share no frame: {first.name} is over {named[0]}; {second.name} is over '
        f'{named[1]}. Frames pair by name of the bag, camera and number: run both models over the '
        f'same bags'
    )
