# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Camera models against OpenCV, places on the ground against arithmetic by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from mtl_perception.camera_model import (
    EQUIDISTANT,
    PINHOLE,
    PLUMB_BOB,
    CameraModel,
    GeometryError,
    info_topic,
    is_rectified,
)
from mtl_perception.geometry import Mount, foot_pixels, locate, on_ground

K = (1158.77, 0.0, 669.65, 0.0, 1154.07, 388.08, 0.0, 0.0, 1.0)
"""Of the camera whose photographs are in shared/data/calibration, by OpenCV."""
DISTORTIONS = {
    'plumb_bob': (-0.25682, 0.04364, -0.00069, 0.00013, -0.11544),
    'rational_polynomial': (2.1, 0.9, 2e-4, -1e-4, 0.05, 2.4, 1.5, 0.2),
    'equidistant': (0.02, -0.01, 0.004, -0.001),
}


def info(model='plumb_bob', d=DISTORTIONS['plumb_bob'], k=K, roi=(0, 0, 0, 0), **more):
    """Fields of a CameraInfo; roi: x_offset, y_offset, width, height."""
    fields = {
        'width': 1280, 'height': 720, 'distortion_model': model, 'd': d, 'k': k,
        'r': np.eye(3).reshape(-1), 'p': (*k[:3], 0.0, *k[3:6], 0.0, *k[6:], 0.0),
        'binning_x': 0, 'binning_y': 0,
    }  # fmt: skip
    names = ('x_offset', 'y_offset', 'width', 'height')
    return SimpleNamespace(
        **(fields | more), roi=SimpleNamespace(**dict(zip(names, roi, strict=True)))
    )


def grid(width=1280, height=720, step=40):
    x, y = np.meshgrid(np.arange(0, width, step), np.arange(0, height, step))
    return np.stack([x, y], -1).reshape(-1, 2).astype(float)


@pytest.mark.parametrize('model', ['plumb_bob', 'rational_polynomial'])
def test_rays_are_those_of_opencv(model):
    camera = CameraModel.from_info(info(model, DISTORTIONS[model]))
    pixels = grid()

    rays = camera.rays(pixels)

    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 200, 1e-12)
    flat = cv2.undistortPointsIter(
        pixels[:, None], np.reshape(K, (3, 3)), np.array(DISTORTIONS[model]), None, None, criteria
    ).reshape(-1, 2)
    np.testing.assert_allclose(rays[:, :2] / rays[:, 2:], flat, atol=1e-7)
    np.testing.assert_allclose(np.linalg.norm(rays, axis=1), 1.0)


def test_fisheye_is_that_of_opencv():
    coefficients = DISTORTIONS['equidistant']
    camera = CameraModel.from_info(
        info('fisheye', coefficients, k=(300, 0, 640, 0, 300, 360, *K[6:]))
    )
    matrix = np.array([[300, 0, 640], [0, 300, 360], [0, 0, 1.0]])
    points = np.random.default_rng(0).normal((0, 0, 4), 1.0, (200, 3))

    pixels = camera.project(points)

    expected, _ = cv2.fisheye.projectPoints(
        points[:, None], np.zeros(3), np.zeros(3), matrix, np.array(coefficients)
    )
    np.testing.assert_allclose(pixels, expected.reshape(-1, 2), atol=1e-6)
    directions = points / np.linalg.norm(points, axis=1, keepdims=True)
    np.testing.assert_allclose(camera.rays(pixels), directions, atol=1e-9)


def test_fisheye_sees_behind_itself():
    camera = CameraModel.from_info(
        info('equidistant', (0.0,) * 4, k=(300, 0, 640, 0, 300, 360, *K[6:]))
    )

    ray = camera.rays(np.array([640 + 300 * math.radians(100), 360]))

    assert camera.model == EQUIDISTANT
    np.testing.assert_allclose(ray, [math.sin(math.radians(100)), 0, math.cos(math.radians(100))])


@pytest.mark.parametrize('model', [*DISTORTIONS, ''])
def test_pixels_come_back(model):
    camera = CameraModel.from_info(info(model, DISTORTIONS.get(model, ())))
    pixels = grid()

    back = camera.project(7.0 * camera.rays(pixels))

    np.testing.assert_allclose(back, pixels, atol=1e-6)


