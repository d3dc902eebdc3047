# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Temporal stability: what flickers between consecutive frames of one camera.

Masks. *changed*: share of pixels whose predicted class is not that of the frame before; driving
alone changes some. *flicker*: the same among the pixels whose truth is labelled and keeps its class
from one frame to the next, so that only changes without a cause count: 1 - VC_2, the video
consistency of VSPW (Miao et al., CVPR 2021), pooled over pixels instead of averaged over clips.
*blink*: pixels that leave their class for one frame and return, of all seen in three frames; it
needs neither truth nor optical flow. Shares are taken over every fourth pixel of every fourth row.

Boxes, at the score from which the node shows them. A box of frame t - 2 is *found again* in frame t
when the two are of one class and each is the other's best overlap, of IoU 0.5 or more. Of those the
share *vanished* has no box of its class in frame t - 1 that overlaps the mean of the two by IoU
0.5. *score_jitter* is the mean absolute change of score over boxes found again one frame later.

Everything is a sum of whole numbers over frames: parts merge to exactly the whole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.truth.truth import Truth, same_size
from mtl_perception.decode import Thresholds
from mtl_perception.frame import Detections, Result
from mtl_perception.tasks import UNLABELLED, Task

SCORE = Thresholds().score
IOU = 0.5
MAX_GAP_NS = 1_000_000_000
"""Frames further apart than this are not consecutive."""

PIXEL_STEP = 4
"""The stride of the logits that masks are made of."""

_SCORE_UNIT = 1_000_000
"""Score changes are summed as millionths: sums of fractions depend on their order."""

MASK_COUNTS = (
    'compared',
    'changed',
    'labelled',
    'truth_changed',
    'flickered',
    'triples',
    'blinked',
)
BOX_COUNTS = ('linked', 'jitter', 'found_again', 'vanished')

Counts = NDArray[np.int64]


