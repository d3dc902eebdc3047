# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Recall by size and distance, against numbers worked out by hand and a generated street."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mtl_evaluation.metrics.detection import DetectionMetric
from mtl_evaluation.metrics.road import NOT_PLACED, RoadRecall
from mtl_perception.camera_model import CameraModel
from mtl_perception.frame import Detections
from mtl_perception.geometry import Mount, foot_pixels, on_ground
from mtl_perception.tasks import DETECTION

CAR, LIGHT = (DETECTION.classes.index(name) for name in ('car', 'traffic light'))
CAMERA = CameraModel(1280, 720, 1000.0, 1000.0, 639.5, 359.5)
"""Its horizon is at row 360 of boxes, whose pixels have their centres at halves."""


def road_of(truth, labels, scores, ignore=None, mount=None, camera=CAMERA, found_labels=None):
    """Recall where every truth box is found exactly, with these scores."""
    boxes = np.array(truth, np.float32)
    labels = np.array(labels)
    found = Detections(
        boxes, np.array(scores, np.float32), labels if found_labels is None else found_labels
    )
    metric = DetectionMetric(DETECTION)
    metric.update('a', found, boxes, labels, ignore, width=1280, height=720)
    (image,) = metric.images.values()
    road = RoadRecall(DETECTION.classes, mount)
    road.add(image, camera)
    return road


def box(height: float, lower: float = 700.0, x: float = 100.0) -> list[float]:
    return [x, lower - height, x + 40, lower]


def test_bands_of_height_by_hand():
    truth = [box(15.9), box(16, x=200), box(100, x=300), box(128, x=400), box(20, x=500)]
    road = road_of(truth, [CAR] * 5, [0.9, 0.41, 0.39, 0.9, 0.9], ignore=[0, 0, 0, 0, 1])

    bands = road.result()['height_px']

    assert {name: (row['found'], row['objects']) for name, row in bands.items()} == {
        '< 16 px': (1, 1), '16-32 px': (1, 1), '32-64 px': (0, 0), '64-128 px': (0, 1),
        '>= 128 px': (1, 1),
    }  # fmt: skip
    assert bands['64-128 px']['recall'] == 0.0
    assert bands['32-64 px']['recall'] is None
    assert bands['>= 128 px']['classes'] == {'car': {'objects': 1, 'found': 1, 'recall': 1.0}}


def test_another_class_does_not_find_the_object():
    road = road_of([box(50)], [CAR], [0.9], found_labels=np.array([LIGHT]))

    assert road.result()['height_px']['32-64 px']['recall'] == 0.0


def test_distance_is_that_of_the_generated_street():
    """The lower edge of vehicles, by camera and pitch, against the depth that was rendered."""
    from mtl_scenes import Drive, DriveConfig

    drive = Drive(DriveConfig(seed=3, width=640, height=360, frames=40, scene='highway'))
    camera = drive._world.camera
    pinhole = CameraModel(640, 360, camera.focal, camera.focal, camera.centre_x, camera.centre_y)
    mount = Mount.of(camera.height_m, pitch=camera.pitch)
    errors = []
    for index in range(0, 40, 8):
        frame = drive[index]
        for (x1, _, x2, y2), label in zip(frame.boxes, frame.labels, strict=True):
            row, column = round(y2) - 1, round((x1 + x2) / 2)
            # The road just below the object, where it is not hidden by another one.
            if label != CAR or row > 352 or frame.semantic[row + 2, column] > 1:
                continue
            pixel = np.array([[(x1 + x2) / 2, row + 2.0]])
            found = on_ground(pixel, pinhole, mount)[0, 0]
            # Depth is along the axis of the camera, distance along the road.
            slope = math.atan2(row + 2 - camera.centre_y, camera.focal)
            along = frame.depth[row + 2, column] * math.cos(slope + camera.pitch) / math.cos(slope)
            errors.append(abs(found / along - 1))

    assert len(errors) >= 5
    assert np.median(errors) < 0.05