def test_projection_is_that_of_opencv_and_never_folds_back():
    camera = CameraModel.from_info(info())
    points = np.random.default_rng(1).uniform((-3, -2, 4), (3, 2, 30), (200, 3))

    expected, _ = cv2.projectPoints(
        points, np.zeros(3), np.zeros(3), np.reshape(K, (3, 3)), np.array(DISTORTIONS['plumb_bob'])
    )

    np.testing.assert_allclose(camera.project(points), expected.reshape(-1, 2), atol=1e-8)
    # At 80 degrees to the axis this polynomial leads back into the image; behind is nothing.
    assert np.isnan(camera.project(np.array([[5.67, 0, 1], [0, 0, -1.0]]))).all()
    assert np.isnan(camera.rays(np.array([[1e5, 1e5]]))).all()


def test_no_distortion_is_a_pinhole():
    for model, d in (('', ()), ('plumb_bob', ()), ('plumb_bob', (0.0,) * 5)):
        camera = CameraModel.from_info(info(model, d))
        assert (camera.model, camera.distortion) == (PINHOLE, ())
    assert CameraModel.from_info(info()).model == PLUMB_BOB


def test_rectified_images_take_p_and_raw_ones_are_turned_by_r():
    turn = cv2.Rodrigues(np.array([0.0, math.radians(2), 0]))[0]
    p = (900.0, 0, 640, -90, 0, 900, 360, 0, 0, 0, 1, 0)
    message = info(r=turn.reshape(-1), p=p)

    rectified = CameraModel.from_info(message, rectified=True)
    raw = CameraModel.from_info(message)

    assert (rectified.model, rectified.fx, rectified.cx) == (PINHOLE, 900.0, 640.0)
    # One direction, seen in both images.
    pixel = np.array([[900.0, 500.0]])
    ray = raw.rays(pixel)
    expected = cv2.undistortPoints(
        pixel[:, None], np.reshape(K, (3, 3)), np.array(DISTORTIONS['plumb_bob']), None, turn,
        np.reshape(p, (3, 4)),
    )  # fmt: skip
    np.testing.assert_allclose(rectified.project(ray), expected.reshape(1, 2), atol=0.01)
    np.testing.assert_allclose(raw.project(ray), pixel, atol=1e-6)


def test_roi_binning_and_resizing_show_the_same_rays():
    whole = CameraModel.from_info(info())
    cut = CameraModel.from_info(info(roi=(200, 100, 800, 600), binning_x=2, binning_y=2))
    half = whole.for_image(640, 360)

    assert (cut.width, cut.height) == (400, 300)
    # Pixel (10, 20) of 2x2 binned pixels has its centre between four of the original ones.
    pixel = np.array([[10.0, 20.0]])
    np.testing.assert_allclose(cut.rays(pixel), whole.rays(pixel * 2 + 0.5 + (200, 100)))
    np.testing.assert_allclose(half.rays(pixel), whole.rays(pixel * 2 + 0.5))
    assert whole.for_image(1281, 721).width == 1281


BAD = {
    'all-zero K': (info(k=(0.0,) * 9), 'not calibrated: focal lengths 0 and 0 in K'),
    'NaN': (info(k=(math.nan, *K[1:])), 'NaN or infinity'),
    'infinite D': (info(d=(math.inf, 0, 0, 0, 0)), 'NaN or infinity'),
    'unknown model': (info('double_sphere', (0.1,)), "unknown distortion model 'double_sphere'"),
    'count of D': (info(d=(0.1, 0.2, 0.3)), 'plumb_bob has 0 or 4 or 5 coefficients, found 3'),
    'no size': (info(width=0, height=0), 'images of 0x0, expected at least 1x1'),
    'skew': (info(k=(1000.0, 5.0, *K[2:])), 'skew of 5'),
    'no rotation': (info(r=np.ones(9)), 'R is no rotation'),
    'roi outside': (info(roi=(1000, 0, 400, 400)), 'reaches beyond the image of 1280x720'),
}


@pytest.mark.parametrize('name', BAD)
def test_what_cannot_be_used_is_refused_in_a_sentence(name):
    message, says = BAD[name]

    with pytest.raises(GeometryError, match=says):
        CameraModel.from_info(message)


def test_rectified_without_p_and_other_aspect_ratios_are_refused():
    with pytest.raises(GeometryError, match='focal lengths 0 and 0 in P'):
        CameraModel.from_info(info(p=(0.0,) * 12), rectified=True)
    with pytest.raises(GeometryError, match='found images of 640x480, which is another aspect'):
        CameraModel.from_info(info()).for_image(640, 480)


def test_names_of_topics():
    assert info_topic('/front/image_raw') == '/front/camera_info'
    assert info_topic('/front/image_raw/compressed') == '/front/camera_info'
    assert info_topic('/image') == '/camera_info'
    assert is_rectified('/front/image_rect') and is_rectified('/image_rect_color/compressed')
    assert not is_rectified('/rect/image_raw') and not is_rectified('/front/direct')


