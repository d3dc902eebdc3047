# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""How well tracks keep identities: HOTA, IDF1, MOTA and id switches, as TrackEval counts them.

HOTA (Luiten et al., IJCV 2021): at each of 19 overlaps alpha, HOTA = sqrt(DetA AssA), then the
mean. IDF1 (Ristani et al., ECCV Workshops 2016): one identity for one identity over the whole
sequence, at IoU 0.5. MOTA (Bernardin and Stiefelhagen, 2008): 1 - (misses + false + switches) /
truth boxes, at IoU 0.5. Detections are matched within their class only; a detection without a
partner of IoU 0.5, more than half of which lies in an ignored region, is left out (BDD100K).

Identities are only comparable within one *sequence*, the frames of one camera in one bag, and
association is a property of all of it: pieces of frames are kept until the sequence is whole, then
become counts. Counts of sequences add up; that is how TrackEval combines sequences, how runs merge
exactly, and why a bootstrap draws whole sequences. Figures over all classes add the counts of the
classes up; `m` before a name (mHOTA) is the mean over the classes that the truth has, as BDD100K
ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mtl_evaluation.metrics.checks import check_kind, check_same_task
from mtl_evaluation.metrics.sequence_counts import EPSILON, IOU, WIDTH, counts_of, named
from mtl_perception.assignment import assign
from mtl_perception.tasks import Task

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

HEADLINES = ('HOTA', 'IDF1', 'MOTA')
FIGURES = ('HOTA', 'DetA', 'AssA', 'LocA', 'IDF1', 'MOTA', 'MOTP', 'id_switch_rate')
"""Figures over a number of sequences; `id_switch_rate`: id switches for each truth box."""


@dataclass(frozen=True)
class TrackedFrame:
    """What the metric needs of one frame.

    truth_ids, truth_labels int64 [G]: scored objects. ids, labels int64 [T]: tracked detections,
    without those that only an ignored region explains. overlaps float64 [G, T]: IoU, 0 between
    different classes.
    """

    truth_ids: Indices
    truth_labels: Indices
    ids: Indices
    labels: Indices
    overlaps: Floats

    @classmethod
    def of(
        cls,
        truth: ArrayLike,
        truth_ids: ArrayLike,
        truth_labels: ArrayLike,
        ignore: ArrayLike,
        boxes: ArrayLike,
        ids: ArrayLike,
        labels: ArrayLike,
    ) -> TrackedFrame:
        """Compare truth boxes [G, 4] and tracked boxes [T, 4], both xyxy in source pixels.

        ignore bool [G]: regions. Raises ValueError when lengths differ or an id occurs twice.
        """
        places = np.asarray(truth, np.float64).reshape(-1, 4)
        found = np.asarray(boxes, np.float64).reshape(-1, 4)
        names, classes = (np.asarray(a, np.int64).reshape(-1) for a in (truth_ids, truth_labels))
        own, own_classes = (np.asarray(a, np.int64).reshape(-1) for a in (ids, labels))
        ignored = np.asarray(ignore, bool).reshape(-1)
        if not len(places) == len(names) == len(classes) == len(ignored):
            raise ValueError(f'{len(places)} truth boxes, {len(names)} ids, {len(classes)} labels')
        if not len(found) == len(own) == len(own_classes):
            raise ValueError(
                f'{len(found)} tracked boxes, {len(own)} ids, {len(own_classes)} labels'
            )
        regions, places = places[ignored], places[~ignored]
        names, classes = names[~ignored], classes[~ignored]
        for of, values in (('truth', names), ('tracked', own)):
            if len(np.unique(values)) < len(values):
                raise ValueError(f'a {of} id occurs twice in one frame: {sorted(values.tolist())}')
        overlaps = box_overlaps(places, found)
        overlaps[classes[:, None] != own_classes[None, :]] = 0
        unmatched = np.ones(len(found), bool)
        unmatched[assign(np.where(overlaps >= IOU - EPSILON, overlaps, 0))[1]] = False
        excused = (box_overlaps(found, regions, of_first=True) > IOU + EPSILON).any(1)
        kept = ~(unmatched & excused)
        return cls(names, classes, own[kept], own_classes[kept], overlaps[:, kept])

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """For storage; `from_arrays` is the inverse."""
        pairs = np.argwhere(self.overlaps > 0)
        return {
            'truth_ids': self.truth_ids, 'truth_labels': self.truth_labels, 'ids': self.ids,
            'labels': self.labels, 'pairs': pairs, 'overlaps': self.overlaps[tuple(pairs.T)],
        }  # fmt: skip

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> TrackedFrame:
        """What `to_arrays` gave."""
        overlaps = np.zeros((len(arrays['truth_ids']), len(arrays['ids'])))
        overlaps[tuple(arrays['pairs'].reshape(-1, 2).T)] = arrays['overlaps']
        return cls(
            arrays['truth_ids'], arrays['truth_labels'], arrays['ids'], arrays['labels'], overlaps
        )


