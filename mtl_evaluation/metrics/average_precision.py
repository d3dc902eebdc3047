# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

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
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
AREAS = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))
"""All, small, medium, large: square pixels, both ends included."""

MAX_DETECTIONS = 100
"""Detections per class and image that are scored, best first (COCO's and BDD100K's maxDets)."""

Rules = NDArray[np.uint64]
"""One bit per rule: bit `area * 10 + iou` for every pair of an area range and an IoU threshold."""

_CHUNK = 200_000
"""Detections times samples held at a time."""

_EVERY_IOU = (1 << len(IOUS)) - 1
_OF_AREA = [_EVERY_IOU << area * len(IOUS) for area in range(len(AREAS))]
_EVERY_RULE = sum(_OF_AREA)
_REACHED = [
    sum(((1 << count) - 1) << area * len(IOUS) for area in range(len(AREAS)))
    for count in range(len(IOUS) + 1)
]
"""Rules whose threshold an overlap reaches, by how many of the thresholds it reaches."""


@dataclass(frozen=True)
class Matches:
    """What became of one image's N detections under every rule.

    right, ignored: `Rules` [N]; a detection that is neither is wrong. taken_by: which detection
    took each truth box at IoU 0.5 in the range of all areas, int64, -1 where none did.
    """

    right: Rules
    ignored: Rules
    taken_by: NDArray[np.int64]


@dataclass(frozen=True)
class ScoredImage:
    """One image's boxes as they are scored; xyxy float64, best score of each class first.

    known: its matches, where they are stored with it.
    """

    width: int
    height: int
    predicted: NDArray[np.float64]
    scores: NDArray[np.float64]
    predicted_labels: NDArray[np.int64]
    truth: NDArray[np.float64]
    truth_labels: NDArray[np.int64]
    ignore: NDArray[np.bool_]
    known: Matches | None = None

    @cached_property
    def matches(self) -> Matches:
        """Found once."""
        return self.known or match(self)

    @cached_property
    def unscored(self) -> NDArray[np.bool_]:
        """Truth boxes that do not count, bool [M, area]: ignored, or of another size."""
        xywh = inclusive_xywh(self.truth)
        area = xywh[:, 2] * xywh[:, 3]
        return np.stack([self.ignore | (area < low) | (area > high) for low, high in AREAS], 1)


def match(image: ScoredImage) -> Matches:
    """Give each detection, best score first, the truth box of its class that it overlaps most.

    A scored truth box is taken once and goes before ignored ones; an ignored one may be taken again
    and again if it is a crowd, and overlap with a crowd is measured by the detection's own area.
    Which boxes are scored depends on the area range, what is taken on the threshold too: every rule
    is played at once, as one bit of an integer.
    """
    found, truth = inclusive_xywh(image.predicted), inclusive_xywh(image.truth)
    overlaps = box_overlaps(found, truth, image.ignore)
    overlaps[image.predicted_labels[:, None] != image.truth_labels[None, :]] = 0
    reached = np.searchsorted(IOUS, overlaps, side='right')
    skipped = _rules(image.unscored).tolist()
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
    return Matches(right, ignored, taken_by)


