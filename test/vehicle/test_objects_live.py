# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Places on the road over real DDS: camera_info in, objects out, and what happens without it."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs ROS 2 (make test installs the Jazzy wheels)')
pytest.importorskip('vision_msgs.msg', reason='needs vision_msgs (make test builds it)')

import live_node
from live_node import BEST_EFFORT, LATCHED, NODE, NodeProcess, Peer, values
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from vision_msgs.msg import Detection2DArray, Detection3DArray, LabelInfo

from mtl_perception.camera_model import CameraModel
from mtl_perception.geometry import Mount, on_ground

pytestmark = [pytest.mark.ros, pytest.mark.usefixtures('private_ros')]

HEIGHT, WIDTH = 64, 96
K = (100.0, 0.0, 47.5, 0.0, 100.0, 31.5, 0.0, 0.0, 1.0)
PLUMB_BOB = (-0.257, 0.044, 0.0, 0.0, -0.115)
STATUS = 'perception: camera'


@pytest.fixture(scope='module')
def running(
    private_ros: None, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NodeProcess]:
    """A node whose camera is 1.5 m above the road."""
    parameters = {
        'model': tiny_bundle, 'engine': 'onnxruntime', 'build': 'true',
        'diagnostics_period_s': 0.2, 'camera_height_m': 1.5,
    }  # fmt: skip
    with live_node.active_node(tmp_path_factory.mktemp('node'), **parameters) as node:
        yield node


@pytest.fixture
def peer(running: NodeProcess) -> Iterator[Peer]:
    with live_node.peer() as made:
        yield made


def red_image(number: int) -> Image:
    """Everything is red: a pedestrian in each of the tiny bundle's eight cells, on `direct`."""
    pixels = np.full((HEIGHT, WIDTH, 3), (0, 0, 255), np.uint8)
    message = Image(height=HEIGHT, width=WIDTH, encoding='bgr8', step=3 * WIDTH)
    message.header.stamp.sec = 2000 + number
    message.header.frame_id = 'front_optical'
    message.data = array('B', pixels.tobytes())
    return message


class Driver:
    """Publishes the camera_info of the node's camera."""

    def __init__(self, peer: Peer) -> None:
        topic = f'{NODE}/camera_info'
        self._publisher = peer.node.create_publisher(CameraInfo, topic, BEST_EFFORT)
        peer.until(self._publisher.get_subscription_count, 'subscriber of camera_info')

    def say(self, d=PLUMB_BOB, model='plumb_bob', width=WIDTH, k=K) -> None:
        message = CameraInfo(width=width, height=HEIGHT, distortion_model=model, d=list(d))
        message.k = np.array(k)
        self._publisher.publish(message)


def answered(peer: Peer, driver: Driver, number: int, **info: object) -> Detection3DArray:
    """The objects of an image after such a camera_info."""
    objects = peer.listen(f'{NODE}/objects', Detection3DArray)
    sent = red_image(number)
    for _ in range(100):
        driver.say(**info)
        peer.spin(0.05)
        peer.send(sent)
        peer.spin(0.2)
        for message in objects:
            if message.header == sent.header:
                return message
    raise AssertionError(f'no objects for image {number}')


def test_objects_are_where_geometry_puts_them(peer: Peer) -> None:
    """Four of the eight boxes end below the horizon, 30 pixels of 100: 1.5 m lead to 5 m."""
    message = answered(peer, Driver(peer), 1, d=(0.0,) * 5)

    assert len(message.detections) == 4
    found = message.detections[0]
    result = found.results[0]
    assert found.header == message.header
    assert (result.hypothesis.class_id, result.hypothesis.score) == ('pedestrian', 1.0)
    place = result.pose.pose.position
    assert (place.y, place.z) == pytest.approx((1.5, 5.0))  # optical: y down, z forward
    covariance = result.pose.covariance.reshape(6, 6)
    np.testing.assert_allclose(covariance, covariance.T)
    assert (np.linalg.eigvalsh(covariance[:3, :3]) >= -1e-12).all() and covariance[2, 2] > 0
    assert (found.bbox.size.x, found.bbox.size.z) == (0.8, 1.75)
    centre = found.bbox.center.position
    assert (centre.x, centre.y, centre.z) == pytest.approx((place.x, 1.5 - 1.75 / 2, 5.4))


