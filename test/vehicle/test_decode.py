# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Decoding against brute force."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mtl_perception import kinds
from mtl_perception.bundle import OutputSpec
from mtl_perception.decode import Thresholds, argmax_to_source, nearest_to_source, suppress
from mtl_perception.engines.base import EngineError
from mtl_perception.letterbox import Letterbox
from mtl_perception.tasks import DETECTION, DRIVABLE, WEATHER, Task

SQUARE = Letterbox.fit(100, 100, 100, 100)
DETECTION_SPECS = {
    meaning: OutputSpec(meaning, 'detection', meaning, 'float32', (4,))
    for meaning in ('boxes', 'scores', 'labels')
}


def upsample(logits, letterbox, stride):
    """Bilinear, half-pixel centres, border clamp, float64; written down from the definition."""

    def positions(size, scale, pad, cells):
        centre = (np.arange(size) + 0.5) * scale + pad
        return np.clip(centre / stride - 0.5, 0, cells - 1)

    _, rows, columns = logits.shape
    y = positions(letterbox.source_height, letterbox.scale_y, letterbox.pad_top, rows)
    x = positions(letterbox.source_width, letterbox.scale_x, letterbox.pad_left, columns)
    y0, x0 = np.floor(y).astype(int), np.floor(x).astype(int)
    y1, x1 = np.minimum(y0 + 1, rows - 1), np.minimum(x0 + 1, columns - 1)
    fy, fx = (y - y0)[:, None], x - x0
    logits = logits.astype(np.float64)
    upper = logits[:, y0][:, :, x0] * (1 - fx) + logits[:, y0][:, :, x1] * fx
    lower = logits[:, y1][:, :, x0] * (1 - fx) + logits[:, y1][:, :, x1] * fx
    return upper * (1 - fy) + lower * fy


def smooth_logits(classes, rows, columns, seed, sigma=3.0):
    noise = np.random.default_rng(seed).standard_normal((classes, rows, columns))
    return np.stack([cv2.GaussianBlur(plane, (0, 0), sigma) for plane in noise.astype(np.float32)])


SIZES = [
    (1280, 720), (640, 360), (480, 360), (320, 227), (333, 517), (1, 1), (7, 1000), (1000, 7),
    (30, 20), (1919, 1079),
]  # fmt: skip


@pytest.mark.parametrize('kind', ['smooth', 'random'])
@pytest.mark.parametrize('size', SIZES)
def test_masks_equal_upsampling_and_argmax(size, kind):
    letterbox = Letterbox.fit(*size, 192, 128)
    logits = smooth_logits(5, 32, 48, 1)
    if kind == 'random':
        logits = np.random.default_rng(2).standard_normal((5, 32, 48)).astype(np.float32)

    mask = argmax_to_source(logits, letterbox, 4)

    values = upsample(logits, letterbox, 4)
    expected = values.argmax(0)
    differ = mask != expected
    top = np.sort(values[:, differ], axis=0)
    assert mask.dtype == np.uint8 and mask.shape == (size[1], size[0]) and mask.flags.c_contiguous
    # A pixel may differ only where float32 cannot tell the two best classes apart.
    assert differ.sum() <= 2
    assert differ.sum() == 0 or (top[-1] - top[-2]).max() < 1e-5


def test_masks_are_exact_where_float32_is():
    """Whole-number logits and a ratio of 8: no rounding anywhere, ties included."""
    letterbox = Letterbox.fit(1280, 720, 640, 384)
    logits = np.random.default_rng(3).integers(-4, 5, (6, 96, 160)).astype(np.float32)

    mask = argmax_to_source(logits, letterbox, 4)

    np.testing.assert_array_equal(mask, upsample(logits, letterbox, 4).argmax(0))


def test_a_class_that_wins_only_between_cells_is_found():
    logits = np.zeros((3, 1, 2), np.float32)
    logits[:, 0] = [[10, 0], [0, 10], [8, 8]]

    mask = argmax_to_source(logits, Letterbox.fit(8, 4, 8, 4), 4)

    assert mask[0].tolist() == [0, 0, 0, 2, 2, 1, 1, 1]