LEVEL = CameraModel(1280, 720, 1000.0, 1000.0, 640.0, 360.0)


def test_ground_by_hand():
    """1.5 m above the road: 50 pixels below the horizon of 1000 is 30 m, 100 pixels left 3 m."""
    pixels = np.array([[640.0, 410], [540, 410], [640, 510], [640, 360], [640, 9]])

    places = on_ground(pixels, LEVEL, Mount.of(1.5))

    np.testing.assert_allclose(places[:3], [[30, 0, 0], [30, 3, 0], [10, 0, 0]], atol=1e-9)
    assert np.isnan(places[3:]).all()


def test_pitch_looks_down_and_roll_leans_right():
    centre = np.array([[640.0, 360.0]])
    left = np.array([[540.0, 460.0]])

    pitched = on_ground(centre, LEVEL, Mount.of(1.5, pitch=math.radians(3)))
    rolled = on_ground(left, LEVEL, Mount.of(1.5, roll=math.radians(3)))

    np.testing.assert_allclose(pitched, [[1.5 / math.tan(math.radians(3)), 0, 0]], atol=1e-9)
    # Leaning right lifts the left side of the view: the same pixel shows a place farther away.
    assert rolled[0, 0] > on_ground(left, LEVEL, Mount.of(1.5))[0, 0]


def test_a_mount_by_transform_is_the_mount_by_its_angles():
    mount = Mount.of(1.4, roll=0.02, pitch=0.05)
    transform = np.eye(4)
    transform[:3, :3], transform[:3, 3] = mount.matrix, (1.8, 0.1, 1.4)

    moved = Mount.from_transform(transform)

    pixels = np.array([[700.0, 500.0], [100, 650]])
    np.testing.assert_allclose(
        on_ground(pixels, LEVEL, moved), on_ground(pixels, LEVEL, mount) + np.array([1.8, 0.1, 0])
    )
    located = locate(pixels, LEVEL, moved)
    np.testing.assert_allclose(located.ahead_m, on_ground(pixels, LEVEL, mount)[:, 0])
    camera_points, _ = located.in_camera()
    np.testing.assert_allclose(LEVEL.project(camera_points), pixels, atol=1e-9)


@pytest.mark.parametrize(
    ('make', 'says'),
    [
        (lambda: Mount.of(0.0), 'height 0 m'),
        (lambda: Mount.of(math.nan), 'height nan m'),
        (lambda: Mount.of(1.0, pitch=2.0), 'pitch 2 rad'),
        (lambda: Mount.from_transform(np.eye(4)), 'the camera is 0 m above the plane z = 0'),
    ],
)
def test_a_camera_that_is_not_above_the_road_is_refused(make, says):
    with pytest.raises(GeometryError, match=says):
        make()


def test_boxes_are_edges_and_pixels_have_their_centres_at_whole_numbers():
    """The box of the one pixel (3, 5) ends on its lower edge, at 5.5."""
    np.testing.assert_allclose(foot_pixels(np.array([[3, 5, 4, 6]])), [[3.0, 5.5]])


@pytest.mark.parametrize('distance', [8.0, 20.0, 40.0])
def test_covariance_covers_what_it_says(distance):
    """Of places with noise in pixel, pitch and roll, 95 % lie within their ellipses of 95 %."""
    random = np.random.default_rng(3)
    camera, pixel_std, tilt_std = CameraModel.from_info(info()), 2.0, 0.004
    truth = np.array([[distance, 2.0, 0.0]])
    inside = []
    for _ in range(1000):
        pixels = camera.project(Mount.of(1.5, *random.normal(0, tilt_std, 2)).to_camera(truth))
        pixels = pixels + random.normal(0, pixel_std, (1, 2))
        found = locate(pixels, camera, Mount.of(1.5), pixel_std, tilt_std)
        apart = (found.positions - truth)[0, :2]
        inside.append(apart @ np.linalg.inv(found.covariance[0, :2, :2]) @ apart < 5.991)

    assert 0.93 < np.mean(inside) < 0.97


def test_places_without_a_bound_are_unknown():
    """12 pixels below the horizon are 125 m, give or take a pitch of half a degree: 71 to 530 m."""
    pixels = np.array([[640.0, 372.0], [640.0, 362.0], [640.0, 300.0], [math.nan, 500.0]])

    found = locate(pixels, LEVEL, Mount.of(1.5), 1.0, math.radians(0.5))

    assert not found.known.any()
    assert np.isnan(found.covariance).all()
    assert locate(pixels[:1], LEVEL, Mount.of(1.5), 1.0, 0.0).known.all()
    assert len(locate(np.zeros((0, 2)), LEVEL, Mount.of(1.5))) == 0
