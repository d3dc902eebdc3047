# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Counting one class of one sequence: what HOTA, IDF1 and MOTA are made of.

A sequence is flattened first: all truth boxes, all detections, and the pairs of them that overlap.
What TrackEval does frame by frame on dense tables is then arithmetic on the pairs, but for the
matching within a frame. The order of the numbers is known here only (`named`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mtl_perception.assignment import assign

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

ALPHAS = np.arange(1, 20) / 20
"""Overlaps at which HOTA is measured."""

IOU = 0.5
"""Overlap from which IDF1 and MOTA call a detection right, and an ignored region excuses one."""

MOSTLY_TRACKED, MOSTLY_LOST = 0.8, 0.2
"""Share of its frames in which an object is found, above and below."""

EPSILON = float(np.finfo(np.float64).eps)

_AT_ALPHA = ('tp', 'fn', 'fp', 'ass_a', 'ass_re', 'ass_pr', 'loc')
_ONCE = (
    'truth', 'id_tp', 'id_fn', 'id_fp', 'clear_tp', 'clear_fn', 'clear_fp', 'id_switches',
    'fragments', 'overlap', 'objects', 'mostly_tracked', 'mostly_lost',
)  # fmt: skip
WIDTH = len(_AT_ALPHA) * len(ALPHAS) + len(_ONCE)
"""Numbers of a class."""


class Compared(Protocol):
    """One frame, as `tracking.TrackedFrame` has it."""

    @property
    def truth_ids(self) -> Indices: ...  # noqa: D102
    @property
    def truth_labels(self) -> Indices: ...  # noqa: D102
    @property
    def ids(self) -> Indices: ...  # noqa: D102
    @property
    def labels(self) -> Indices: ...  # noqa: D102
    @property
    def overlaps(self) -> Floats: ...  # noqa: D102


def named(counts: Floats) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Counts [..., numbers] by name: those of every alpha [..., 19], and those that are one."""
    split = len(_AT_ALPHA) * len(ALPHAS)
    at = counts[..., :split].reshape(*counts.shape[:-1], len(_AT_ALPHA), len(ALPHAS))
    return (
        {name: at[..., i, :] for i, name in enumerate(_AT_ALPHA)},
        {name: counts[..., split + i] for i, name in enumerate(_ONCE)},
    )


def counts_of(frames: Sequence[Compared], label: int) -> Floats:
    """Everything that is counted of one class of one sequence, in the order of the names."""
    pairs = _Pairs(frames, label)
    at, once = _hota(pairs), _identity(pairs) | _clear(pairs)
    return np.concatenate([*(at[name] for name in _AT_ALPHA), [once[name] for name in _ONCE]])


class _Pairs:
    """One class of a sequence, flat: its truth boxes, its detections, and the pairs that overlap.

    truth, found: number of the identity of each box. truth_frame, found_frame: its frame.
    row, column: boxes of each pair; overlap: its IoU; frame: where it is.
    """

    def __init__(self, frames: Sequence[Compared], label: int) -> None:
        truth, found, overlaps = [], [], []
        for frame in frames:
            rows, columns = frame.truth_labels == label, frame.labels == label
            truth.append(frame.truth_ids[rows])
            found.append(frame.ids[columns])
            overlaps.append(frame.overlaps[np.ix_(rows, columns)])
        self.frames = len(frames)
        self.truth, self.truth_frame, self.objects = _numbered(truth)
        self.found, self.found_frame, self.tracks = _numbered(found)
        first = np.cumsum([0, *map(len, truth)]), np.cumsum([0, *map(len, found)])
        places = [np.nonzero(part) for part in overlaps]
        self.row, self.column = (
            np.concatenate([where[axis] + first[axis][i] for i, where in enumerate(places)])
            if places
            else np.zeros(0, np.int64)
            for axis in (0, 1)
        )
        parts = [part[where] for part, where in zip(overlaps, places, strict=True)]
        self.overlap = np.concatenate(parts) if parts else np.zeros(0)
        self.frame = self.truth_frame[self.row]
        self.lengths = np.bincount(self.truth, minlength=self.objects)
        self.found_lengths = np.bincount(self.found, minlength=self.tracks)
        self.key = self.truth[self.row] * max(1, self.tracks) + self.found[self.column]
        """Which object and which track a pair is of."""

    def of_key(self, key: Indices) -> tuple[Indices, Indices]:
        """Boxes of the object, and of the track."""
        tracks = max(1, self.tracks)
        return self.lengths[key // tracks], self.found_lengths[key % tracks]

    def best(self, worth: Floats) -> Indices:
        """The pairs of greatest total worth, each box in one of them, frame by frame."""
        borders = np.searchsorted(self.frame, np.arange(self.frames + 1))
        taken = [
            self.best_of(np.arange(first, last), worth[first:last])
            for first, last in zip(borders[:-1], borders[1:], strict=True)
            if last > first
        ]
        return np.concatenate(taken) if taken else np.zeros(0, np.int64)

    def best_of(self, pairs: Indices, worth: Floats) -> Indices:
        """As `best`, of some pairs of one frame; worth: of them."""
        rows, r = np.unique(self.row[pairs], return_inverse=True)
        columns, c = np.unique(self.column[pairs], return_inverse=True)
        if len(rows) == len(columns) == len(pairs):
            return pairs
        table = np.zeros((len(rows), len(columns)))
        number = np.zeros(table.shape, np.int64)
        table[r, c], number[r, c] = worth, pairs
        return number[assign(table)]


def _hota(pairs: _Pairs) -> dict[str, Floats]:
    """Counts at every alpha.

    Detections are matched so that objects and tracks which go together over all frames are
    preferred.
    """
    overlap = pairs.overlap
    rows = np.bincount(pairs.row, overlap, len(pairs.truth))
    columns = np.bincount(pairs.column, overlap, len(pairs.found))
    alike = overlap / (rows[pairs.row] + columns[pairs.column] - overlap)
    keys, of = np.unique(pairs.key, return_inverse=True)
    together = np.bincount(of, alike, len(keys))
    lengths, found_lengths = pairs.of_key(keys)
    alignment = together / (lengths + found_lengths - together)
    matched = pairs.best(alignment[of] * overlap)
    counts = {name: np.zeros(len(ALPHAS)) for name in _AT_ALPHA}
    for i, alpha in enumerate(ALPHAS):
        right = matched[overlap[matched] >= alpha - EPSILON]
        keys, times = np.unique(pairs.key[right], return_counts=True)
        lengths, found_lengths = pairs.of_key(keys)
        counts['tp'][i] = len(right)
        counts['ass_a'][i] = (times * times / (lengths + found_lengths - times)).sum()
        counts['ass_re'][i] = (times * times / lengths).sum()
        counts['ass_pr'][i] = (times * times / found_lengths).sum()
        counts['loc'][i] = overlap[right].sum()
    counts['fn'] = len(pairs.truth) - counts['tp']
    counts['fp'] = len(pairs.found) - counts['tp']
    return counts


def _identity(pairs: _Pairs) -> dict[str, float]:
    """Frames in which each object is its one track, of the best choice of tracks."""
    keys, times = np.unique(pairs.key[pairs.overlap >= IOU], return_counts=True)
    objects, of = np.unique(keys // max(1, pairs.tracks), return_inverse=True)
    tracks, by = np.unique(keys % max(1, pairs.tracks), return_inverse=True)
    together = np.zeros((len(objects), len(tracks)))
    together[of, by] = times
    right = float(together[assign(together)].sum())
    return {
        'truth': len(pairs.truth),
        'id_tp': right,
        'id_fn': len(pairs.truth) - right,
        'id_fp': len(pairs.found) - right,
    }


def _clear(pairs: _Pairs) -> dict[str, float]:
    """Frame by frame, where what was matched in the frame before is kept if it still overlaps."""
    close = np.flatnonzero(pairs.overlap >= IOU - EPSILON)
    borders = np.searchsorted(pairs.frame[close], np.arange(pairs.frames + 1))
    both = np.isin(np.arange(pairs.frames), pairs.truth_frame)
    both &= np.isin(np.arange(pairs.frames), pairs.found_frame)
    now, ever = (np.full(pairs.objects, -1) for _ in range(2))
    hits, starts = (np.zeros(pairs.objects) for _ in range(2))
    right, switches, overlap = 0, 0, 0.0
    for frame in np.flatnonzero(both).tolist():
        here = close[borders[frame] : borders[frame + 1]]
        kept = pairs.found[pairs.column[here]] == now[pairs.truth[pairs.row[here]]]
        matched = pairs.best_of(here, 1000 * kept + pairs.overlap[here])
        objects, tracks = pairs.truth[pairs.row[matched]], pairs.found[pairs.column[matched]]
        switches += int(np.count_nonzero((ever[objects] >= 0) & (ever[objects] != tracks)))
        starts[objects] += now[objects] < 0
        hits[objects] += 1
        now[:] = -1
        now[objects] = ever[objects] = tracks
        right += len(matched)
        overlap += float(pairs.overlap[matched].sum())
    share = hits / np.maximum(pairs.lengths, 1)
    return {
        'clear_tp': right,
        'clear_fn': len(pairs.truth) - right,
        'clear_fp': len(pairs.found) - right,
        'id_switches': switches,
        'fragments': float(np.maximum(starts - 1, 0).sum()),
        'overlap': overlap,
        'objects': pairs.objects,
        'mostly_tracked': int(np.count_nonzero(share > MOSTLY_TRACKED)),
        'mostly_lost': int(np.count_nonzero(share < MOSTLY_LOST)),
    }


def _numbered(ids: list[Indices]) -> tuple[Indices, Indices, int]:
    """Ids by frame -> number of the identity and of the frame of every box, and identities."""
    if not ids:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), 0
    names, number = np.unique(np.concatenate(ids), return_inverse=True)
    return number, np.repeat(np.arange(len(ids)), [len(part) for part in ids]), len(names)
