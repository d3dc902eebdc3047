# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What the YOLOP family reports, counted as their code counts it, so that people can compare.

After github.com/hustvl/YOLOP, `lib/core/evaluate.py` and `lib/core/function.py` (Wu et al., 2022),
which HybridNets, YOLOPv2, YOLOPX and TwinLiteNet follow. Not the figures to judge a model by: the
vehicle classes are one, recall is taken at a confidence of 0.001 where nobody drives, and the
drivable mIoU has two classes and is a mean over batches. Three things differ here: ignored regions
(crowds, `other vehicle`) stay ignored where they know none, masks are compared at the size of the
image and not of the network's input, and the mean over batches is one over images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.metrics.average_precision import ScoredImage
from mtl_evaluation.metrics.detection import DetectionMetric
from mtl_evaluation.metrics.metrics import Metric
from mtl_evaluation.metrics.segmentation import SegmentationMetric
from mtl_perception.decode import Thresholds, suppress
from mtl_perception.tasks import DETECTION
from training.evaluation.scoring import COARSE

SOURCE = 'github.com/hustvl/YOLOP lib/core/{evaluate,function}.py'
VEHICLES = ('car', 'bus', 'truck', 'train')
IOU = 0.5
POINTS = np.linspace(0, 1, 101)

_IDS = [DETECTION.classes.index(name) for name in VEHICLES]
_DRIVABLE = COARSE['drivable'].task.name


class YolopStyle:
    """Sums over frames, one at a time."""

    def __init__(self) -> None:
        """Start from no frame."""
        self._scores: list[NDArray[np.float64]] = []
        self._right: list[NDArray[np.bool_]] = []
        self._vehicles = 0
        self._boxes = False
        self._drivable_miou: list[float] = []

    def add(self, pieces: Mapping[str, Metric]) -> None:
        """Add a frame by its pieces."""
        detections, drivable = pieces.get(DETECTION.name), pieces.get(_DRIVABLE)
        if isinstance(detections, DetectionMetric):
            self._boxes = True
            for image in detections.images.values():
                scores, right, vehicles = vehicles_found(image)
                self._scores.append(scores)
                self._right.append(right)
                self._vehicles += vehicles
        if isinstance(drivable, SegmentationMetric):
            # In their code a class that neither truth nor answer shows has an IoU of 0.
            iou = drivable.confusion.diagonal() / np.maximum(_union(drivable.confusion), 1)
            self._drivable_miou.append(float(iou.mean()))

    def result(self) -> dict[str, Any]:
        """Figures over all frames, those whose labels there are; empty without any."""
        result: dict[str, Any] = {}
        if self._boxes:
            result |= {'vehicles': self._vehicles} | dict.fromkeys(('vehicle_map50', 'recall'))
            if self._vehicles:
                order = np.argsort(-np.concatenate(self._scores), kind='stable')
                right = np.concatenate(self._right)[order]
                result['vehicle_map50'] = average_precision(right, self._vehicles)
                result['recall'] = float(right.sum() / self._vehicles)
        if self._drivable_miou:
            result['drivable_miou'] = float(np.mean(self._drivable_miou))
        return {'source': SOURCE, **result} if result else {}


def vehicles_found(
    image: ScoredImage, nms_iou: float = Thresholds().nms_iou
) -> tuple[NDArray[np.float64], NDArray[np.bool_], int]:
    """Scores of the vehicles answered, whether each is right, and how many vehicles there are.

    Each answer is right if the vehicle that it overlaps most (IoU above 0.5, plain widths) was not
    found before by a better one; it is not matched with the next best.
    """
    kept = np.flatnonzero(np.isin(image.predicted_labels, _IDS))
    kept = kept[np.argsort(-image.scores[kept], kind='stable')]
    boxes = image.predicted[kept]
    # The classes are one: of a car and a truck at one place only the better answer stays.
    alone = suppress(boxes.astype(np.float32), np.zeros(len(boxes), np.int64), nms_iou)
    boxes, scores = boxes[alone], image.scores[kept][alone]
    vehicle = np.isin(image.truth_labels, _IDS)
    truth = image.truth[vehicle & ~image.ignore]
    overlap, _ = _overlaps(boxes, truth)
    right = np.zeros(len(boxes), bool)
    if len(truth):
        best = overlap.argmax(1)
        near = np.flatnonzero(overlap[np.arange(len(boxes)), best] > IOU)
        _, first = np.unique(best[near], return_index=True)
        right[near[first]] = True
    _, inside = _overlaps(boxes, image.truth[vehicle & image.ignore])
    counted = right | ~(inside > IOU).any(1)
    return scores[counted], right[counted], len(truth)


def average_precision(right: NDArray[np.bool_], objects: int) -> float:
    """Area under the curve of precision over recall, as `compute_ap` of YOLOP integrates it.

    Between the points of the curve it is a straight line, and from the last one it falls to 0.
    """
    if not len(right):
        return 0.0
    found = np.cumsum(right)
    recall = found / objects
    precision = found / np.arange(1, len(right) + 1)
    recall = np.concatenate([[0.0], recall, [recall[-1] + 0.01]])
    precision = np.concatenate([[1.0], precision, [0.0]])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    curve = np.interp(POINTS, recall, envelope)
    return float((curve[1:] + curve[:-1]).sum() / 2 * (POINTS[1] - POINTS[0]))


def _overlaps(
    boxes: NDArray[np.float64], truth: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """IoU [N, M] of xyxy boxes, and the share of each box that lies inside the other."""
    low = np.maximum(boxes[:, None, :2], truth[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], truth[None, :, 2:])
    shared = np.maximum(high - low, 0).prod(2)
    area, other = (np.maximum(b[:, 2:] - b[:, :2], 1e-9).prod(1) for b in (boxes, truth))
    return shared / (area[:, None] + other - shared), shared / area[:, None]


def _union(confusion: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.asarray(confusion.sum(0) + confusion.sum(1) - confusion.diagonal(), np.int64)
