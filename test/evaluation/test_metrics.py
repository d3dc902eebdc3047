# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Accuracy metrics against values worked out by hand, and exact merging."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from mtl_evaluation.kinds import of
from mtl_evaluation.metrics.classification import ClassificationMetric
from mtl_evaluation.metrics.detection import DetectionMetric
from mtl_evaluation.metrics.segmentation import SegmentationMetric
from mtl_perception import kinds
from mtl_perception.tasks import DETECTION, DRIVABLE, SEMANTIC, TIME_OF_DAY, Task

CAR = DETECTION.classes.index('car')
BUS = DETECTION.classes.index('bus')


@dataclass
class Predicted:
    """A prediction as `decode.Detections` shapes it."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


def predicted(*rows: tuple[float, float, float, float, float, int]) -> Predicted:
    """Rows of x1, y1, x2, y2, score, label."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Predicted(
        table[:, :4].astype(np.float32), table[:, 4].astype(np.float32), table[:, 5].astype(int)
    )


def mask(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.uint8)


def test_segmentation_counts_labelled_pixels_only():
    metric = SegmentationMetric(DRIVABLE)
    metric.update(mask([0, 0, 1, 2]), mask([0, 1, 1, 255]))

    result = metric.result()

    assert metric.confusion.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 0]]
    assert result['iou'] == {'direct': 0.5, 'alternative': 0.5, 'background': None}
    assert result['miou'] == 0.5
    assert result['pixel_accuracy'] == pytest.approx(2 / 3)
    assert result['labelled_pixels'] == 3


def test_prediction_outside_the_table_is_a_miss_of_its_class_only():
    metric = SegmentationMetric(DRIVABLE)
    metric.update(mask([255, 0, 1]), mask([0, 0, 1]))

    result = metric.result()

    assert metric.unanswered.tolist() == [1, 0, 0]
    assert result['iou']['direct'] == 0.5
    assert result['iou']['alternative'] == 1.0
    assert result['pixel_accuracy'] == pytest.approx(2 / 3)


def test_official_drivable_forgives_what_the_strict_figure_does_not():
    truth = mask([0, 0, 1, 1, 2, 2, 2, 2])
    metric = SegmentationMetric(DRIVABLE)
    metric.update(mask([0, 0, 1, 1, 0, 0, 0, 0]), truth)  # all background painted direct

    result = metric.result()

    assert result['official_miou'] == 1.0
    assert result['miou'] == pytest.approx((2 / 6 + 1 + 0) / 3)


def test_official_drivable_counts_lost_drivable_area():
    metric = SegmentationMetric(DRIVABLE)
    metric.update(mask([0, 2, 1, 0]), mask([0, 0, 1, 1]))

    # direct: hit 1, truth 2, painted on labelled drivable 2 -> 1/3; alternative: 1 of 2 -> 1/2
    assert metric.result()['official_miou'] == pytest.approx((1 / 3 + 1 / 2) / 2)


def test_two_class_drivable_does_not_tell_direct_from_alternative():
    metric = SegmentationMetric(DRIVABLE)
    metric.update(mask([1, 0, 2, 0, 2]), mask([0, 0, 0, 2, 2]))

    # drivable: 2 of 3, one pixel of background painted -> 2/4; background: 1 of 2 + 1 -> 1/3
    assert metric.result()['two_class_miou'] == pytest.approx((2 / 4 + 1 / 3) / 2)


def test_semantic_mean_is_over_classes_present_in_the_truth():
    metric = SegmentationMetric(SEMANTIC)
    metric.update(mask([0, 13]), mask([0, 0]))  # 'car' is predicted but absent from the truth

    assert metric.result()['miou'] == 0.5
    assert metric.result()['iou']['car'] is None
    assert 'official_miou' not in metric.result()