@pytest.mark.parametrize('shape', [(1, 32, 48), (2, 1, 1), (3, 1, 48), (3, 32, 1), (255, 4, 6)])
def test_mask_corner_cases(shape):
    stride = 128 // shape[1]
    letterbox = Letterbox.fit(90, 60, 192, 128)
    logits = smooth_logits(*shape, seed=4, sigma=1.0)

    mask = argmax_to_source(logits, letterbox, stride)

    expected = upsample(logits, letterbox, stride).argmax(0)
    assert (mask != expected).mean() < 1e-3


def test_class_map_takes_the_cell_a_pixel_lies_in():
    class_map = np.arange(32 * 48, dtype=np.int64).reshape(32, 48) % 251
    letterbox = Letterbox.fit(384, 200, 192, 128)

    mask = nearest_to_source(class_map.astype(np.uint8), letterbox, 4)

    y, x = 77, 301
    row = int(((y + 0.5) * letterbox.scale_y + letterbox.pad_top) // 4)
    column = int(((x + 0.5) * letterbox.scale_x + letterbox.pad_left) // 4)
    assert mask.shape == (200, 384)
    assert mask[y, x] == class_map[row, column]


@pytest.mark.parametrize('seed', range(5))
def test_suppression_equals_torchvision(seed):
    torch = pytest.importorskip('torch', reason='the oracle is torchvision')
    ops = pytest.importorskip('torchvision.ops', reason='the oracle is torchvision')
    rng = np.random.default_rng(seed)
    boxes = rng.uniform(0, 100, (200, 4)).astype(np.float32)
    boxes[:, 2:] = boxes[:, :2] + rng.uniform(0, 40, (200, 2))
    scores = np.sort(rng.uniform(0, 1, 200).astype(np.float32))[::-1].copy()
    labels = rng.integers(0, 3, 200)

    kept = suppress(boxes, labels, 0.5)

    expected = [
        ops.nms(torch.tensor(boxes[labels == label]), torch.tensor(scores[labels == label]), 0.5)
        for label in range(3)
    ]
    by_class = [np.flatnonzero(labels == label)[keep] for label, keep in enumerate(expected)]
    np.testing.assert_array_equal(kept, np.sort(np.concatenate(by_class)))


def detect(boxes, scores, labels, thresholds=Thresholds(), letterbox=SQUARE):  # noqa: B008
    outputs = {
        'boxes': np.array(boxes, np.float32).reshape(-1, 4),
        'scores': np.array(scores, np.float32),
        'labels': np.array(labels, np.int64),
    }
    return kinds.KINDS['detection'].decode(
        DETECTION, DETECTION_SPECS, outputs, letterbox, thresholds
    )


def test_detections_are_thresholded_suppressed_and_sorted():
    boxes = [[0, 0, 10, 10], [1, 0, 11, 10], [1, 0, 11, 10], [50, 50, 60, 60]]

    found = detect(boxes, [0.5, 0.9, 0.8, 0.2], [2, 2, 7, 2])

    assert found.labels.tolist() == [2, 7]
    np.testing.assert_allclose(found.scores, [0.9, 0.8])
    np.testing.assert_array_equal(found.boxes, [[1, 0, 11, 10], [1, 0, 11, 10]])
    assert (found.boxes.dtype, found.scores.dtype, found.labels.dtype) == ('f4', 'f4', 'i8')


def test_one_thing_is_published_once_whatever_classes_it_could_be():
    box = [10, 10, 30, 30]
    pedestrian, rider, car, truck, bicycle = 0, 1, 2, 3, 7
    labels = [car, truck, rider, pedestrian, bicycle]
    scores = [0.9, 0.8, 0.7, 0.6, 0.5]

    found = detect([box] * 5, scores, labels)

    # A car is no rider, and a rider sits on a bicycle; but a car and a truck are one box too many.
    assert found.labels.tolist() == [car, rider, bicycle]
    every = detect([box] * 5, scores, labels, Thresholds(across_iou=1.0))
    assert every.labels.tolist() == labels
    aside = detect([box, [10, 10, 30, 50]], [0.9, 0.8], [car, truck])
    assert len(aside) == 2  # IoU 0.5


def test_unique_boxes_are_not_suppressed():
    outputs = {
        'unique_boxes': np.array([[0, 0, 10, 10], [1, 0, 11, 10]], np.float32),
        'scores': np.array([0.5, 0.9], np.float32),
        'labels': np.array([2, 2]),
    }
    specs = {'unique_boxes': OutputSpec('boxes', 'detection', 'unique_boxes', 'float32', (2, 4))}

    found = kinds.KINDS['detection'].decode(DETECTION, specs, outputs, SQUARE, Thresholds())

    np.testing.assert_allclose(found.scores, [0.9, 0.5])


def test_no_detection_has_the_right_shape():
    for found in (detect([], [], []), detect([[0, 0, 9, 9]], [0.1], [0])):
        assert found.boxes.shape == (0, 4) and len(found) == 0


def test_max_detections_keeps_the_best():
    boxes = [[i * 10, 0, i * 10 + 9, 9] for i in range(9)]

    found = detect(boxes, np.linspace(0.4, 0.9, 9), [0] * 9, Thresholds(max_detections=2))

    np.testing.assert_allclose(found.boxes[:, 0], [80, 70])


def test_a_box_in_the_padding_is_dropped_and_one_across_is_clipped():
    letterbox = Letterbox.fit(200, 100, 100, 100)  # 25 rows of padding above and below

    found = detect([[0, 0, 50, 20], [0, 0, 50, 50]], [0.9, 0.8], [0, 1], letterbox=letterbox)

    np.testing.assert_allclose(found.boxes, [[0, 0, 100, 50]])


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_values_that_are_not_finite_are_an_error(bad):
    with pytest.raises(EngineError, match='NaN or infinity'):
        detect([[0, 0, 9, bad]], [0.9], [0])
    with pytest.raises(EngineError, match='NaN or infinity'):
        detect([[0, 0, 9, 9]], [bad], [0])
    logits = np.zeros((3, 25, 25), np.float32)
    logits[1, 2, 3] = bad
    specs = {'logits': OutputSpec('drivable', 'drivable', 'logits', 'float32', (3, 25, 25), 4)}
    with pytest.raises(EngineError, match=r"'drivable'.*NaN or infinity"):
        kinds.KINDS['segmentation'].decode(
            DRIVABLE, specs, {'logits': logits}, SQUARE, Thresholds()
        )


def test_a_class_id_out_of_range_is_an_error():
    with pytest.raises(EngineError, match='class ids 10 to 10, expected 0 to 9'):
        detect([[0, 0, 9, 9]], [0.9], [10])


def test_what_is_no_probability_is_an_error():
    specs = {'probabilities': OutputSpec('weather', 'weather', 'probabilities', 'float32', (6,))}
    for bad in (3.0, -1.0, np.nan):
        outputs = {'probabilities': np.array([bad, 0, 0, 0, 0, 0], np.float32)}
        with pytest.raises(EngineError, match='should hold probabilities'):
            kinds.KINDS['classification'].decode(WEATHER, specs, outputs, SQUARE, Thresholds())


@pytest.mark.parametrize(
    'values',
    [
        {'score': -0.1}, {'score': 1.1}, {'score': float('nan')}, {'nms_iou': 2},
        {'max_detections': 0},
    ],
)  # fmt: skip
def test_thresholds_out_of_range_are_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        Thresholds(**values)


def test_every_kind_says_what_it_is_decoded_from():
    assert {*kinds.KINDS} == {'detection', 'segmentation', 'classification', 'depth', 'normals'}
    for kind in kinds.KINDS.values():
        assert kind.needed and kind.grids <= kind.meanings and '/msg/' in kind.message


def test_an_unknown_kind_and_missing_classes_are_refused():
    with pytest.raises(ValueError, match="kind 'smell' is not one of"):
        kinds.check(Task('nose', 'smell'))
    with pytest.raises(ValueError, match='needs class names'):
        kinds.check(Task('boxes', 'detection'))
