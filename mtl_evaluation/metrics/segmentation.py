# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Confusion of class masks, and the IoU of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.metrics.checks import check_kind, check_same_task
from mtl_evaluation.metrics.sums import (
    Figures,
    Floats,
    by_class,
    mean_of_known,
    plain,
    share,
)
from mtl_perception.tasks import UNLABELLED, Task

DRIVABLE_BACKGROUND = 'background'
"""Class whose labelled pixels BDD100K's official drivable mIoU leaves out."""


class SegmentationMetric:
    """Confusion of one segmentation task over all labelled pixels of all frames.

    A pixel whose truth is 255 is not counted. A labelled pixel predicted as anything outside the
    class table (255, say) is a miss of its class: it lowers that class's IoU and no other's.
    """

    def __init__(self, task: Task) -> None:
        """Start from no frame; raises ValueError when the task is not a segmentation task."""
        check_kind(task, 'segmentation')
        self.task = task
        self.frames = 0
        classes = len(task.classes)
        self.confusion: NDArray[np.int64] = np.zeros((classes, classes), np.int64)
        """Pixels by [truth, prediction]."""
        self.unanswered: NDArray[np.int64] = np.zeros(classes, np.int64)
        """Labelled pixels by truth whose prediction is outside the class table."""

    @staticmethod
    def figure_names(task: Task) -> Iterator[str]:
        """Names of all figures, the headline first."""
        yield from ('miou', 'pixel_accuracy')
        if DRIVABLE_BACKGROUND in task.classes:
            yield from ('official_miou', 'two_class_miou')
            yield from (
                f'official_iou/{name}' for name in task.classes if name != DRIVABLE_BACKGROUND
            )
        yield from (f'iou/{name}' for name in task.classes)

    def update(self, prediction: NDArray[np.uint8], truth: NDArray[np.uint8]) -> None:
        """Add one frame: two uint8 [H, W] class maps of one size.

        Raises ValueError when sizes or types differ, or when the truth holds an id that is neither
        a class of this task nor 255: then the class tables differ and any number would be wrong.
        """
        for name, mask in (('prediction', prediction), ('truth', truth)):
            if mask.dtype != np.uint8 or mask.ndim != 2:
                raise ValueError(
                    f'{self.task.name} {name} must be uint8 [H, W], got {mask.dtype} {mask.shape}'
                )
        if prediction.shape != truth.shape:
            raise ValueError(
                f'{self.task.name} prediction is {prediction.shape}, truth is {truth.shape} [H, W]'
            )
        counts = _joint_histogram(truth, prediction)
        classes = len(self.task.classes)
        unknown = np.flatnonzero(counts[classes:UNLABELLED].any(1)) + classes
        if unknown.size:
            raise ValueError(
                f'{self.task.name} truth holds ids {unknown.tolist()}, expected below {classes} '
                f'or {UNLABELLED} (unlabelled): it was labelled with another class table'
            )
        self.confusion += counts[:classes, :classes]
        self.unanswered += counts[:classes, classes:].sum(1)
        self.frames += 1

    def merge(self, other: SegmentationMetric) -> None:
        """Add another metric's frames; raises ValueError when its task differs."""
        check_same_task(self.task, other.task)
        self.confusion += other.confusion
        self.unanswered += other.unanswered
        self.frames += other.frames

    def counts(self) -> NDArray[np.int64]:
        """Pixels right, labelled and predicted by class, and what background was called."""
        background = _background(self.task)
        return np.concatenate(
            [
                np.diag(self.confusion),
                self.confusion.sum(1) + self.unanswered,
                self.confusion.sum(0),
                self.confusion[background] if background is not None else [],
            ]
        ).astype(np.int64)

    @staticmethod
    def labelled(task: Task, counts: Floats) -> NDArray[np.bool_]:
        """Which classes the truth of each row of counts holds, [rows, classes]."""
        classes = len(task.classes)
        return np.asarray(counts[:, classes : 2 * classes] > 0)

    @staticmethod
    def figures(task: Task, sums: Floats) -> Figures:
        """Figures of each sum of counts [samples, numbers].

        miou: mean IoU over the classes with at least one labelled pixel. iou: by class.
        pixel_accuracy: share of labelled pixels answered rightly.

        A task with a class `background` (drivable) also has `official_miou`, BDD100K's figure:
        pixels whose label is background are dropped, the mean is over the other classes present.
        It forgives all area that is wrongly called drivable; read `miou`, which does not, beside
        it. And `two_class_miou`, the YOLOP family's figure: background against everything else,
        which is the fair one where the truth does not tell the other classes apart.
        """
        classes = len(task.classes)
        right, labelled, predicted = (
            sums[:, start : start + classes] for start in range(0, 3 * classes, classes)
        )
        iou = _iou(right, labelled, predicted)
        found = {
            'miou': mean_of_known(iou),
            'pixel_accuracy': share(right.sum(1), labelled.sum(1)),
            **{f'iou/{name}': iou[:, i] for i, name in enumerate(task.classes)},
        }
        own = _background(task)
        if own is not None:
            rest = np.arange(classes) != own
            called = sums[:, 3 * classes :]
            official = _iou(right[:, rest], labelled[:, rest], predicted[:, rest] - called[:, rest])
            found['official_miou'] = mean_of_known(official)
            names = [name for name in task.classes if name != DRIVABLE_BACKGROUND]
            found |= {f'official_iou/{name}': official[:, i] for i, name in enumerate(names)}
            sides = [
                np.stack([values[:, rest].sum(1), values[:, own]], 1)
                for values in (labelled, predicted)
            ]
            agreed = np.stack([sides[1][:, 0] - called[:, rest].sum(1), right[:, own]], 1)
            found['two_class_miou'] = mean_of_known(_iou(agreed, *sides))
        return found

    def result(self) -> dict[str, Any]:
        """Scores so far, as `figures`; None for what the truth lacks."""
        figures = plain(self, self.task)
        result: dict[str, Any] = {
            'frames': self.frames,
            'labelled_pixels': int(self.confusion.sum() + self.unanswered.sum()),
            'miou': figures['miou'],
            'pixel_accuracy': figures['pixel_accuracy'],
            'iou': by_class(figures, 'iou', self.task.classes),
        }
        if 'official_miou' in figures:
            rest = [name for name in self.task.classes if name != DRIVABLE_BACKGROUND]
            result['official_miou'] = figures['official_miou']
            result['official_iou'] = by_class(figures, 'official_iou', rest)
            result['two_class_miou'] = figures['two_class_miou']
        return result

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """For storage; `from_arrays` is the inverse."""
        return {
            'frames': np.array(self.frames, np.int64),
            'confusion': self.confusion,
            'unanswered': self.unanswered,
        }

    @classmethod
    def from_arrays(cls, task: Task, arrays: Mapping[str, NDArray[Any]]) -> SegmentationMetric:
        """What `to_arrays` gave."""
        metric = cls(task)
        metric.frames = int(arrays['frames'])
        metric.confusion, metric.unanswered = arrays['confusion'], arrays['unanswered']
        return metric


def _background(task: Task) -> int | None:
    classes = task.classes
    return classes.index(DRIVABLE_BACKGROUND) if DRIVABLE_BACKGROUND in classes else None


def _iou(right: Floats, labelled: Floats, predicted: Floats) -> Floats:
    return np.where(labelled > 0, share(right, labelled + predicted - right), np.nan)


def _joint_histogram(truth: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Pixels by [truth, prediction], int64 [256, 256].

    Masks are made of areas, so runs of equal pairs are counted, not pixels: a third of the time of
    `cv2.calcHist`, which is itself twice as fast as `np.bincount` of all pairs.
    """
    pairs = cv2.merge([prediction, truth]).view(np.uint16).ravel()
    ends = np.flatnonzero(pairs[1:] != pairs[:-1])
    if len(ends) > pairs.size // 20:  # noise
        return np.bincount(pairs, minlength=1 << 16).reshape(256, 256)
    ends = np.append(ends, pairs.size - 1)
    lengths = np.diff(ends, prepend=-1)
    counts = np.bincount(pairs[ends], weights=lengths, minlength=1 << 16)
    return counts.astype(np.int64).reshape(256, 256)
