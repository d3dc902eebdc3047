"""Engine outputs -> boxes, masks and probabilities in source pixels; one function a task kind.

Detection: score threshold, then greedy class-aware suppression (not of `unique_boxes`), then the
inverse letterbox.
Segmentation: the labels of bilinear upsampling + argmax, without the upsampling. Interpolation is
linear, so between four neighbouring logit cells that agree on the winner every pixel has its class;
only pixels between cells that disagree (class borders) are interpolated.
Depth and normals: `decode_maps.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_perception.bundle import OutputSpec
from mtl_perception.decode_maps import depth, normals, positions
from mtl_perception.engines.base import EngineError
from mtl_perception.letterbox import Letterbox
from mtl_perception.tasks import Task

_CHUNK_VALUES = 1 << 16
"""Interpolated values a class that are held at once: 256 KiB, so that they stay in the cache."""

_BLOCK = 2048
"""Borders that are sorted at once, for the same reason."""


@dataclass(frozen=True)
class Thresholds:
    """Which boxes are kept: score in 0-1, suppression IoU in 0-1, at most `max_detections` >= 1.

    Raises ValueError on a value outside its range.
    """

    score: float = 0.3
    nms_iou: float = 0.5
    max_detections: int = 100

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ('score', 'nms_iou'):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f'threshold {name} must be 0 to 1, got {getattr(self, name)!r}')
        if isinstance(self.max_detections, bool) or int(self.max_detections) < 1:
            raise ValueError(f'max_detections must be at least 1, got {self.max_detections!r}')


@dataclass(frozen=True)
class Detections:
    """N boxes, best score first: boxes float32 [N, 4] xyxy source pixels, scores float32 [N],
    labels int64 [N] (class id).
    """  # noqa: D205

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        """Count of boxes."""
        return len(self.scores)


Outputs = Mapping[str, NDArray[Any]]
"""Output tensors of one frame of one task, by meaning, without the batch axis."""


def detection(
    task: Task,
    specs: Mapping[str, OutputSpec],
    outputs: Outputs,
    letterbox: Letterbox,
    thresholds: Thresholds,
) -> Detections:
    """Boxes above the score threshold that survive suppression, in source pixels.

    `unique_boxes` are one an object by the network's training and are not suppressed.

    Boxes that lie in the padding only are dropped. Raises EngineError on values that are not finite
    and on class ids that the task does not have.
    """
    kind = 'unique_boxes' if 'unique_boxes' in outputs else 'boxes'
    boxes, scores, labels = outputs[kind], outputs['scores'], outputs['labels']
    if not (np.isfinite(scores).all() and np.isfinite(boxes).all()):
        raise EngineError(
            f'task {task.name!r}: {specs[kind].name!r} or {specs["scores"].name!r} holds NaN or '
            f'infinity. Run it at fp32 to see whether the precision is to blame.'
        )
    wanted = np.flatnonzero(scores >= thresholds.score)
    wanted = wanted[np.argsort(-scores[wanted], kind='stable')]
    boxes, scores = boxes[wanted], scores[wanted]
    labels = labels[wanted].astype(np.int64)
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(task.classes):
        raise EngineError(
            f'task {task.name!r}: output {specs["labels"].name!r} holds class ids {labels.min()} '
            f'to {labels.max()}, expected 0 to {len(task.classes) - 1}. Export the bundle again.'
        )
    kept = np.arange(len(boxes))
    if kind == 'boxes':
        kept = suppress(boxes, labels, thresholds.nms_iou)
    source = letterbox.boxes_to_source(boxes[kept])
    visible = (source[:, 2] > source[:, 0]) & (source[:, 3] > source[:, 1])
    kept, source = kept[visible], source[visible]
    most = thresholds.max_detections
    return Detections(source[:most], scores[kept[:most]].astype(np.float32), labels[kept[:most]])


def suppress(
    boxes: NDArray[np.float32], labels: NDArray[np.int64], iou: float
) -> NDArray[np.int64]:
    """Greedy class-aware non-maximum suppression.

    boxes [N, 4] xyxy, best score first. Returns the indices kept, in order: a box goes when a kept
    one of its class overlaps it by more than `iou` (the rule of `torchvision.ops.batched_nms`).
    """
    kept = [np.zeros(0, np.intp)]
    for label in np.unique(labels):
        same = np.flatnonzero(labels == label)
        kept.append(same[_unrivalled(boxes[same].astype(np.float32), iou)])
    return np.sort(np.concatenate(kept))


def _unrivalled(boxes: NDArray[np.float32], iou: float) -> NDArray[np.bool_]:
    x1, y1, x2, y2 = np.ascontiguousarray(boxes.T)
    area = (x2 - x1) * (y2 - y1)
    width = np.minimum(x2[:, None], x2) - np.maximum(x1[:, None], x1)
    height = np.minimum(y2[:, None], y2) - np.maximum(y1[:, None], y1)
    overlap = np.maximum(width, 0) * np.maximum(height, 0)
    union = area[:, None] + area - overlap
    # Not a quotient: empty boxes have union 0. IoU > iou is the same as overlap > iou * union.
    rivals = np.triu(overlap > iou * union, 1)
    alive = np.ones(len(boxes), bool)
    for i in np.flatnonzero(rivals.any(axis=1)):
        if alive[i]:
            alive &= ~rivals[i]
    return alive


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


def classification(
    task: Task,
    specs: Mapping[str, OutputSpec],
    outputs: Outputs,
    letterbox: Letterbox,
    thresholds: Thresholds,
) -> NDArray[np.float32]:
    """The probability of every class, float32 [C]; raises EngineError on values outside 0-1."""
    probabilities = np.array(outputs['probabilities'], np.float32)
    if not (probabilities >= -1e-3).all() or not (probabilities <= 1 + 1e-3).all():
        raise EngineError(
            f'task {task.name!r}: output {specs["probabilities"].name!r} should hold '
            f'probabilities, found {probabilities}. Export the bundle again.'
        )
    return probabilities


DECODERS: dict[str, Callable[..., Any]] = {
    'detection': detection,
    'segmentation': segmentation,
    'classification': classification,
    'depth': depth,
    'normals': normals,
}
"""Decode function by kind: (task, specs by meaning, outputs by meaning, letterbox, thresholds).