def test_bands_of_distance_leave_out_what_does_not_stand_on_the_road():
    truth = [box(40, 510.0), box(40, 500.0, 200), box(30, 380.0, 300), box(30, 350.0, 400),
             box(20, 400.0, 500)]  # fmt: skip
    road = road_of(truth, [CAR] * 4 + [LIGHT], [0.9, 0.1, 0.9, 0.9, 0.9], mount=Mount.of(1.5))

    result = road.result()
    bands = result['distance_m']

    assert {name: row['objects'] for name, row in bands.items() if row['objects']} == {
        '10-20 m': 2, '50-80 m': 1, NOT_PLACED: 1,
    }  # fmt: skip
    assert bands['10-20 m']['recall'] == 0.5
    assert 'camera 1.5 m above it' in result['distance_note']


def test_without_height_or_camera_distance_is_not_measured():
    unknown = road_of([box(40)], [CAR], [0.9]).result()
    blind = road_of([box(40)], [CAR], [0.9], mount=Mount.of(1.5), camera='no CameraInfo').result()

    assert unknown['distance_m'] is None and '--camera-height' in unknown['distance_note']
    assert blind['distance_m'] is None
    assert (
        'no frame with objects has a usable CameraInfo; 1: no CameraInfo'
        in (blind['distance_note'])
    )


def test_distortion_changes_the_distance():
    """The real camera of shared/data/calibration: at the left edge a pinhole is 10 % too far."""
    real = CameraModel(
        1280, 720, 1158.77, 1154.07, 669.65, 388.08, 'plumb_bob',
        (-0.25682, 0.04364, -0.00069, 0.00013, -0.11544),
    )  # fmt: skip
    pinhole = CameraModel(1280, 720, 1158.77, 1154.07, 669.65, 388.08)
    truth = [[80.5, 500, 120.5, 640.5]]
    near, far = (
        road_of(truth, [CAR], [0.9], mount=Mount.of(2.3), camera=camera).result()['distance_m']
        for camera in (real, pinhole)
    )

    np.testing.assert_allclose(foot_pixels(np.array(truth)), [[100, 640]])
    assert near['< 10 m']['objects'] == 1  # 5.41 / 1.3 * 2.3 = 9.57 m
    assert far['10-20 m']['objects'] == 1  # 5.96 / 1.3 * 2.3 = 10.54 m


def test_errors_of_distance_against_true_places():
    """Found at 30 m and at 10 m; the truth says 24 m and 10.5 m, and of a third one nothing."""
    truth = np.array([box(40, 410.0), box(40, 510.0, 200), box(30, 460.0, 300)], np.float32)
    found = Detections(truth, np.full(3, 0.9, np.float32), np.full(3, CAR))
    metric = DetectionMetric(DETECTION)
    metric.update('a', found, truth, np.full(3, CAR), None, width=1280, height=720)
    (image,) = metric.images.values()
    road = RoadRecall(DETECTION.classes)

    road.add(image, CAMERA, Mount.of(1.5), np.array([24.0, 10.5, np.nan]))

    result = road.result()
    errors = {name: row for name, row in result['distance_error'].items() if row['objects']}
    assert errors.keys() == {'20-30 m', '10-20 m'}
    assert errors['20-30 m']['median'] == pytest.approx(0.25)
    assert errors['10-20 m']['median'] == pytest.approx(0.5 / 10.5)
    assert 'camera as the truth of the frame has it' in result['distance_note']
    assert road_of([box(40)], [CAR], [0.9]).result()['distance_error'] is None


def test_parts_merge_to_the_whole():
    first, second = (road_of([box(h)], [CAR], [0.9], mount=Mount.of(1.5)) for h in (20, 70))
    both = road_of([box(20), box(70, x=300)], [CAR] * 2, [0.9] * 2, mount=Mount.of(1.5))

    first.merge(second)

    assert first.result() == both.result()
