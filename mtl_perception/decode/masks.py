# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Segmentation: the labels of bilinear upsampling + argmax, without the upsampling.

Interpolation is linear, so between four neighbouring logit cells that agree on the winner every
pixel has its class; only pixels between cells that disagree (class borders) are interpolated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mtl_perception.decode.contract import Outputs, Thresholds
from mtl_perception.decode.maps import positions
from mtl_perception.engine_error import EngineError
from mtl_perception.letterbox import Letterbox
from mtl_perception.tasks import Task

if TYPE_CHECKING:
    from mtl_perception.manifest import OutputSpec

_CHUNK_VALUES = 1 << 16
"""Interpolated values per class that are held at once: 256 KiB, so that they stay in the cache."""

_BLOCK = 2048
"""Borders that are sorted at once, for the same reason."""


def segmentation(
    task: Task,
    specs: Mapping[str, OutputSpec],
    outputs: Outputs,
    letterbox: Letterbox,
    thresholds: Thresholds,
) -> NDArray[np.uint8]:
    """Class id of every source pixel: uint8 [source_height, source_width].

    From `logits` as bilinear upsampling and argmax would give, from `class_map` the nearest cell.
    Raises EngineError on logits that are not finite.
    """
    if 'class_map' in outputs:
        return nearest_to_source(outputs['class_map'], letterbox, specs['class_map'].stride)
    logits = outputs['logits']
    if not np.isfinite(logits).all():
        raise EngineError(
            f'task {task.name!r}: output {specs["logits"].name!r} holds NaN or infinity. '
            f'Run it at fp32 to see whether the precision is to blame.'
        )
    return argmax_to_source(logits, letterbox, specs['logits'].stride)


def nearest_to_source(
    class_map: NDArray[np.uint8], letterbox: Letterbox, stride: int
) -> NDArray[np.uint8]:
    """Uint8 [H, W] at `stride` -> uint8 [source_height, source_width]: the cell a pixel lies in."""
    rows, columns = class_map.shape
    box = letterbox
    y = positions(box.source_height, box.scale_y, box.pad_top, stride) + 0.5
    x = positions(box.source_width, box.scale_x, box.pad_left, stride) + 0.5
    y_cell = np.clip(np.floor(y).astype(np.intp), 0, rows - 1)
    x_cell = np.clip(np.floor(x).astype(np.intp), 0, columns - 1)
    return class_map.take(x_cell, axis=1).take(y_cell, axis=0).astype(np.uint8, copy=False)


