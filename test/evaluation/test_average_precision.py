# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""COCO's average precision against the field's evaluator, bit by bit, and what it allows."""

from __future__ import annotations

import numpy as np
import pytest

from mtl_evaluation.metrics.average_precision import MatchTable
from mtl_evaluation.metrics.detection import DetectionMetric
from mtl_perception.frame import Detections
from mtl_perception.tasks import DETECTION


def random_metric(seed: int, images: int = 25) -> DetectionMetric:
    """Crowded images: boxes that overlap, ties of score and of IoU, crowds, empty images."""
    rng = np.random.default_rng(seed)
    metric = DetectionMetric(DETECTION)
    for index in range(images):
        count = int(rng.integers(0, 9))
        corner = rng.integers(0, 150, (count, 2)).astype(float)
        truth = np.concatenate([corner, corner + rng.integers(3, 150, (count, 2))], 1)
        labels = rng.integers(0, 4, count)
        source = rng.integers(0, max(count, 1), rng.integers(0, 160) if count else 0)
        jitter = rng.integers(-6, 7, (len(source), 4)) * rng.integers(0, 2, (len(source), 1))
        boxes = truth[source] + jitter
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])
        other = rng.random(len(source)) < 0.2
        found_labels = np.where(other, rng.integers(0, 5, len(source)), labels[source])
        scores = rng.integers(1, 20, len(source)) / 20
        found = Detections(boxes.astype(np.float32), scores.astype(np.float32), found_labels)
        metric.update(
            f'image {index:03d}', found, truth, labels, rng.random(count) < 0.2,
            width=300, height=300,
        )  # fmt: skip
    return metric


def oracle(metric: DetectionMetric) -> np.ndarray:
    """Precision [IoU, recall, class, area] of faster-coco-eval."""
    faster = pytest.importorskip('faster_coco_eval', reason='the oracle is a test requirement')
    images, annotations, found = [], [], []
    for number, (_, image) in enumerate(sorted(metric.images.items()), start=1):
        images.append({'id': number, 'width': image.width, 'height': image.height})
        for (x1, y1, x2, y2), label, ignored in zip(
            image.truth.tolist(), image.truth_labels.tolist(), image.ignore.tolist(), strict=True
        ):
            box = [x1, y1, x2 - x1 + 1, y2 - y1 + 1]
            annotations.append(
                {'id': len(annotations) + 1, 'image_id': number, 'category_id': label + 1,
                 'bbox': box, 'area': box[2] * box[3], 'iscrowd': int(ignored),
                 'ignore': int(ignored)}
            )  # fmt: skip
        for (x1, y1, x2, y2), score, label in zip(
            image.predicted.tolist(), image.scores.tolist(), image.predicted_labels.tolist(),
            strict=True,
        ):  # fmt: skip
            box = [x1, y1, x2 - x1 + 1, y2 - y1 + 1]
            found.append(
                {'image_id': number, 'category_id': label + 1, 'bbox': box, 'score': score}
            )
    categories = [{'id': i + 1, 'name': name} for i, name in enumerate(DETECTION.classes)]
    truth = faster.COCO({'images': images, 'annotations': annotations, 'categories': categories})
    evaluation = faster.COCOeval_faster(
        truth, truth.loadRes(found), iouType='bbox', print_function=lambda *_: None
    )
    evaluation.params.maxDets = [100]
    evaluation.evaluate()
    evaluation.accumulate()
    return np.asarray(evaluation.eval['precision'])[..., 0]


@pytest.mark.parametrize('seed', range(6))
def test_precision_is_that_of_faster_coco_eval_bit_by_bit(seed):
    metric = random_metric(seed)

    assert np.array_equal(metric.ranked().precision()[0], oracle(metric))


def test_weights_of_zero_and_one_are_a_subset():
    metric, part = random_metric(1), DetectionMetric(DETECTION)
    ranking = metric.ranked()
    times = np.arange(len(ranking.keys)) % 3 == 0
    part.images = {key: metric.images[key] for key in np.array(ranking.keys)[times]}

    assert ranking.result(times.astype(np.int64)) == part.result()


def test_weights_repeat_images_as_copies_of_them_would():
    """Scores are made unequal: copies of an image with equal scores interleave otherwise."""
    metric, copies = random_metric(2, images=10), DetectionMetric(DETECTION)
    rng = np.random.default_rng(0)
    for image in metric.images.values():
        image.scores[:] = np.sort(rng.random(len(image.scores)))[::-1]
    times = rng.integers(0, 3, 10)
    for key, count in zip(metric.images, times, strict=True):
        copies.images |= {f'{key} {copy}': metric.images[key] for copy in range(count)}

    assert metric.ranked().result(times) == copies.result()


def test_the_order_of_images_does_not_matter():
    metric = random_metric(3)
    table = MatchTable(DETECTION.classes)
    for key in reversed(metric.images):
        table.add(key, metric.images[key])

    assert table.ranked().result() == metric.result()


def test_nothing_at_all_is_not_measured():
    assert DetectionMetric(DETECTION).result()['AP'] is None
    assert MatchTable(DETECTION.classes).ranked().result()['frames'] == 0
