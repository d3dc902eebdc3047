# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Precision-recall curves against COCO's evaluator, confusion against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mtl_evaluation.metrics.curves import detection_confusion, precision_recall
from mtl_evaluation.metrics.detection import DetectionMetric
from mtl_perception.tasks import DETECTION

CLASSES = len(DETECTION.classes)
BACKGROUND = CLASSES
CAR, BUS, TRUCK = (DETECTION.classes.index(name) for name in ('car', 'bus', 'truck'))


class Found:
    def __init__(self, boxes, scores, labels):
        self.boxes = np.array(boxes, np.float64).reshape(-1, 4)
        self.scores = np.array(scores, np.float64)
        self.labels = np.array(labels, np.int64)


def metric_of(*images):
    """Images as (boxes, scores, labels, truth, truth labels, ignored)."""
    metric = DetectionMetric(DETECTION)
    for number, (boxes, scores, labels, truth, truth_labels, ignored) in enumerate(images):
        metric.update(
            f'{number:03d}', Found(boxes, scores, labels), truth, truth_labels, ignored,
            width=200, height=200,
        )  # fmt: skip
    return metric


def random_metric(seed, images=25):
    """Overlapping objects, crowds, near misses, tied scores, more than 100 of a class."""
    rng = np.random.default_rng(seed)
    frames = []
    for number in range(images):
        count = int(rng.integers(0, 7))
        corners = rng.uniform(0, 120, (count, 2))
        truth = np.concatenate([corners, corners + rng.uniform(8, 70, (count, 2))], 1)
        labels = rng.choice([CAR, BUS, TRUCK], count)
        copies = np.repeat(truth, 3, axis=0) + rng.normal(0, 4, (3 * count, 4))
        false = rng.uniform(0, 90, (130 if number == 3 else 4, 2))
        boxes = np.concatenate([copies, np.concatenate([false, false + 25], 1)])
        guesses = np.concatenate([np.repeat(labels, 3), np.full(len(false), CAR)])
        guesses[rng.random(len(guesses)) < 0.2] = TRUCK
        scores = rng.integers(0, 12, len(boxes)) / 12
        frames.append((boxes, scores, guesses, truth, labels, rng.random(count) < 0.2))
    return metric_of(*frames)


def coco_precision(metric):
    """[IoU, recall, class, area] of faster-coco-eval over the same boxes."""
    from faster_coco_eval import COCO, COCOeval_faster

    images, annotations, detections = [], [], []
    for number, image in enumerate(metric.images.values(), start=1):
        images.append({'id': number, 'width': image.width, 'height': image.height})
        for box, label, ignored in zip(image.truth, image.truth_labels, image.ignore, strict=True):
            wide, high = box[2:] - box[:2] + 1
            annotations.append(
                {
                    'id': len(annotations) + 1, 'image_id': number, 'category_id': int(label) + 1,
                    'bbox': [*box[:2], wide, high], 'area': wide * high, 'iscrowd': int(ignored),
                }
            )  # fmt: skip
        for box, score, label in zip(
            image.predicted, image.scores, image.predicted_labels, strict=True
        ):
            detections.append(
                {
                    'image_id': number, 'category_id': int(label) + 1, 'score': float(score),
                    'bbox': [*box[:2], *(box[2:] - box[:2] + 1)],
                }
            )  # fmt: skip
    categories = [{'id': i + 1, 'name': name} for i, name in enumerate(metric.task.classes)]
    truth = COCO({'images': images, 'annotations': annotations, 'categories': categories})
    evaluation = COCOeval_faster(
        truth, truth.loadRes(detections), iouType='bbox', print_function=lambda *_: None
    )
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval['precision'][..., -1]


