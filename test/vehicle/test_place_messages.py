# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Places as ROS messages, in the frame of the image and in a base frame; lines of a lane model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs ROS 2 (make test installs the Jazzy wheels)')
pytest.importorskip('vision_msgs.msg', reason='needs vision_msgs (make test builds it)')

import live_node
import rclpy
from rclpy.node import Node
from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from mtl_perception.camera_model import CameraModel
from mtl_perception.frame import Detections
from mtl_perception.geometry import Mount
from mtl_perception.node.camera_geometry import CameraGeometry, Geometry, View
from mtl_perception.node.objects import CameraObjects
from mtl_perception.node.place_messages import lines_message, objects_message
from mtl_perception.objects import Deviations, place
from mtl_perception.tasks import DETECTION, LANE
from mtl_perception.transforms import rotation_of

pytestmark = pytest.mark.ros

CAMERA = CameraModel(1280, 720, 1000.0, 1000.0, 639.5, 359.5)
MOUNT = Mount.of(1.5, pitch=0.03)
CAR = DETECTION.classes.index('car')


def header() -> Header:
    made = Header(frame_id='front_optical')
    made.stamp.sec, made.stamp.nanosec = 12, 345
    return made


def view(frame_id: str = '') -> View:
    return View(CAMERA, MOUNT, frame_id)


def found() -> Detections:
    boxes = np.array([[620, 350, 660, 470], [520, 350, 560, 430], [0, 0, 9, 200]], np.float32)
    return Detections(boxes, np.array([0.9, 0.5, 0.4], np.float32), np.full(3, CAR))


def test_both_frames_name_the_same_places_and_directions():
    places = place(found(), DETECTION, CAMERA, MOUNT)
    in_camera, in_base = (
        objects_message(header(), view(frame), found(), places, DETECTION, ['7', '', ''])
        for frame in ('', 'base_link')
    )

    assert in_camera.header == header()
    assert (in_base.header.frame_id, in_base.header.stamp) == ('base_link', header().stamp)
    assert [item.id for item in in_camera.detections] == ['7', '']
    for ours, theirs in zip(in_camera.detections, in_base.detections, strict=True):
        for one, other in (
            (ours.bbox.center, theirs.bbox.center),
            (ours.results[0].pose.pose, theirs.results[0].pose.pose),
        ):
            at = np.array([one.position.x, one.position.y, one.position.z])
            there = np.array([other.position.x, other.position.y, other.position.z])
            np.testing.assert_allclose(MOUNT.to_camera(there), at, atol=1e-9)
            turn = one.orientation
            axes = rotation_of(np.array([turn.x, turn.y, turn.z, turn.w]))
            np.testing.assert_allclose(axes, MOUNT.matrix.T, atol=1e-9)
        spread = [np.reshape(item.results[0].pose.covariance, (6, 6)) for item in (ours, theirs)]
        for block in (slice(0, 3), slice(3, 6)):
            turned = MOUNT.matrix.T @ spread[1][block, block] @ MOUNT.matrix
            np.testing.assert_allclose(spread[0][block, block], turned, atol=1e-9)


def test_lines_replace_those_before_and_have_the_colour_of_their_task():
    line = np.array([[5.0, 1.7, 0], [6, 1.7, 0], [7, 1.7, 0]])

    message = lines_message(header(), view('base_link'), [line], LANE, 0)
    in_camera = lines_message(header(), view(), [line], LANE, 0)

    first, marker = message.markers
    assert (first.action, marker.action, marker.type) == (
        Marker.DELETEALL, Marker.ADD, Marker.LINE_STRIP,
    )  # fmt: skip
    assert {item.header.frame_id for item in message.markers} == {'base_link'}
    assert [(p.x, p.y, p.z) for p in marker.points] == [tuple(point) for point in line.tolist()]
    assert round(marker.color.r * 255) == LANE.colours[0][0] and marker.color.a == 1
    points = np.array([(p.x, p.y, p.z) for p in in_camera.markers[1].points])
    np.testing.assert_allclose(points, MOUNT.to_camera(line))
    assert in_camera.markers[1].header == header()
    assert len(lines_message(header(), view(), [], LANE, 0).markers) == 1


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Node]:
    for name, value in live_node.private_ros_environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    rclpy.init(args=[])
    made = rclpy.create_node('perception')
    yield made
    made.destroy_node()
    rclpy.shutdown()


def test_a_model_with_lanes_and_no_drivable_area_takes_them_for_the_path(node: Node):
    settings = Geometry(MOUNT, '', 'auto', Deviations())
    geometry = CameraGeometry(node, '/front/image_raw', settings, None)

    objects = CameraObjects(node, '~/', [DETECTION, LANE], geometry)

    types = {publisher.topic_name: publisher.msg_type for publisher in objects.publishers}
    assert types['/perception/lane/lines'] is MarkerArray
    assert objects.needs({'detection'}) == {'detection', 'lane'}
    assert objects.needs(set()) == frozenset()
    assert geometry.topic == '/front/camera_info'
