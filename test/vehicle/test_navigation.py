# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Confidence against softmax, points against a renderer's depth, and the file for Nav2."""

from __future__ import annotations

from array import array
from pathlib import Path

import numpy as np
import pytest
import yaml

from mtl_perception.camera_model import CameraModel, GeometryError
from mtl_perception.decode.confidence import confidence_to_source
from mtl_perception.decode.masks import argmax_to_source
from mtl_perception.geometry import Mount
from mtl_perception.letterbox import Letterbox
from mtl_perception.points import depth_points, ground_points
from mtl_perception.tasks import DRIVABLE
from mtl_scenes import Drive, DriveConfig

ROOT = Path(__file__).resolve().parents[2]


def softmax(logits):
    shares = np.exp(logits - logits.max(0))
    return shares / shares.sum(0)


@pytest.mark.parametrize('size', [(96, 64), (160, 120), (61, 47)])
def test_confidence_is_the_interpolated_probability_of_the_class_shown(size):
    """Done the slow way: every class interpolated, then the one of the mask looked up."""
    width, height = size
    box = Letterbox.fit(width, height, 96, 64)
    logits = np.random.default_rng(0).normal(0, 3, (5, 16, 24)).astype(np.float32)
    mask = argmax_to_source(logits, box, 4)

    found = confidence_to_source(logits, mask, box, 4)

    from mtl_perception.decode.maps import bilinear_to_source

    shares = bilinear_to_source(softmax(logits), box, 4)
    expected = np.take_along_axis(shares, mask[None].astype(int), 0)[0]
    # Where the cells around agree with the mask but not on how sure they are, both are the same.
    assert found.shape == (height, width) and found.dtype == np.uint8
    np.testing.assert_allclose(found, expected * 255, atol=0.51)


def test_sure_classes_are_unsure_on_their_border():
    logits = np.zeros((2, 16, 24), np.float32)
    logits[0, :, :12], logits[1, :, 12:] = 10, 10
    box = Letterbox.fit(96, 64, 96, 64)

    found = confidence_to_source(logits, argmax_to_source(logits, box, 4), box, 4)

    assert found[:, 0].min() == 255
    assert (found[:, 47:49] < 160).all()


def scene():
    drive = Drive(DriveConfig(seed=5, width=320, height=180, frames=1, scene='highway'))
    camera = drive._world.camera
    model = CameraModel(320, 180, camera.focal, camera.focal, camera.centre_x, camera.centre_y)
    return drive[0], model, Mount.of(camera.height_m, pitch=camera.pitch)


def test_points_of_a_depth_are_seen_in_their_pixels():
    frame, camera, _ = scene()

    points = depth_points(frame.depth, camera)

    seen = frame.depth > 0
    np.testing.assert_array_equal(np.isfinite(points[..., 2]), seen)
    rows, columns = np.nonzero(seen)
    pixels = camera.project(points[seen])
    np.testing.assert_allclose(pixels, np.stack([columns, rows], 1), atol=1e-3)
    np.testing.assert_allclose(points[seen][:, 2], frame.depth[seen], rtol=1e-5)


def test_points_of_the_ground_are_those_of_the_rendered_road():
    frame, camera, mount = scene()

    points = ground_points(camera, mount)

    assert points.shape == (180, 320, 3) and points.dtype == np.float32
    road = (frame.semantic == 0) & (frame.depth > 0) & (frame.depth < 60)
    error = np.abs(points[..., 2] / np.where(road, frame.depth, 1) - 1)[road]
    assert np.median(error) < 1e-4 and np.quantile(error, 0.99) < 0.01
    assert np.isnan(points[0]).all(), 'above the horizon there is no road'
    assert ground_points(camera, mount) is points


def test_depths_that_are_none_have_no_point():
    depth = np.array([[0.0, -1.0, np.nan], [np.inf, 2.0, 3.0]], np.float32)
    camera = CameraModel(3, 2, 2.0, 2.0, 1.0, 0.5)

    points = depth_points(depth, camera)

    np.testing.assert_array_equal(np.isfinite(points[..., 0]), [[False] * 3, [False, True, True]])


def test_depth_images_are_checked():
    pytest.importorskip('sensor_msgs.msg', reason='needs ROS 2 (make test installs the wheels)')
    from sensor_msgs.msg import Image

    from mtl_perception.node.navigation import depth_of

    millimetres = np.array([[1000, 0], [2500, 40]], '<u2')
    data = array('B', millimetres.tobytes())
    image = Image(width=2, height=2, encoding='16UC1', step=4, data=data)

    np.testing.assert_allclose(depth_of(image, 2, 2), [[1.0, 0.0], [2.5, 0.04]])
    with pytest.raises(GeometryError, match='16UC1 2x2, expected 32FC1 or 16UC1 4x2'):
        depth_of(image, 4, 2)
    image.step = 3
    with pytest.raises(GeometryError, match='8 bytes in rows of 3'):
        depth_of(image, 2, 2)


def test_the_file_for_nav2_names_our_topics_and_classes():
    text = (ROOT / 'config' / 'nav2_semantic_layer.yaml').read_text()
    layer = yaml.safe_load(text)['local_costmap']['local_costmap']['ros__parameters'][
        'semantic_layer'
    ]
    camera = layer[layer['observation_sources']]

    topics = {key: value for key, value in camera.items() if key.endswith('_topic')}
    assert topics == {
        'segmentation_topic': '/perception/drivable',
        'confidence_topic': '/perception/drivable/confidence',
        'labels_topic': '/perception/drivable/label_info',
        'pointcloud_topic': '/perception/drivable/points',
    }
    named = [name for kind in camera['class_types'] for name in camera[kind]['classes']]
    assert sorted(named) == sorted(DRIVABLE.classes)
