"""COCO's average precision in two steps: match each image by itself, then rank all detections.

An image's matches do not depend on other images, so they are found once and kept in few bytes; any
set of images (a run, a slice of it, a bootstrap sample) is then only ranked again. Both steps are
those of pycocotools (Lin et al., ECCV 2014; `COCOeval.evaluateImg` and `accumulate`), and a test
holds them to faster-coco-eval bit by bit.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
AREAS = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))
"""All, small, medium, large: square pixels, both ends included."""

MAX_DETECTIONS = 100
"""Detections a class and image that are scored, best first (COCO's and BDD100K's maxDets)."""

Rules = NDArray[np.uint64]
"""One bit a rule: bit `area * 10 + iou` for every pair of an area range and an IoU threshold."""

_EVERY_IOU = (1 << len(IOUS)) - 1
_OF_AREA = [_EVERY_IOU << area * len(IOUS) for area in range(len(AREAS))]
_EVERY_RULE = sum(_OF_AREA)
_REACHED = [
    sum(((1 << count) - 1) << area * len(IOUS) for area in range(len(AREAS)))
    for count in range(len(IOUS) + 1)
]
"""Rules whose threshold an overlap reaches, by how many of the thresholds it reaches."""


@dataclass(frozen=True)
class ScoredImage:
    """One image's boxes as they are scored; xyxy float64, best score of each class first."""

    width: int
    height: int
    predicted: NDArray[np.float64]
    scores: NDArray[np.float64]
    predicted_labels: NDArray[np.int64]
    truth: NDArray[np.float64]
    truth_labels: NDArray[np.int64]
    ignore: NDArray[np.bool_]


@dataclass(frozen=True)
class Matches:
    """What became of one image's N detections under every rule.

    labels int64 [N], scores float64 [N], best of each class first. right, ignored: `Rules` [N]; a
    detection that is neither is wrong. truth: scored truth boxes, int64 [class, area].
    ignored_truth counts those that are not scored. taken_by: which detection took each truth box
    at IoU 0.5 in the range of all areas, -1 where none did.
    """

    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    right: Rules
    ignored: Rules
    truth: NDArray[np.int64]
    ignored_truth: int
    taken_by: NDArray[np.int64]


def match(image: ScoredImage, classes: int) -> Matches:
    """Give each detection, best score first, the truth box of its class that it overlaps most.

    A scored truth box is taken once and goes before ignored ones; an ignored one may be taken again
    and again if it is a crowd, and overlap with a crowd is measured by the detection's own area.
    Which boxes are scored depends on the area range, what is taken on the threshold too: every rule
    is played at once, as one bit of an integer.
    """
    found, truth = inclusive_xywh(image.predicted), inclusive_xywh(image.truth)
    area = truth[:, 2] * truth[:, 3]
    unscored = np.stack([image.ignore | (area < low) | (area > high) for low, high in AREAS], 1)
    overlaps = box_overlaps(found, truth, image.ignore)
    overlaps[image.predicted_labels[:, None] != image.truth_labels[None, :]] = 0
    reached = np.searchsorted(IOUS, overlaps, side='right')
    skipped = _rules(unscored).tolist()
    free = [_EVERY_RULE] * len(truth)
    right, ignored = np.zeros((2, len(found)), np.uint64)
    taken_by = np.full(len(truth), -1, np.int64)
    for index in np.flatnonzero(reached.any(1)).tolist():
        near = np.flatnonzero(reached[index])
        # By falling overlap; of equal ones COCO's loop leaves the last.
        near = near[np.lexsort((near, overlaps[index, near]))[::-1]]
        open_, hit, passed = _EVERY_RULE, 0, 0
        for box, count in zip(near.tolist(), reached[index, near].tolist(), strict=True):
            taken = open_ & _REACHED[count] & free[box] & ~skipped[box]
            hit |= taken
            open_ &= ~taken
            free[box] &= ~taken
            if taken & 1:
                taken_by[box] = index
        for box, count in zip(near.tolist(), reached[index, near].tolist(), strict=True):
            taken = open_ & _REACHED[count] & free[box] & skipped[box]
            passed |= taken
            open_ &= ~taken
            if not image.ignore[box]:
                free[box] &= ~taken
        right[index], ignored[index] = hit, passed
    size = found[:, 2] * found[:, 3]
    outside = np.stack([(size < low) | (size > high) for low, high in AREAS], 1)
    ignored |= _rules(outside) & ~right
    counts = [np.bincount(image.truth_labels[~row], minlength=classes) for row in unscored.T]
    return Matches(
        image.predicted_labels, image.scores, right, ignored,
        np.stack(counts, 1), int(image.ignore.sum()), taken_by,
    )  # fmt: skip


