# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Curves and confusion of detections: what a single figure of average precision hides.

Both are made of the detections of a whole run or of any part of it, with COCO's IoU: widths
counted inclusively, and over the area of the detection alone for ignored truth boxes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.metrics.average_precision import (
    IOUS,
    RECALLS,
    Ranking,
    ScoredImage,
    box_overlaps,
    inclusive_xywh,
)
from mtl_evaluation.metrics.detection import DetectionMetric

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Of equally many points: x, y."""

CONFUSION_SCORE = 0.25
"""Detections below it are not in the confusion: at lower ones most of it would be background."""


def precision_recall(ranking: Ranking, iou: float = 0.5) -> dict[str, Curve]:
    """Class -> recall [101] and the best precision at that recall or a higher one [101].

    COCO's `precision` at that IoU threshold (one of 0.50, 0.55, ... 0.95; ValueError otherwise),
    all areas: a curve's mean is the class's AP there. A class without a truth box is left out.
    """
    levels = np.flatnonzero(np.isclose(IOUS, iou))
    if not len(levels):
        raise ValueError(f'IoU threshold {iou} is none of {IOUS.round(2).tolist()}')
    precision = ranking.precision(ious=[int(levels[0])], areas=[0])[0, 0, :, :, 0]
    return {
        name: (RECALLS, curve)
        for name, curve in zip(ranking.classes, precision.T, strict=True)
        if curve[0] > -1
    }


def detection_confusion(
    metric: DetectionMetric, iou: float = 0.5, score: float = CONFUSION_SCORE
) -> NDArray[np.int64]:
    """Objects by [truth, prediction], int64 [C + 1, C + 1]; the last row and column: background.

    Only detections of at least `score` count. First those of each class, best first, take the free
    object of that class which they overlap most, by at least `iou`: the diagonal, which is what AP
    calls right at that score. Then the others, best first, take the free object of any other class
    in the same way: a confusion. What is left of the objects is missed (last column); what is left
    of the detections is a false alarm (last row), unless as much of it lies on an ignored box.
    """
    classes = len(metric.task.classes)
    confusion = np.zeros((classes + 1, classes + 1), np.int64)
    for image in metric.images.values():
        truth_labels, answers, alarms = _answers(image, classes, iou, score)
        np.add.at(confusion, (truth_labels, answers), 1)
        np.add.at(confusion[classes], alarms, 1)
    return confusion


def _answers(
    image: ScoredImage, background: int, iou: float, score: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Labels of the M objects, what each was taken for, and labels of the false alarms."""
    kept = np.flatnonzero(image.scores >= score)
    kept = kept[np.argsort(-image.scores[kept], kind='stable')]
    labels = image.predicted_labels[kept]
    overlap = box_overlaps(
        inclusive_xywh(image.predicted[kept]), inclusive_xywh(image.truth), image.ignore
    )
    near = overlap >= iou
    on_ignored = near[:, image.ignore].any(1)
    overlap, near = overlap[:, ~image.ignore], near[:, ~image.ignore]
    truth_labels = image.truth_labels[~image.ignore]
    own_class = labels[:, None] == truth_labels[None, :]
    answers = np.full(len(truth_labels), background)
    alone = np.ones(len(labels), bool)
    for allowed in (near & own_class, near):
        for index in np.flatnonzero(allowed.any(1) & alone):
            able = np.flatnonzero(allowed[index] & (answers == background))
            if len(able):
                # Of equal overlaps the last, as COCO's loop has it.
                best = able[::-1][overlap[index, able[::-1]].argmax()]
                answers[best] = labels[index]
                alone[index] = False
    return truth_labels, answers, labels[alone & ~on_ignored]