@dataclass
class Stability:
    """Counts by task: `MASK_COUNTS` a segmentation task, `BOX_COUNTS` a detection task."""

    masks: dict[str, Counts] = field(default_factory=dict)
    boxes: dict[str, Counts] = field(default_factory=dict)

    def merge(self, other: Stability) -> None:
        """Add another one's frames."""
        for ours, theirs in ((self.masks, other.masks), (self.boxes, other.boxes)):
            for name, counts in theirs.items():
                ours[name] = ours[name] + counts if name in ours else counts

    def result(self) -> dict[str, dict[str, Any]]:
        """Shares by task, None where nothing could be compared; definitions as above."""
        results: dict[str, dict[str, Any]] = {}
        for name, counts in self.masks.items():
            n = dict(zip(MASK_COUNTS, counts.tolist(), strict=True))
            results[name] = {
                'changed': _share(n['changed'], n['compared']),
                'truth_changed': _share(n['truth_changed'], n['labelled']),
                'flicker': _share(n['flickered'], n['labelled'] - n['truth_changed']),
                'blink': _share(n['blinked'], n['triples']),
            }
        for name, counts in self.boxes.items():
            n = dict(zip(BOX_COUNTS, counts.tolist(), strict=True))
            jitter = _share(n['jitter'], n['linked'])
            results[name] = {
                'linked': n['linked'],
                'score_jitter': None if jitter is None else jitter / _SCORE_UNIT,
                'found_again': n['found_again'],
                'vanished': _share(n['vanished'], n['found_again']),
            }
        return results

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """For storage; `from_arrays` is the inverse."""
        return {f'mask.{k}': v for k, v in self.masks.items()} | {
            f'box.{k}': v for k, v in self.boxes.items()
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Stability:
        """What `to_arrays` gave."""
        stability = cls()
        for key, counts in arrays.items():
            kind, _, name = key.partition('.')
            (stability.masks if kind == 'mask' else stability.boxes)[name] = counts
        return stability


Mask = NDArray[np.uint8]


@dataclass(frozen=True)
class _Seen:
    """What is kept of a frame to compare the next ones with; masks are thinned out."""

    index: int
    stamp_ns: int
    masks: dict[str, Mask]
    truths: dict[str, Mask]
    boxes: dict[str, Detections]


class StabilityTracker:
    """Compares each frame of one camera with the two before it."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        """Start from no frame."""
        self._tasks = tuple(tasks)
        self._seen: deque[_Seen] = deque(maxlen=2)

    def update(self, index: int, stamp_ns: int, result: Result, truth: Truth) -> Stability:
        """What changed at this frame. After a gap in index or time there is nothing to compare."""
        if self._seen:
            last = self._seen[-1]
            if index != last.index + 1 or not 0 <= stamp_ns - last.stamp_ns <= MAX_GAP_NS:
                self._seen.clear()
        now = _Seen(index, stamp_ns, {}, {}, {})
        stability = Stability()
        for task in self._tasks:
            name = task.name
            if name in result.masks:
                now.masks[name] = _thinned(result.masks[name])
                labels = truth.masks.get(name)
                if labels is not None:
                    now.truths[name] = _thinned(same_size(labels, result.masks[name]))
                stability.masks[name] = self._mask(name, now)
            elif name in result.detections:
                now.boxes[name] = _shown(result.detections[name])
                stability.boxes[name] = self._boxes(name, now.boxes[name])
        self._seen.append(now)
        return stability

    def _mask(self, name: str, frame: _Seen) -> Counts:
        counts = dict.fromkeys(MASK_COUNTS, 0)
        now = frame.masks[name]
        before = [seen.masks[name] for seen in self._seen if name in seen.masks]
        if before and before[-1].shape == now.shape:
            changed = now != before[-1]
            counts['compared'] = changed.size
            counts['changed'] = int(np.count_nonzero(changed))
            old, new = self._seen[-1].truths.get(name), frame.truths.get(name)
            if old is not None and new is not None:
                labelled = (old != UNLABELLED) & (new != UNLABELLED)
                moved = labelled & (old != new)
                counts['labelled'] = int(np.count_nonzero(labelled))
                counts['truth_changed'] = int(np.count_nonzero(moved))
                counts['flickered'] = int(np.count_nonzero(changed & labelled & ~moved))
            if len(before) == 2 and before[0].shape == now.shape:
                counts['triples'] = changed.size
                counts['blinked'] = int(np.count_nonzero(changed & (before[0] == now)))
        return np.array(list(counts.values()), np.int64)

    def _boxes(self, name: str, now: Detections) -> Counts:
        counts = dict.fromkeys(BOX_COUNTS, 0)
        before = [seen.boxes[name] for seen in self._seen if name in seen.boxes]
        if before:
            old, new = _found_again(before[-1], now)
            change = np.abs(now.scores[new].astype(np.float64) - before[-1].scores[old])
            counts['linked'] = len(old)
            counts['jitter'] = int(np.rint(change * _SCORE_UNIT).sum())
        if len(before) == 2:
            old, new = _found_again(before[0], now)
            between = (before[0].boxes[old] + now.boxes[new]) / 2
            overlap = _ious(between, now.labels[new], before[1])
            counts['found_again'] = len(old)
            counts['vanished'] = int(np.count_nonzero(~(overlap >= IOU).any(1)))
        return np.array(list(counts.values()), np.int64)


def _thinned(mask: Mask) -> Mask:
    return np.ascontiguousarray(mask[::PIXEL_STEP, ::PIXEL_STEP])


def _shown(found: Detections) -> Detections:
    kept = found.scores >= SCORE
    return Detections(found.boxes[kept], found.scores[kept], found.labels[kept])


def _found_again(old: Detections, new: Detections) -> tuple[Counts, Counts]:
    """Indices of boxes that are each other's best overlap."""
    overlap = _ious(old.boxes, old.labels, new)
    if not overlap.size:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    best = overlap.argmax(1)
    rows = np.arange(len(overlap))
    mutual = (overlap.argmax(0)[best] == rows) & (overlap[rows, best] >= IOU)
    return rows[mutual], best[mutual]


def _ious(
    boxes: NDArray[np.floating], labels: NDArray[np.int64], others: Detections
) -> NDArray[np.floating]:
    """IoU [N, M]; 0 between different classes."""
    low = np.maximum(boxes[:, None, :2], others.boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others.boxes[None, :, 2:])
    both = np.maximum(high - low, 0).prod(2)
    areas = [(b[:, 2:] - b[:, :2]).prod(1) for b in (boxes, others.boxes)]
    union = areas[0][:, None] + areas[1][None, :] - both
    overlap = both / np.maximum(union, np.finfo(np.float32).tiny)
    return np.where(labels[:, None] == others.labels[None, :], overlap, 0)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