A new kind is one function here, one field in `pipeline.Result` and one conversion in `messages.py`.
"""

NEEDED: dict[str, tuple[frozenset[str], ...]] = {
    'detection': (
        frozenset({'boxes', 'scores', 'labels'}),
        frozenset({'unique_boxes', 'scores', 'labels'}),
    ),
    'segmentation': (frozenset({'logits'}), frozenset({'class_map'})),
    'classification': (frozenset({'probabilities'}),),
    'depth': (frozenset({'depth'}),),
    'normals': (frozenset({'normals'}),),
}
"""The sets of meanings, any of which is enough to decode a kind."""


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

    logits [C, H, W] at `stride` input pixels a cell, C <= 255. Half-pixel centres, clamped at the
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
        for first in range(0, len(borders.y), step):
            _interpolate(borders, slice(first, first + step), y_axis, x_axis, mask)
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
    fx = x_axis.fraction.take(x, axis=1)
    fy = y_axis.fraction.take(y, axis=1)[:, None]
    gx, gy = 1 - fx, 1 - fy
    shape = (y_axis.slots, x_axis.slots, len(y))
    best = np.full(shape, -np.inf, np.float32)
    values, products = np.empty(shape, np.float32), np.empty(shape, np.float32)
    winner = np.zeros(shape, np.uint8)
    for rank in range(counts[0]):
        n = int(np.searchsorted(-counts, -rank))
        label = borders.candidates[rank, part][:n]
        corner = borders.corners[:, label, borders.order[part][:n]]
        upper = corner[0] * gx[..., :n] + corner[2] * fx[..., :n]
        lower = corner[1] * gx[..., :n] + corner[3] * fx[..., :n]
        value, product = values[..., :n], products[..., :n]
        np.multiply(upper, gy[..., :n], out=value)
        np.multiply(lower, fy[..., :n], out=product)
        value += product
        _challenge(label, value, best[..., :n], winner[..., :n])
    rows, columns = y_axis.pixel.take(y, axis=1), x_axis.pixel.take(x, axis=1)
    mask[rows[:, None], columns[None]] = winner
