# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""How wrong a frame is, by task.

Of detections the number of missed objects and false boxes (IoU 0.5, score at least what pictures
show), of a mask 1 - mIoU over the classes labelled in the frame, of a scene label 1 when it is
wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch

from mtl_evaluation.metrics.average_precision import at_iou_50
from mtl_evaluation.metrics.classification import ClassificationMetric
from mtl_evaluation.metrics.detection import DetectionMetric
from mtl_evaluation.metrics.segmentation import SegmentationMetric

SHOWN_SCORE = 0.3
"""Detections below this score are measured but not painted."""


@dataclass(frozen=True)
class Flaw:
    """How wrong a frame is at one task: 0 is right, more is worse; and the same in words."""

    badness: float
    text: str


@singledispatch
def flaw(piece: object) -> Flaw:
    """How wrong the one frame is that a metric piece holds."""
    raise TypeError(f'no rule says how wrong a {type(piece).__name__} is')


@flaw.register
def _(piece: DetectionMetric) -> Flaw:
    missed = false = objects = 0
    for image in piece.images.values():
        shown = image.scores >= SHOWN_SCORE
        right = at_iou_50(image.matches.right[shown])
        passed = at_iou_50(image.matches.ignored[shown])
        scored = int((~image.unscored[:, 0]).sum())
        objects += scored
        missed += scored - int(right.sum())
        false += int((~right & ~passed).sum())
    return Flaw(missed + false, f'{missed} of {objects} objects missed, {false} false')


@flaw.register
def _(piece: SegmentationMetric) -> Flaw:
    result = piece.result()
    if result['miou'] is None:
        return Flaw(0.0, 'nothing labelled')
    present = {name: iou for name, iou in result['iou'].items() if iou is not None}
    lowest = sorted(present, key=lambda name: present[name])[:2]
    named = ', '.join(f'{name} {100 * present[name]:.0f}' for name in lowest)
    return Flaw(1 - result['miou'], f'mIoU {100 * result["miou"]:.0f} (lowest: {named})')


@flaw.register
def _(piece: ClassificationMetric) -> Flaw:
    classes = piece.task.classes
    truth, found = (int(piece.confusion.sum(axis).argmax()) for axis in (1, 0))
    if truth == found:
        return Flaw(0.0, f'{classes[truth]}, rightly')
    return Flaw(1.0, f'called {classes[found]}, is {classes[truth]}')