@pytest.mark.parametrize('areas', [1, 8])
def test_pixels_are_counted_one_by_one_however_they_lie(areas):
    """Noise, and areas of equal pixels: counted in two ways."""
    rng = np.random.default_rng(areas)
    small = rng.choice([*range(19), 255], (2, 40, 60)).astype(np.uint8)
    prediction, truth = small.repeat(areas, 1).repeat(areas, 2)
    # Rows that are padded, as those of an image message may be.
    padded = np.zeros((len(prediction), prediction.shape[1] + 3), np.uint8)
    padded[:, : prediction.shape[1]] = prediction
    metric = SegmentationMetric(SEMANTIC)

    metric.update(padded[:, : prediction.shape[1]], truth)

    for label in range(19):
        for answer in range(19):
            count = int(((truth == label) & (prediction == answer)).sum())
            assert metric.confusion[label, answer] == count
        assert metric.unanswered[label] == ((truth == label) & (prediction == 255)).sum()


@pytest.mark.parametrize(
    ('prediction', 'truth', 'message'),
    [
        (mask([0, 0]), mask([0]), 'truth is'),
        (mask([0]), mask([7]), 'another class table'),
        (np.zeros((1, 1), np.int64), mask([0]), 'must be uint8'),
    ],
)
def test_segmentation_refuses_what_it_cannot_compare(prediction, truth, message):
    metric = SegmentationMetric(DRIVABLE)

    with pytest.raises(ValueError, match=message):
        metric.update(prediction, truth)

    assert metric.frames == 0
    assert not metric.confusion.any()


def test_nothing_measured_is_none_and_not_zero():
    assert SegmentationMetric(DRIVABLE).result()['miou'] is None
    assert DetectionMetric(DETECTION).result()['AP'] is None
    assert ClassificationMetric(TIME_OF_DAY).result()['accuracy'] is None


def test_perfect_detections_score_one_and_absent_classes_do_not_count():
    metric = DetectionMetric(DETECTION)
    metric.update(
        'a', predicted((10, 10, 50, 50, 0.9, CAR)), [[10, 10, 50, 50]], [CAR],
        width=100, height=100,
    )  # fmt: skip

    result = metric.result()

    assert result['AP'] == pytest.approx(1.0)
    assert result['per_class']['car']['AP50'] == pytest.approx(1.0)
    assert result['per_class']['bus']['AP'] is None
    assert result['objects']['car'] == 1


def test_average_precision_by_hand():
    """Ranked right, wrong, right over two objects: precision 1 up to recall 0.5, then 2/3."""
    metric = DetectionMetric(DETECTION)
    metric.update(
        'a',
        predicted((0, 0, 40, 40, 0.9, CAR), (60, 60, 99, 99, 0.8, CAR), (0, 50, 40, 90, 0.7, CAR)),
        [[0, 0, 40, 40], [0, 50, 40, 90]], [CAR, CAR], width=100, height=100,
    )  # fmt: skip

    # 101 recall points: 0.00 to 0.50 (51 of them) at precision 1, 0.51 to 1.00 (50) at 2/3
    assert metric.result()['AP50'] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_width_counts_pixels_inclusively_as_scalabel_does():
    """One pixel of difference decides: 4x10 in 5x10 is IoU 0.8 exactly, with plain widths 0.75."""
    metric = DetectionMetric(DETECTION)
    metric.update(
        'a', predicted((0, 0, 3, 9, 0.9, CAR)), [[0, 0, 4, 9]], [CAR], width=100, height=100
    )

    assert metric.result()['AP'] == pytest.approx(0.7)  # thresholds 0.50 to 0.80: 7 of 10


def test_ignored_boxes_are_neither_right_nor_wrong():
    metric = DetectionMetric(DETECTION)
    metric.update(
        'a',
        predicted((0, 0, 40, 40, 0.9, CAR), (60, 60, 80, 80, 0.95, CAR)),
        [[0, 0, 40, 40], [55, 55, 99, 99], [0, 0, 9, 9]], [CAR, CAR, BUS], [False, True, True],
        width=100, height=100,
    )  # fmt: skip

    result = metric.result()

    assert result['AP'] == pytest.approx(1.0)
    assert result['per_class']['bus']['AP'] is None
    assert (result['objects']['car'], result['ignored']) == (1, 2)