def test_distortion_is_not_ignored(peer: Peer) -> None:
    driver = Driver(peer)
    for number in range(100, 130):  # camera_info and images overtake each other
        message = answered(peer, driver, number)
        found = [item.results[0].pose.pose.position.z for item in message.detections]
        if max(found) < 4.95:
            break

    camera = CameraModel(WIDTH, HEIGHT, 100.0, 100.0, 47.5, 31.5, 'plumb_bob', PLUMB_BOB)
    feet = np.array([[11.5, 61.5], [35.5, 61.5], [59.5, 61.5], [83.5, 61.5]])
    expected = on_ground(feet, camera, Mount.of(1.5))[:, 0]
    np.testing.assert_allclose(sorted(found), sorted(expected), rtol=1e-6)


def test_the_closest_object_in_the_own_path_is_on_diagnostics(peer: Peer) -> None:
    driver = Driver(peer)
    for number in range(130, 160):  # as above
        answered(peer, driver, number, d=(0.0,) * 5)
        found = values(peer.diagnostics()[STATUS])
        if found.get('closest_in_path_m') == '5.00':
            break

    assert (found['closest_in_path'], found['closest_in_path_m']) == ('pedestrian', '5.00')


@pytest.mark.parametrize(
    ('info', 'says'),
    [
        ({'width': 80}, 'is for images of 80x64, found images of 96x64'),
        ({'k': (0.0,) * 9}, 'not calibrated'),
        ({'k': (float('nan'), *K[1:])}, 'NaN'),
        ({'model': 'double_sphere'}, 'unknown distortion model'),
    ],
)
def test_a_camera_info_that_cannot_be_used_is_said_and_costs_only_places(
    peer: Peer, info: dict, says: str
) -> None:
    driver = Driver(peer)
    answered(peer, driver, 4)
    objects = peer.listen(f'{NODE}/objects', Detection3DArray)
    boxes = peer.listen(f'{NODE}/detections', Detection2DArray)
    peer.spin(0.3)
    for number in range(5, 30):
        driver.say(**info)
        peer.send(red_image(number))
        peer.spin(0.1)
        if says in peer.diagnostics()[STATUS].message:
            break
    status = peer.diagnostics()[STATUS]

    assert says in status.message and status.level == b'\x01'
    objects.clear()
    boxes.clear()
    for number in (40, 41):
        peer.send(red_image(number))
        peer.spin(0.3)
    assert boxes and not objects
    assert len(answered(peer, driver, 50).detections) == 4


def test_confidence_and_points_have_header_and_size_of_their_mask(peer: Peer) -> None:
    """And the names of the classes are there before the first mask is."""
    names = peer.listen(f'{NODE}/drivable/label_info', LabelInfo, LATCHED)
    peer.until(lambda: names, 'label info')
    driver = Driver(peer)
    topics = {'': Image, '/confidence': Image, '/points': PointCloud2}
    heard = {name: peer.listen(f'{NODE}/drivable{name}', kind) for name, kind in topics.items()}
    answered(peer, driver, 60)
    sent = red_image(61)
    for messages in heard.values():
        messages.clear()
    for _ in range(50):
        peer.send(sent)
        peer.spin(0.1)
        if all(any(m.header == sent.header for m in messages) for messages in heard.values()):
            break
    mask, confidence, cloud = (
        next(m for m in messages if m.header == sent.header) for messages in heard.values()
    )

    assert {(m.height, m.width) for m in (mask, confidence, cloud)} == {(HEIGHT, WIDTH)}
    assert (confidence.encoding, confidence.step) == ('mono8', WIDTH)
    # Logits of pure red are 1, 0 and 0: the probability is e / (e + 2).
    assert set(confidence.data) == {round(255 * np.e / (np.e + 2))}
    assert (cloud.point_step, cloud.row_step) == (12, 12 * WIDTH)
    points = np.frombuffer(cloud.data, np.float32).reshape(HEIGHT, WIDTH, 3)
    assert np.isnan(points[:31]).all()
    rows, columns = np.nonzero(np.isfinite(points[..., 2]))
    camera = CameraModel(WIDTH, HEIGHT, 100.0, 100.0, 47.5, 31.5, 'plumb_bob', PLUMB_BOB)
    pixels = camera.project(points[rows, columns].astype(float))
    np.testing.assert_allclose(pixels, np.stack([columns, rows], 1), atol=1e-3)
    np.testing.assert_allclose(points[rows, columns, 1], 1.5, rtol=1e-5)
