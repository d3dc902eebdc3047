# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The mount of a camera through tf, over real DDS: places in the base frame."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs ROS 2 (make test installs the Jazzy wheels)')
pytest.importorskip('vision_msgs.msg', reason='needs vision_msgs (make test builds it)')
pytest.importorskip('tf2_msgs.msg', reason='needs tf2_msgs (make test builds it)')

import live_node
from geometry_msgs.msg import TransformStamped
from live_node import BEST_EFFORT, LATCHED, NODE, NodeProcess
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection3DArray

from mtl_perception.geometry import Mount
from mtl_perception.transforms import quaternion_of

pytestmark = [pytest.mark.ros, pytest.mark.usefixtures('private_ros')]

HEIGHT, WIDTH = 64, 96
STATUS = 'perception: camera'


@pytest.fixture
def running(
    private_ros: None, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NodeProcess]:
    parameters = {
        'model': tiny_bundle, 'engine': 'onnxruntime', 'build': 'true',
        'diagnostics_period_s': 0.2, 'base_frame': 'base_link',
    }  # fmt: skip
    with live_node.active_node(tmp_path_factory.mktemp('node'), **parameters) as node:
        yield node


def red_image(number: int) -> Image:
    pixels = np.full((HEIGHT, WIDTH, 3), (0, 0, 255), np.uint8)
    message = Image(height=HEIGHT, width=WIDTH, encoding='bgr8', step=3 * WIDTH)
    message.header.stamp.sec = 2000 + number
    message.header.frame_id = 'front_optical'
    message.data = array('B', pixels.tobytes())
    return message


def transform(parent: str, child: str, mount: Mount) -> TransformStamped:
    found = TransformStamped(child_frame_id=child)
    found.header.frame_id = parent
    at, turn = found.transform.translation, found.transform.rotation
    at.x, at.y, at.z = mount.translation
    turn.x, turn.y, turn.z, turn.w = quaternion_of(mount.matrix)
    return found


def test_places_are_in_the_base_frame_once_it_is_known(running: NodeProcess) -> None:
    """A camera 2 m ahead of and 1.5 m above base_link: 5 m ahead of it are 7 m there."""
    with live_node.peer() as peer:
        objects = peer.listen(f'{NODE}/objects', Detection3DArray)
        info = peer.node.create_publisher(CameraInfo, f'{NODE}/camera_info', BEST_EFFORT)
        peer.until(info.get_subscription_count, 'subscriber of camera_info')
        k = np.array([100.0, 0, 47.5, 0, 100.0, 31.5, 0, 0, 1])
        lens = CameraInfo(width=WIDTH, height=HEIGHT, k=k)

        def send(number: int) -> None:
            info.publish(lens)
            peer.send(red_image(number))
            peer.spin(0.1)

        number = 0
        while 'no transform has come' not in peer.diagnostics()[STATUS].message:
            number += 1
            assert number < 100
            send(number)
        assert not objects
        tf = peer.node.create_publisher(TFMessage, '/tf_static', LATCHED)
        mount = Mount.of(1.5)
        mount = Mount(mount.rotation, (2.0, 0.0, 1.5))
        tf.publish(TFMessage(transforms=[transform('base_link', 'front_optical', mount)]))
        while not objects:
            number += 1
            assert number < 300
            send(number)

    message: Detection3DArray = objects[-1]
    assert message.header.frame_id == 'base_link'
    assert message.header.stamp.sec > 2000
    place = message.detections[0].results[0].pose.pose.position
    assert (place.x, place.z) == pytest.approx((7.0, 0.0), abs=1e-9)
    turn = message.detections[0].bbox.center.orientation
    assert (turn.x, turn.y, turn.z, turn.w) == (0.0, 0.0, 0.0, 1.0)