def test_false_alarm_on_an_empty_image_lowers_the_score():
    metric = DetectionMetric(DETECTION)
    metric.update(
        'a', predicted((0, 0, 9, 9, 0.5, CAR)), [[0, 0, 9, 9]], [CAR], width=100, height=100
    )
    assert metric.result()['AP50'] == pytest.approx(1.0)

    metric.update('b', predicted((0, 0, 9, 9, 0.9, CAR)), [], [], width=100, height=100)

    assert metric.result()['AP50'] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ('rows', 'boxes', 'labels', 'message'),
    [
        ([], [[0, 0, 1, 1]], [], '1 truth boxes, 0 labels'),
        ([], [[0, 0, 1, 1]], [10], 'has 10 classes'),
        ([(0, 0, np.nan, 1, 0.5, 0)], [], [], 'not a finite number'),
    ],
)
def test_detection_refuses_malformed_input(rows, boxes, labels, message):
    metric = DetectionMetric(DETECTION)
    with pytest.raises(ValueError, match=message):
        metric.update('a', predicted(*rows), boxes, labels, width=10, height=10)


def test_an_image_counts_once():
    metric, other = DetectionMetric(DETECTION), DetectionMetric(DETECTION)
    metric.update('a', predicted(), [], [], width=10, height=10)
    other.update('a', predicted(), [], [], width=10, height=10)

    with pytest.raises(ValueError, match='added before'):
        metric.update('a', predicted(), [], [], width=10, height=10)
    with pytest.raises(ValueError, match='in both metrics'):
        metric.merge(other)


def test_classification_by_hand():
    metric = ClassificationMetric(TIME_OF_DAY)
    for prediction, truth in ((0, 0), (0, 0), (1, 0), (1, 1), (2, 1)):
        metric.update(prediction, truth)

    result = metric.result()

    assert result['accuracy'] == pytest.approx(3 / 5)
    assert result['f1']['daytime'] == pytest.approx(4 / 5)
    assert result['f1']['night'] == pytest.approx(2 / 4)
    assert result['f1']['dawn/dusk'] is None
    assert result['macro_f1'] == pytest.approx(0.65)
    with pytest.raises(ValueError, match='expected 0 to 2'):
        metric.update(3, 0)


def test_merging_parts_in_any_order_equals_one_pass():
    rng = np.random.default_rng(7)
    whole = [of(task).metric(task) for task in (DETECTION, SEMANTIC, TIME_OF_DAY)]
    parts = [
        [of(task).metric(task) for task in (DETECTION, SEMANTIC, TIME_OF_DAY)] for _ in range(3)
    ]
    for index in range(12):
        boxes = rng.uniform(0, 60, (6, 2))
        truth = np.concatenate([boxes, boxes + rng.uniform(5, 40, (6, 2))], 1)
        labels = rng.integers(0, 10, 6)
        # Scores of one decimal, so that ties must be ranked alike.
        found = Predicted(truth + rng.normal(0, 2, truth.shape), rng.integers(0, 9, 6) / 10, labels)
        maps = rng.integers(0, 19, (2, 8, 8)).astype(np.uint8)
        for detection, semantic, time in (whole, parts[index % 3]):
            detection.update(f'{index:03d}', found, truth, labels, width=100, height=100)
            semantic.update(*maps)
            time.update(index % 3, index % 2)

    for first, second, third, expected in zip(*reversed(parts), whole, strict=True):
        first.merge(second)
        first.merge(third)
        assert first.result() == expected.result()


def test_metrics_of_other_class_tables_do_not_merge():
    other = Task('drivable', 'segmentation', ('road', 'background'))
    with pytest.raises(ValueError, match='different class tables'):
        SegmentationMetric(DRIVABLE).merge(SegmentationMetric(other))
    with pytest.raises(ValueError, match='expected detection'):
        DetectionMetric(DRIVABLE)


def test_every_kind_has_a_metric():
    assert all(
        of(task := Task('some', kind, ('a', 'b'))).metric(task).frames == 0 for kind in kinds.KINDS
    )