class MatchTable:
    """Matches of many images in 29 bytes a detection, to be ranked for any set of them."""

    def __init__(self, classes: Sequence[str]) -> None:
        """Start from no image."""
        self.classes = tuple(classes)
        self.keys: list[str] = []
        self._truth: list[NDArray[np.int32]] = []
        self._ignored_truth = array('q')
        self._image, self._label, self._score = array('I'), array('B'), array('d')
        self._right, self._ignored = array('Q'), array('Q')

    def add(self, key: str, matches: Matches) -> None:
        """Add one image under a name that sorts; every image once."""
        count = len(matches.labels)
        self._image.extend([len(self.keys)] * count)
        self._label.frombytes(matches.labels.astype(np.uint8).tobytes())
        self._score.frombytes(matches.scores.astype(np.float64).tobytes())
        self._right.frombytes(matches.right.tobytes())
        self._ignored.frombytes(matches.ignored.tobytes())
        self._truth.append(matches.truth.astype(np.int32))
        self._ignored_truth.append(matches.ignored_truth)
        self.keys.append(key)

    def extend(self, other: MatchTable) -> None:
        """Add the images of another table."""
        first = len(self.keys)
        self._image.extend(image + first for image in other._image)
        for name in ('keys', '_truth', '_ignored_truth', '_label', '_score', '_right', '_ignored'):
            getattr(self, name).extend(getattr(other, name))

    def ranked(self) -> Ranking:
        """All detections by falling score; equal ones in the order of their images' names."""
        order = np.argsort(np.array(self.keys)) if self.keys else np.zeros(0, np.int64)
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        image = np.frombuffer(self._image, np.uint32)
        score = np.frombuffer(self._score, np.float64)
        ranking = np.lexsort((place[image], -score))
        truth = np.array(self._truth, np.int64).reshape(-1, len(self.classes), len(AREAS))
        return Ranking(
            self.classes,
            tuple(self.keys),
            image[ranking],
            np.frombuffer(self._label, np.uint8)[ranking],
            np.frombuffer(self._right, np.uint64)[ranking],
            np.frombuffer(self._ignored, np.uint64)[ranking],
            truth,
            np.array(self._ignored_truth, np.int64),
        )


@dataclass(frozen=True)
class Ranking:
    """Detections by falling score. image: index into `keys`. right, ignored: as in `Matches`.

    truth: scored truth boxes, int64 [image, class, area].
    """

    classes: tuple[str, ...]
    keys: tuple[str, ...]
    image: NDArray[np.uint32]
    label: NDArray[np.uint8]
    right: Rules
    ignored: Rules
    truth: NDArray[np.int64]
    ignored_truth: NDArray[np.int64]

    def precision(
        self,
        times: NDArray[np.int64] | None = None,
        ious: Sequence[int] = range(len(IOUS)),
        areas: Sequence[int] = range(len(AREAS)),
    ) -> NDArray[np.float64]:
        """Precision at `RECALLS`: [len(ious), 101, class, len(areas)], -1 where there is no truth.

        times: how often each image counts, int64 [image]: 0 leaves it out (a slice), 2 and more
        repeat it (a bootstrap sample). ious, areas: indices into `IOUS` and `AREAS`.
        """
        truth = self.truth if times is None else self.truth * times[:, None, None]
        objects = truth.sum(0)
        shape = (len(ious), len(RECALLS), len(self.classes), len(areas))
        precision = np.full(shape, -1.0)
        for label in np.flatnonzero(objects.any(1)):
            of_class = np.flatnonzero(self.label == label)
            weight = None if times is None else times[self.image[of_class]]
            if weight is not None:
                of_class, weight = of_class[weight > 0], weight[weight > 0]
            right, ignored = self.right[of_class], self.ignored[of_class]
            for column, area in enumerate(areas):
                if not objects[label, area]:
                    continue
                for row, iou in enumerate(ious):
                    bit = area * len(IOUS) + iou
                    hit = _bit(right, bit)
                    miss = ~hit & ~_bit(ignored, bit)
                    precision[row, :, label, column] = _envelope(
                        hit, miss, weight, int(objects[label, area])
                    )
        return precision

    def result(self, times: NDArray[np.int64] | None = None) -> dict[str, Any]:
        """AP, AP50, AP75, APs/APm/APl, the same `per_class`, and counts; None without truth."""
        used = slice(None) if times is None else np.repeat(np.arange(len(times)), times)
        objects = self.truth[used, :, 0].sum(0)
        precision = self.precision(times)
        result: dict[str, Any] = {
            'frames': len(self.keys) if times is None else int(times.sum()),
            'objects': dict(zip(self.classes, objects.tolist(), strict=True)),
            'ignored': int(self.ignored_truth[used].sum()),
            **_averages(precision),
        }
        result['per_class'] = {
            name: _averages(precision[:, :, label]) for label, name in enumerate(self.classes)
        }
        return result