@pytest.mark.parametrize(('seed', 'iou', 'level'), [(0, 0.5, 0), (1, 0.75, 5), (2, 0.5, 0)])
def test_curves_are_cocos_precision_array(seed, iou, level):
    metric = random_metric(seed)
    expected = coco_precision(metric)[level, :, :, 0]

    curves = precision_recall(metric.ranked(), iou)

    assert set(curves) == {DETECTION.classes[c] for c in range(CLASSES) if expected[0, c] > -1}
    assert len(curves) == 3
    for name, (recall, precision) in curves.items():
        assert recall[[0, 50, 100]].tolist() == [0, 0.5, 1]
        np.testing.assert_allclose(
            precision, expected[:, DETECTION.classes.index(name)], atol=1e-12
        )
    key = 'AP50' if level == 0 else 'AP75'
    means = [precision.mean() for _, precision in curves.values()]
    assert np.mean(means) == pytest.approx(metric.result()[key])


def test_a_threshold_that_is_not_cocos_is_refused():
    with pytest.raises(ValueError, match=r'0\.45'):
        precision_recall(DetectionMetric(DETECTION).ranked(), 0.45)


def test_confusion_by_hand():
    box = [10, 10, 59, 59]
    shifted = [20, 10, 69, 59]  # IoU 40 * 50 / (60 * 50) = 2/3 with `box`
    far = [120, 120, 169, 169]
    metric = metric_of(
        # A car that a better scored truck also covers: its own class has the first word.
        ([shifted, box], [0.9, 0.6], [TRUCK, CAR], [box], [CAR], [False]),
        # A bus taken for a truck; a car below the score; a false car.
        ([box, far, far], [0.8, 0.2, 0.7], [TRUCK, BUS, CAR], [box], [BUS], [False]),
        # On an ignored region of another class, and nobody finds the bus.
        ([far], [0.9], [CAR], [far, box], [TRUCK, BUS], [True, False]),
        ([], [], [], [], [], []),
    )
    expected = np.zeros((CLASSES + 1, CLASSES + 1), int)
    expected[CAR, CAR] = 1
    expected[BACKGROUND, TRUCK] = 1
    expected[BUS, TRUCK] = 1
    expected[BACKGROUND, CAR] = 1
    expected[BUS, BACKGROUND] = 1

    assert detection_confusion(metric).tolist() == expected.tolist()
    assert detection_confusion(metric, iou=0.7).tolist() == expected.tolist()
    assert detection_confusion(metric, score=0.95).sum() == 3  # every object missed
    low = detection_confusion(metric, score=0.1)
    assert low[BACKGROUND, BUS] == 1


def test_one_object_is_found_once():
    box = [10, 10, 59, 59]
    metric = metric_of(([box, box], [0.9, 0.8], [CAR, CAR], [box], [CAR], [False]))

    confusion = detection_confusion(metric)

    assert confusion[CAR, CAR] == 1
    assert confusion[BACKGROUND, CAR] == 1
    assert confusion.sum() == 2


@pytest.mark.parametrize('seed', [0, 1])
def test_confusion_accounts_for_every_object_and_agrees_with_recall(seed):
    metric = random_metric(seed)
    score = 0.5
    confusion = detection_confusion(metric, score=score)

    objects = metric.result()['objects']
    assert confusion[:-1].sum(1).tolist() == list(objects.values())
    assert confusion[-1, -1] == 0
    for label in (CAR, BUS, TRUCK):
        hits = 0
        for image in metric.images.values():
            kept = (image.scores >= score) & (image.predicted_labels == label)
            truth = (image.truth_labels == label) & ~image.ignore
            hits += _greedy_hits(image.predicted[kept], image.scores[kept], image.truth[truth], 0.5)
        assert confusion[label, label] == hits


def _greedy_hits(boxes, scores, truth, iou):
    """The plainest loop that finds the same number."""
    taken = set()
    for box in boxes[np.argsort(-scores, kind='stable')]:
        best, at = iou, -1
        for index, other in enumerate(truth):
            if index in taken:
                continue
            sides = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2]) + 1
            if (sides <= 0).any():
                continue
            shared = sides.prod()
            whole = (box[2:] - box[:2] + 1).prod() + (other[2:] - other[:2] + 1).prod() - shared
            if shared / whole >= best:
                best, at = shared / whole, index
        if at >= 0:
            taken.add(at)
    return len(taken)
