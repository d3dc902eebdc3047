# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Places, paths and lane markings, on small scenes worked out by hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mtl_perception.camera_model import CameraModel
from mtl_perception.frame import Detections, Result
from mtl_perception.geometry import Mount, locate
from mtl_perception.kinds.detection import box_text
from mtl_perception.lanes import lane_lines
from mtl_perception.objects import Deviations, between_lines, closest, in_path, place, size_m
from mtl_perception.overlay import draw
from mtl_perception.tasks import DETECTION, DRIVABLE, LANE

CAMERA = CameraModel(1280, 720, 1000.0, 1000.0, 639.5, 359.5)
MOUNT = Mount.of(1.5)
CAR, LIGHT = (DETECTION.classes.index(name) for name in ('car', 'traffic light'))
DIRECT = DRIVABLE.classes.index('direct')


def detections(*boxes, labels=None):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    labels = np.full(len(boxes), CAR) if labels is None else np.array(labels)
    return Detections(boxes, np.full(len(boxes), 0.9, np.float32), labels)


def test_places_by_hand():
    """50 rows below the horizon of boxes, 360, are 30 m; lights and what is above have no place."""
    boxes = (620, 350, 660, 410), (520, 350, 560, 410), (0, 0, 9, 300), (620, 380, 660, 410)
    found = detections(*boxes, labels=[CAR, CAR, CAR, LIGHT])

    places = place(found, DETECTION, CAMERA, MOUNT)

    np.testing.assert_allclose(places.positions[:2], [[30, 0, 0], [30, 3, 0]], atol=1e-9)
    assert places.known.tolist() == [True, True, False, False]
    # 60 pixels of height: 1.8 pixels; with 0.005 rad together 5.3 of the 50 pixels.
    deviation_m = 30 * np.hypot(1.8, 5) / 50
    assert np.sqrt(places.covariance[0, 0, 0]) == pytest.approx(deviation_m, rel=0.05)


def test_a_thousand_boxes_and_none():
    boxes = np.random.default_rng(0).uniform(0, 700, (1000, 4))
    assert len(place(detections(*boxes), DETECTION, CAMERA, MOUNT)) == 1000
    assert len(place(detections(), DETECTION, CAMERA, MOUNT)) == 0


def test_foot_deviations_have_a_floor():
    boxes = np.array([[0, 0, 3, 10], [0, 0, 12, 100]], np.float32)
    np.testing.assert_allclose(Deviations(foot=0.03).of_feet(boxes), [[1, 1], [12**0.5, 3]])


def test_sizes_by_class():
    assert size_m('bus')[0] > size_m('car')[0]
    assert size_m('anything else') == (1.0, 1.0, 1.0)


def path_mask():
    """The own lane: columns 500 to 780 below row 400."""
    mask = np.full((720, 1280), DRIVABLE.classes.index('background'), np.uint8)
    mask[400:, 500:780] = DIRECT
    return mask


def test_the_closest_object_in_the_path_by_the_drivable_area():
    found = detections(
        (600, 300, 680, 450), (600, 380, 660, 410), (900, 300, 980, 500), (0, 0, 9, 99)
    )
    places = place(found, DETECTION, CAMERA, MOUNT)

    chosen = in_path(places, found.boxes, path_mask(), DIRECT)

    assert chosen.tolist() == [True, True, False, False]
    assert closest(places, chosen) == 0
    assert closest(places, np.zeros(4, bool)) is None


def test_what_is_cut_off_by_the_image_is_in_the_way_near_the_axis():
    found = detections((400, 100, 900, 720), (0, 100, 200, 720))
    places = place(found, DETECTION, CAMERA, MOUNT)

    assert in_path(places, found.boxes, path_mask(), DIRECT).tolist() == [True, False]


def draw_lines(*lines, width_m=0.15):
    """A lane mask with straight markings: ((x, y), (x, y)) on the road."""
    mask = np.ones((720, 1280), np.uint8)
    for start, end in np.array(lines, float):
        along = end - start
        side = np.array([-along[1], along[0]]) / np.linalg.norm(along) * width_m / 2
        corners = np.array([start + side, end + side, end - side, start - side])
        road = np.concatenate([corners, np.zeros((4, 1))], 1)
        pixels = CAMERA.project(MOUNT.to_camera(road))
        cv2.fillPoly(mask, [np.round(pixels).astype(np.int32)], LANE.classes.index('lane'))
    return mask


def test_markings_are_lines_on_the_road():
    """Two lines beside the lane, one dash, and a stop line across."""
    mask = draw_lines(
        ((6, 1.7), (30, 1.7)), ((6, -1.7), (30, -2.2)), ((8, -5), (11, -5)), ((14, -1), (14, 1))
    )

    lines = lane_lines(mask, LANE.classes.index('lane'), CAMERA, MOUNT)

    assert len(lines) == 4
    left, right = lines[0], lines[1]
    if left[0, 1] < right[0, 1]:
        left, right = right, left
    np.testing.assert_allclose(left[:, 1], 1.7, atol=0.05)
    np.testing.assert_allclose(
        right[:, 1], np.interp(right[:, 0], [6, 30], [-1.7, -2.2]), atol=0.06
    )
    assert (np.diff(left[:, 0]) > 0).all() and left[0, 0] < 7.5 and left[-1, 0] > 28
    assert any(np.ptp(line[:, 1]) > 1.5 and np.ptp(line[:, 0]) < 0.5 for line in lines)


def test_the_own_lane_is_between_the_nearest_markings():
    mask = draw_lines(((6, 1.7), (30, 1.7)), ((6, -1.7), (30, -1.7)), ((6, -5), (30, -5)))
    lines = lane_lines(mask, LANE.classes.index('lane'), CAMERA, MOUNT)
    feet = CAMERA.project(
        MOUNT.to_camera(np.array([[20, 0, 0], [20, 3, 0], [20, -3, 0], [40, 1, 0.0]]))
    )

    places = locate(feet, CAMERA, MOUNT)

    assert between_lines(places, lines).tolist() == [True, False, False, True]
    assert not between_lines(places, lines[:0]).any()


def test_noise_is_no_marking():
    noise = (np.random.default_rng(0).random((720, 1280)) < 0.9).astype(np.uint8)
    for mask in (noise, np.ones((720, 1280), np.uint8), np.zeros((720, 1280), np.uint8)):
        for line in lane_lines(mask, 0, CAMERA, MOUNT):
            assert np.isfinite(line).all() and len(line) >= 2


def test_the_overlay_shows_metres():
    found = detections((520, 350, 560, 410), (620, 250, 660, 310))
    places = {'detection': place(found, DETECTION, CAMERA, MOUNT)}
    image = np.full((720, 1280, 3), 100, np.uint8)

    plain = draw(image, Result({'detection': found}), [DETECTION])
    placed = draw(image, Result({'detection': found}, places=places), [DETECTION])

    changed = (plain != placed).any(axis=(2))
    assert changed[325:350, 520:].any() and not changed[:325].any()
    assert box_text('car', 0.9, 7, 12.4) == 'car #7 0.90 12 m'