def best_of_each_class(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices of at most MAX_DETECTIONS a class, by falling score; more are never scored."""
    order = np.argsort(-scores, kind='stable')
    if len(order) <= MAX_DETECTIONS:
        return order
    kept = [order[labels[order] == label][:MAX_DETECTIONS] for label in np.unique(labels)]
    return np.concatenate(kept)


def inclusive_xywh(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Corners xyxy -> COCO's x, y, width, height, pixels counted inclusively as Scalabel does."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2] + 1], 1)


def box_overlaps(
    found: NDArray[np.float64], truth: NDArray[np.float64], crowd: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """IoU [N, M] of xywh boxes; with a crowd, intersection over the detection's own area."""
    low = np.maximum(found[:, None, :2], truth[None, :, :2])
    ends = [boxes[:, :2] + boxes[:, 2:] for boxes in (found, truth)]
    size = np.maximum(np.minimum(ends[0][:, None], ends[1][None, :]) - low, 0)
    both = size[..., 0] * size[..., 1]
    own = (found[:, 2] * found[:, 3])[:, None]
    union = np.where(crowd, own, own + truth[:, 2] * truth[:, 3] - both)
    return np.divide(both, union, out=np.zeros_like(both), where=both > 0)


def _rules(by_area: NDArray[np.bool_]) -> Rules:
    """Bool [N, area] -> the rules of those areas, [N]."""
    return by_area.astype(np.uint64) @ np.array(_OF_AREA, np.uint64)


def _bit(rules: Rules, bit: int) -> NDArray[np.bool_]:
    return (rules >> np.uint64(bit) & np.uint64(1)).astype(bool)


def _envelope(
    hit: NDArray[np.bool_], miss: NDArray[np.bool_], weight: NDArray[np.int64] | None, objects: int
) -> NDArray[np.float64]:
    """Highest precision at each of `RECALLS` or any higher recall; 0 where none is reached."""
    right = np.cumsum(hit if weight is None else hit * weight, dtype=np.float64)
    wrong = np.cumsum(miss if weight is None else miss * weight, dtype=np.float64)
    precision = right / np.maximum(right + wrong, 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(right / objects, RECALLS, side='left')
    return np.append(precision, 0.0)[at]


def _averages(precision: NDArray[np.float64]) -> dict[str, float | None]:
    """Means over precision [IoU, recall, ..., area]."""
    return {
        'AP': _mean(precision[..., 0]),
        'AP50': _mean(precision[0, ..., 0]),
        'AP75': _mean(precision[5, ..., 0]),
        'APs': _mean(precision[..., 1]),
        'APm': _mean(precision[..., 2]),
        'APl': _mean(precision[..., 3]),
    }


def _mean(precision: NDArray[np.float64]) -> float | None:
    present = precision[precision > -1]
    return float(present.mean()) if present.size else None


def at_iou_50(rules: Rules) -> NDArray[np.bool_]:
    """What the rule of IoU 0.5 and boxes of all sizes says."""
    return (rules & np.uint64(1)).astype(bool)