def argmax_to_source(
    logits: NDArray[np.float32], letterbox: Letterbox, stride: int
) -> NDArray[np.uint8]:
    """Winning class of every source pixel under bilinear interpolation of the logits.

    logits [C, H, W] at `stride` input pixels per cell, C <= 255. Half-pixel centres, clamped at the
    border of the map: source x lies at cell ((x + 0.5) * scale + pad) / stride - 0.5. Returns uint8
    [source_height, source_width]. On a tie the lower class id wins.
    """
    logits = np.ascontiguousarray(logits, np.float32)
    rows, columns = logits.shape[1:]
    y_axis, x_axis = _axes(letterbox, stride, rows, columns)
    winner = _argmax(logits)
    left = winner.take(x_axis.lower, axis=1)
    right = winner.take(x_axis.upper, axis=1)
    label = left.take(y_axis.lower, axis=0)
    mixed = left.take(y_axis.upper, axis=0) != label
    mixed |= right.take(y_axis.lower, axis=0) != label
    mixed |= right.take(y_axis.upper, axis=0) != label
    mask = label.take(x_axis.cell, axis=1).take(y_axis.cell, axis=0)
    y, x = np.nonzero(mixed)
    step = max(1, _CHUNK_VALUES // (y_axis.slots * x_axis.slots))
    for start in range(0, len(y), _BLOCK):
        block = slice(start, start + _BLOCK)
        borders = _Borders.between(logits, winner, y[block], x[block], y_axis, x_axis)
        several = int(np.searchsorted(-borders.counts, -2))
        for begin, end in ((0, several), (several, len(borders.y))):
            for first in range(begin, end, step):
                part = slice(first, min(first + step, end))
                _interpolate(borders, part, y_axis, x_axis, mask)
    return mask


@dataclass(frozen=True)
class _Axis:
    """Where the source pixels of one axis lie between the logit cells.

    An interval lies between two neighbouring cell centres; every source pixel is in one. `lower`
    and `upper` [I]: cells at the ends of interval i. `cell` [size]: interval of a pixel. `pixel`
    and `fraction` [slots, I]: source pixels of an interval and their way from lower to upper;
    intervals with fewer pixels than `slots` repeat their last one.
    """

    lower: NDArray[np.intp]
    upper: NDArray[np.intp]
    cell: NDArray[np.intp]
    pixel: NDArray[np.intp]
    fraction: NDArray[np.float32]

    @property
    def slots(self) -> int:
        return len(self.pixel)


@lru_cache(maxsize=32)
def _axes(letterbox: Letterbox, stride: int, rows: int, columns: int) -> tuple[_Axis, _Axis]:
    box = letterbox
    return (
        _axis(positions(box.source_height, box.scale_y, box.pad_top, stride), rows),
        _axis(positions(box.source_width, box.scale_x, box.pad_left, stride), columns),
    )


def _axis(position: NDArray[np.float64], cells: int) -> _Axis:
    floor = np.floor(position).astype(np.intp)
    interval, first, cell, count = np.unique(
        floor, return_index=True, return_inverse=True, return_counts=True
    )
    slot = np.minimum(np.arange(count.max())[:, None], count - 1)
    pixel = first + slot
    return _Axis(
        np.clip(interval, 0, cells - 1),
        np.clip(interval + 1, 0, cells - 1),
        cell.reshape(-1),
        pixel,
        (position - floor)[pixel].astype(np.float32),
    )


def _argmax(logits: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Argmax over the first axis as uint8, several times faster than `np.argmax(axis=0)`."""
    winner = np.zeros(logits.shape[1:], np.uint8)
    best = logits[0].copy()
    for label in range(1, len(logits)):
        _challenge(label, logits[label], best, winner)
    return winner


def _challenge(
    label: int | NDArray[np.uint8],
    value: NDArray[np.float32],
    best: NDArray[np.float32],
    winner: NDArray[np.uint8],
) -> None:
    """Update running maximum and winner in place; labels must come in ascending order.

    label: one, or one for every entry of the last axis.
    """
    better = np.greater(value, best).view(np.uint8)
    np.maximum(best, value, out=best)
    better *= label
    np.maximum(winner, better, out=winner)


@dataclass(frozen=True)
class _Borders:
    """M pairs of intervals whose corners disagree, those with most candidates first.

    y, x [M]: intervals. corners [4, C, M]: logits at upper left, lower left, upper right, lower
    right, of border order[m]. candidates [K, M]: classes that could win somewhere between,
    ascending, of which the first counts [M] are valid.
    """

    y: NDArray[np.intp]
    x: NDArray[np.intp]
    corners: NDArray[np.float32]
    order: NDArray[np.intp]
    candidates: NDArray[np.uint8]
    counts: NDArray[np.intp]

    @classmethod
    def between(
        cls,
        logits: NDArray[np.float32],
        winner: NDArray[np.uint8],
        y: NDArray[np.intp],
        x: NDArray[np.intp],
        y_axis: _Axis,
        x_axis: _Axis,
    ) -> _Borders:
        """A class that is below one and the same corner winner at all four corners cannot win."""
        columns = logits.shape[2]
        upper, lower = y_axis.lower[y] * columns, y_axis.upper[y] * columns
        left, right = x_axis.lower[x], x_axis.upper[x]
        places = [upper + left, lower + left, upper + right, lower + right]
        flat = logits.reshape(len(logits), -1)
        corners = np.stack([flat.take(place, axis=1) for place in places])
        possible = np.ones((len(logits), len(y)), bool)
        every = np.arange(len(y))
        for place in places:
            rival = corners[:, winner.reshape(-1)[place], every]
            below = corners[0] < rival[0]
            for corner in (1, 2, 3):
                below &= corners[corner] < rival[corner]
            possible &= ~below
        counts = possible.sum(axis=0)
        order = np.argsort(-counts, kind='stable')
        counts = counts[order]
        pair, label = np.nonzero(possible.T[order])
        rank = np.arange(len(pair)) - np.repeat(np.cumsum(counts) - counts, counts)
        candidates = np.zeros((counts.max(), len(y)), np.uint8)
        candidates[rank, pair] = label
        return cls(y[order], x[order], corners, order, candidates, counts)


def _interpolate(
    borders: _Borders, part: slice, y_axis: _Axis, x_axis: _Axis, mask: NDArray[np.uint8]
) -> None:
    """Write the labels of all pixels of some of the borders into `mask`.

    Borders are the last axis of every array, so that numpy's inner loops are long, and sorted by
    count, so that those with a further candidate are always the first few.
    """
    y, x, counts = borders.y[part], borders.x[part], borders.counts[part]
    labels, order = borders.candidates[:, part], borders.order[part]
    fx, fy = x_axis.fraction.take(x, axis=1), y_axis.fraction.take(y, axis=1)
    if counts[0] == 2:
        # Interpolation is linear: of two classes that one wins whose lead is positive.
        low, high = labels[:2]
        lead = borders.corners[:, high, order] - borders.corners[:, low, order]
        winner = (_between(lead, fx, fy) > 0).view(np.uint8)
        winner *= high - low
        winner += low
    else:
        best = _between(borders.corners[:, labels[0], order], fx, fy)
        winner = np.broadcast_to(labels[0], best.shape).copy()
        for rank in range(1, counts[0]):
            n = int(np.searchsorted(-counts, -rank))
            corners = borders.corners[:, labels[rank, :n], order[:n]]
            value = _between(corners, fx[:, :n], fy[:, :n])
            _challenge(labels[rank, :n], value, best[..., :n], winner[..., :n])
    rows, columns = y_axis.pixel.take(y, axis=1), x_axis.pixel.take(x, axis=1)
    mask.reshape(-1)[(rows * mask.shape[1])[:, None] + columns] = winner


def _between(
    corners: NDArray[np.float32], fx: NDArray[np.float32], fy: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Bilinear interpolation: [4, M] at upper left, lower left, upper right, lower right.

    fx [X, M] and fy [Y, M] are the ways to the right and down; returns [Y, X, M].
    """
    gx = 1 - fx
    value = (corners[0] * gx + corners[2] * fx) * (1 - fy)[:, None]
    value += (corners[1] * gx + corners[3] * fx) * fy[:, None]
    return np.asarray(value, np.float32)