class MatchTable:
    """Matches of many images in 29 bytes per detection, to be ranked for any set of them."""

    def __init__(self, classes: Sequence[str]) -> None:
        """Start from no image."""
        self.classes = tuple(classes)
        self.keys: list[str] = []
        self._truth: list[NDArray[np.int32]] = []
        self._ignored_truth = array('q')
        self._image, self._label, self._score = array('I'), array('B'), array('d')
        self._right, self._ignored = array('Q'), array('Q')

    def add(self, key: str, image: ScoredImage) -> None:
        """Add one image under a name that sorts; every image once."""
        classes = len(self.classes)
        truth = [
            np.bincount(image.truth_labels[~row], minlength=classes) for row in image.unscored.T
        ]
        self._image.extend([len(self.keys)] * len(image.scores))
        self._label.frombytes(image.predicted_labels.astype(np.uint8).tobytes())
        self._score.frombytes(image.scores.astype(np.float64).tobytes())
        self._right.frombytes(image.matches.right.tobytes())
        self._ignored.frombytes(image.matches.ignored.tobytes())
        self._truth.append(np.stack(truth, 1).astype(np.int32))
        self._ignored_truth.append(int(image.ignore.sum()))
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
        weights: NDArray[Any] | None = None,
        ious: Sequence[int] = range(len(IOUS)),
        areas: Sequence[int] = range(len(AREAS)),
    ) -> NDArray[np.float64]:
        """Precision at `RECALLS`: [samples, ious, 101, class, areas], -1 where there is no truth.

        weights: how often each image counts in each sample, whole numbers [samples, image]: 0
        leaves it out (a slice), 2 and more repeat it (a bootstrap sample); one sample of every
        image by default. ious, areas: indices into `IOUS` and `AREAS`.
        """
        if weights is None:
            weights = np.ones((1, len(self.keys)), np.int64)
        classes = len(self.classes)
        precision = np.full((len(weights), len(ious), len(RECALLS), classes, len(areas)), -1.0)
        used = np.asarray(weights.any(0))
        for label in range(classes):
            truth = weights[:, used].astype(np.float64) @ self.truth[used, label]
            if not truth.any():
                continue
            of_class = np.flatnonzero((self.label == label) & used[self.image])
            image = self.image[of_class]
            right, ignored = self.right[of_class], self.ignored[of_class]
            step = max(1, _CHUNK // max(1, len(of_class)))
            for first in range(0, len(weights), step):
                rows = slice(first, first + step)
                weight = weights[rows][:, image].astype(np.float64)
                every = np.cumsum(weight, 1)
                for column, area in enumerate(areas):
                    objects = truth[rows, area]
                    needed = _needed(objects)
                    for row, iou in enumerate(ious):
                        bit = area * len(IOUS) + iou
                        hits, passed = _bits(right, bit), _bits(ignored, bit)
                        reached = _at_recalls(weight, every, hits, passed, needed)
                        reached[objects == 0] = -1
                        precision[rows, row, :, label, column] = reached
        return precision

    def result(self, times: NDArray[np.int64] | None = None) -> dict[str, Any]:
        """AP, AP50, AP75, APs/APm/APl, the same `per_class`, and counts; None without truth.

        times: how often each image counts, [image], as a row of `precision`'s weights.
        """
        times = np.ones(len(self.keys), np.int64) if times is None else times
        precision = self.precision(times[None])
        objects = times @ self.truth[:, :, 0]
        result: dict[str, Any] = {
            'frames': int(times.sum()),
            'objects': dict(zip(self.classes, objects.tolist(), strict=True)),
            'ignored': int(times @ self.ignored_truth),
            **_averages(precision),
        }
        result['per_class'] = {
            name: _averages(precision[:, :, :, label : label + 1])
            for label, name in enumerate(self.classes)
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


def _bits(rules: Rules, bit: int) -> NDArray[np.int64]:
    """Which detections the rule holds for."""
    return np.flatnonzero(rules >> np.uint64(bit) & np.uint64(1))


def _at_recalls(
    weight: NDArray[np.float64],
    every: NDArray[np.float64],
    hits: NDArray[np.int64],
    passed: NDArray[np.int64],
    needed: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Highest precision at each of `RECALLS` or any higher recall, [samples, 101]; 0 beyond.

    weight: of detections by falling score, [samples, detections]; every: its running sum. hits,
    passed: the right and the ignored ones. needed: as `_needed`. Precision only rises at a right
    detection, so the best at a recall or above is found among them.
    """
    counted = every[:, hits]
    if len(passed):
        before = np.cumsum(weight[:, passed], 1)
        until = np.searchsorted(passed, hits)
        counted -= np.where(until > 0, before[:, until - 1], 0)
    found = np.cumsum(weight[:, hits], 1)
    precision = np.zeros((len(found), len(hits) + 1))
    np.divide(found, counted, out=precision[:, :-1], where=counted > 0)
    best = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    reached = np.empty(needed.shape, np.int64)
    for sample in range(len(found)):
        reached[sample] = found[sample].searchsorted(needed[sample])
    return np.take_along_axis(best, reached, 1)


def _needed(objects: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fewest objects to be found for each of `RECALLS`, [samples, 101].

    Rounded as COCO's comparison of quotients rounds: recall 0.57 of 100 objects takes 58.
    """
    objects = np.maximum(objects, 1)[:, None]
    fewest = np.ceil(RECALLS * objects)
    fewest -= (fewest - 1) / objects >= RECALLS
    fewest += fewest / objects < RECALLS
    return np.asarray(fewest)


def mean_precision(precision: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of [samples, IoU, recall, class] over the classes that have truth; NaN of none.

    Each sample's is numpy's mean of just those values, to the last bit, whatever is beside it.
    """
    there = precision[:, 0, 0] > -1
    means = np.full(len(precision), np.nan)
    patterns, group = np.unique(there, axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        if pattern.any():
            rows = group.ravel() == number
            values = np.ascontiguousarray(precision[rows][..., pattern])
            means[rows] = values.reshape(len(values), -1).mean(1)
    return means


def _averages(precision: NDArray[np.float64]) -> dict[str, float | None]:
    """Means over precision of one sample, [1, IoU, recall, class, area]."""
    averages = {
        'AP': precision[..., 0],
        'AP50': precision[:, :1, ..., 0],
        'AP75': precision[:, 5:6, ..., 0],
        'APs': precision[..., 1],
        'APm': precision[..., 2],
        'APl': precision[..., 3],
    }
    means = {name: float(mean_precision(values)[0]) for name, values in averages.items()}
    return {name: None if np.isnan(value) else value for name, value in means.items()}


def at_iou_50(rules: Rules) -> NDArray[np.bool_]:
    """What the rule of IoU 0.5 and boxes of all sizes says."""
    return (rules & np.uint64(1)).astype(bool)