class TrackingMetric:
    """Counts of sequences, by name; merging is exact in whatever order."""

    def __init__(self, task: Task) -> None:
        """Start from no sequence; raises ValueError when the task is not a detection task."""
        check_kind(task, 'detection')
        self.task = task
        self.sequences: dict[str, Floats] = {}
        """Counts [classes, numbers], see `figures_of`."""
        self.lengths: dict[str, int] = {}
        """Frames with truth of each."""

    def update(self, sequence: str, frames: Iterable[TrackedFrame]) -> None:
        """Add a whole sequence, its frames in order; raises ValueError if it was added before."""
        if sequence in self.sequences:
            raise ValueError(f'sequence {sequence!r} was added before; each counts once')
        frames = list(frames)
        classes = range(len(self.task.classes))
        self.sequences[sequence] = np.array([counts_of(frames, label) for label in classes])
        self.lengths[sequence] = len(frames)

    def merge(self, other: TrackingMetric) -> None:
        """Add another metric's sequences; raises ValueError if tasks differ or one is in both."""
        check_same_task(self.task, other.task)
        twice = self.sequences.keys() & other.sequences.keys()
        if twice:
            raise ValueError(f'{len(twice)} sequences are in both metrics, {min(twice)!r} is one')
        self.sequences.update(other.sequences)
        self.lengths.update(other.lengths)

    def table(self) -> Floats:
        """Counts [sequences, classes, numbers] in the order of the names."""
        none = np.zeros((0, len(self.task.classes), WIDTH))
        return np.array([self.sequences[name] for name in sorted(self.sequences)] or none)

    def result(self) -> dict[str, Any]:
        """Scores so far: `FIGURES`, their means over classes, `per_class`, and counts.

        None where the truth has no object (of the class). id_switches, fragments, objects,
        mostly_tracked and mostly_lost are numbers; fragments: interruptions of an object that was
        found.
        """
        counts = self.table().sum(0)
        result: dict[str, Any] = {
            'frames': sum(self.lengths.values()),
            'sequences': len(self.sequences),
            **_plain(figures_of(counts[None])),
            **_numbers(counts.sum(0)),
        }
        result['per_class'] = {
            name: {**_plain(figures_of(of[None, None])), **_numbers(of)}
            for name, of in zip(self.task.classes, counts, strict=True)
        }
        return result


def figures_of(counts: Floats, classes: Sequence[str] = ()) -> dict[str, Floats]:
    """Figures [samples] of summed counts [samples, classes, numbers]; NaN without truth.

    classes: names, for `HOTA/car` and so on as well.
    """
    found, by_class = _figures(counts.sum(1)), _figures(counts)
    found |= {f'm{name}': _mean(by_class[name]) for name in HEADLINES}
    for name in HEADLINES:
        found |= {f'{name}/{label}': by_class[name][:, i] for i, label in enumerate(classes)}
    return found


def truth_of(counts: Floats) -> Floats:
    """How many truth boxes there are, of counts [..., numbers]."""
    return named(counts)[1]['truth']


def box_overlaps(first: Floats, second: Floats, of_first: bool = False) -> Floats:
    """IoU [N, M] of boxes xyxy, or the share of the first ones that lies in the second ones."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    both = np.maximum(high - low, 0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (first, second)]
    whole = areas[0][:, None] + (0 * both if of_first else areas[1][None, :] - both)
    return np.divide(both, whole, out=np.zeros_like(both), where=(both > 0) & (whole > 0))


def _figures(counts: Floats) -> dict[str, Floats]:
    """`FIGURES` of counts [..., numbers]; NaN where there is no truth box."""
    at, once = named(counts)
    truth = once['truth']
    det_a = _share(at['tp'], at['tp'] + at['fn'] + at['fp'])
    ass_a = _share(at['ass_a'], at['tp'])
    right = once['clear_tp']
    found = {
        'HOTA': np.sqrt(det_a * ass_a).mean(-1),
        'DetA': det_a.mean(-1),
        'AssA': ass_a.mean(-1),
        # Of nothing found, as TrackEval has it.
        'LocA': np.where(at['tp'] > 0, _share(at['loc'], at['tp']), 1).mean(-1),
        'IDF1': _share(once['id_tp'], once['id_tp'] + (once['id_fp'] + once['id_fn']) / 2),
        'MOTA': _share(right - once['clear_fp'] - once['id_switches'], truth),
        'MOTP': _share(once['overlap'], right),
        'id_switch_rate': _share(once['id_switches'], truth),
    }
    return {name: np.where(truth > 0, values, np.nan) for name, values in found.items()}


def _share(part: Floats, whole: Floats) -> Floats:
    """Part of the whole, 0 of nothing."""
    return np.divide(part, whole, out=np.zeros(np.shape(whole)), where=whole > 0)


def _mean(values: Floats) -> Floats:
    """Mean over the last axis of what is not NaN; NaN of nothing."""
    known = np.isfinite(values)
    total, count = np.where(known, values, 0).sum(-1), known.sum(-1)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def _plain(figures: Mapping[str, Floats]) -> dict[str, float | None]:
    """The first sample's figures as plain numbers."""
    return {
        name: float(values[0]) if np.isfinite(values[0]) else None
        for name, values in figures.items()
    }


def _numbers(counts: Floats) -> dict[str, int]:
    """The counts of one set of sequences that are numbers of something."""
    once = named(counts)[1]
    names = ('truth', 'id_switches', 'fragments', 'objects', 'mostly_tracked', 'mostly_lost')
    return {name: round(float(once[name])) for name in names}
