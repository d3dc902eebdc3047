# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Depth and normals after the network: decoding to source pixels, figures that merge exactly."""

import numpy as np
import pytest

from mtl_evaluation.kinds import of
from mtl_evaluation.metrics.depth import DepthMetric
from mtl_evaluation.metrics.normals import NormalsMetric
from mtl_perception import kinds
from mtl_perception.bundle import OutputSpec
from mtl_perception.decode import Thresholds
from mtl_perception.decode.maps import bilinear_to_source
from mtl_perception.engines.base import EngineError
from mtl_perception.letterbox import Letterbox
from mtl_perception.tasks import DEPTH, NORMALS, WEATHER

FIT = Letterbox.fit(160, 90, 128, 96)


def turned(degrees):
    """Vectors turned by so much from z, [1, N, 3]."""
    angle = np.radians(np.asarray(degrees, np.float64))
    return np.stack([np.sin(angle), 0 * angle, np.cos(angle)], -1)[None].astype(np.float32)


def test_depth_errors_are_those_of_the_definitions():
    metric = DepthMetric(DEPTH)
    truth = np.array([[2.0, 4.0, 0.0, 10.0]], np.float32)
    metric.update(np.array([[2.2, 6.0, 5.0, 8.0]], np.float32), truth)
    result = metric.result()
    assert result['labelled_pixels'] == 3 and result['frames'] == 1
    assert result['abs_error'] == pytest.approx((0.2 + 2 + 2) / 3, abs=1e-6)
    assert result['rel_error'] == pytest.approx((0.1 + 0.5 + 0.2) / 3, abs=1e-6)
    assert result['rmse'] == pytest.approx(np.sqrt((0.04 + 4 + 4) / 3), abs=1e-6)
    assert result['delta1'] == pytest.approx(1 / 3)  # 10 / 8 is not below 1.25


def test_angles_are_exact_at_the_limits():
    metric = NormalsMetric(NORMALS)
    angles = [0.0, 11.24, 11.26, 22.49, 22.51, 29.99, 30.01, 180.0, 5.0]
    truth = np.repeat(turned([0.0]), len(angles), 1)
    truth[0, -1] = 0  # unlabelled
    metric.update(turned(angles) * 3, truth)
    result = metric.result()
    assert result['labelled_pixels'] == 8
    shares = [result[key] for key in ('within_11_25', 'within_22_5', 'within_30')]
    assert shares == [2 / 8, 4 / 8, 6 / 8]
    assert result['mean_error'] == pytest.approx(np.mean(angles[:-1]), abs=0.005)
    assert result['median_error'] == pytest.approx(22.49, abs=0.011)


def test_small_angles_are_not_lost():
    metric = NormalsMetric(NORMALS)
    metric.update(turned([0.034]), turned([0.0]))
    assert metric.result()['mean_error'] == pytest.approx(0.034, abs=0.005)


@pytest.mark.parametrize('task', [DEPTH, NORMALS])
def test_parts_merge_exactly_in_any_order_and_survive_storage(task):
    rng = np.random.default_rng(0)
    shape = (6, 7) if task is DEPTH else (6, 7, 3)
    frames = [rng.uniform(0.1, 50, (2, *shape)).astype(np.float32) for _ in range(5)]
    whole, parts = of(task).metric(task), []
    for prediction, truth in frames:
        whole.update(prediction, truth)
        part = of(task).metric(task)
        part.update(prediction, truth)
        parts.append(of(task).metric.from_arrays(task, part.to_arrays()))
    merged = of(task).metric(task)
    for part in reversed(parts):
        merged.merge(part)
    assert merged.result() == whole.result() and merged.frames == 5


@pytest.mark.parametrize('task', [DEPTH, NORMALS])
def test_nothing_labelled_is_none_and_nonsense_is_refused(task):
    shape = (2, 2) if task is DEPTH else (2, 2, 3)
    metric = of(task).metric(task)
    metric.update(np.ones(shape, np.float32), np.zeros(shape, np.float32))
    assert set(metric.result().values()) == {1, 0, None}
    with pytest.raises(ValueError, match='truth is'):
        metric.update(np.ones(shape, np.float32), np.ones((3, *shape[1:]), np.float32))
    with pytest.raises(ValueError, match='not a finite'):
        metric.update(np.full(shape, np.nan, np.float32), np.ones(shape, np.float32))
    with pytest.raises(ValueError, match='of kind classification'):
        type(metric)(WEATHER)


def test_a_linear_map_comes_back_at_every_source_pixel():
    """Bilinear interpolation is exact for what is linear: at its own cell every pixel is found."""
    stride = 4
    y, x = np.mgrid[:24, :32].astype(np.float32) * stride + (stride - 1) / 2
    source = bilinear_to_source(np.stack([x, y]), FIT, stride)
    inside = slice(20, 70)
    expected = (np.arange(160) + 0.5) * FIT.scale_x + FIT.pad_left - 0.5
    assert np.allclose(source[0, 45, inside], expected[inside], atol=1e-3)
    expected = (np.arange(90) + 0.5) * FIT.scale_y + FIT.pad_top - 0.5
    assert np.allclose(source[1, inside, 45], expected[inside], atol=1e-3)


@pytest.mark.parametrize(('task', 'shape'), [(DEPTH, (24, 32)), (NORMALS, (3, 24, 32))])
def test_maps_decode_to_source_pixels_and_refuse_nan(task, shape):
    specs = {task.kind: OutputSpec(task.name, task.name, task.kind, 'float32', shape, 4)}
    values = np.full(shape, 2.0, np.float32)
    found = kinds.of(task).decode(task, specs, {task.kind: values}, FIT, Thresholds())
    assert found.dtype == np.float32 and found.shape[:2] == (90, 160)
    wanted = 2.0 if task is DEPTH else np.full(3, 3**-0.5)
    assert np.allclose(found, wanted, atol=1e-5)
    values[..., 3, 3] = np.nan
    with pytest.raises(EngineError, match='should hold'):
        kinds.of(task).decode(task, specs, {task.kind: values}, FIT, Thresholds())
