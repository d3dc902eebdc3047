# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Which publishers and subscribers connect to the node, and that the others are named."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='needs ROS 2 (make test installs the Jazzy wheels)')
pytest.importorskip('vision_msgs.msg', reason='needs vision_msgs (make test builds it)')

import live_node
from live_node import NODE, NodeProcess, Peer, image
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

pytestmark = [pytest.mark.ros, pytest.mark.usefixtures('private_ros')]

OK, WARN = b'\x00', b'\x01'
RELIABILITIES = (ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT)
DURABILITIES = (DurabilityPolicy.VOLATILE, DurabilityPolicy.TRANSIENT_LOCAL)


def qos(reliability: ReliabilityPolicy, durability: DurabilityPolicy) -> QoSProfile:
    return QoSProfile(depth=5, reliability=reliability, durability=durability)


@pytest.fixture(scope='module')
def running(
    private_ros: None, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NodeProcess]:
    """An active node with the default QoS, whose camera may be silent."""
    with NodeProcess(
        tmp_path_factory.mktemp('node'), model=tiny_bundle, engine='fake', autostart='true',
        diagnostics_period_s=0.2, stall_warn_s=60.0, stall_error_s=61.0,
    ) as node:  # fmt: skip
        node.wait_for_output('active: listening')
        yield node


@pytest.fixture
def peer(running: NodeProcess) -> Iterator[Peer]:
    with live_node.peer() as made:
        yield made


def camera(peer: Peer) -> tuple[bytes, str]:
    """Level and message of the camera's status."""
    status = peer.diagnostics()['perception: camera']
    return status.level, status.message


def test_every_camera_connects_and_is_answered(peer: Peer) -> None:
    answers = peer.listen(f'{NODE}/detections', Detection2DArray)
    peer.until(lambda: peer.node.count_publishers(f'{NODE}/detections'), 'publisher')
    for number, policies in enumerate(itertools.product(RELIABILITIES, DURABILITIES)):
        publisher = peer.node.create_publisher(Image, f'{NODE}/image', qos(*policies))
        peer.until(publisher.get_subscription_count, f'connection of {policies}')
        deadline = time.monotonic() + live_node.PATIENCE_S
        while not any(message.header == image(number).header for message in answers):
            assert time.monotonic() < deadline, f'no answer to {policies}'
            publisher.publish(image(number))  # again: what is best effort may be lost
            peer.spin(0.3)
        assert camera(peer)[0] == OK
        peer.node.destroy_publisher(publisher)


def test_both_reliabilities_of_subscribers_are_served(peer: Peer) -> None:
    lists = [
        peer.listen(topic, kind, qos(reliability, DurabilityPolicy.VOLATILE))
        for topic, kind, reliability in (
            (f'{NODE}/detections', Detection2DArray, ReliabilityPolicy.RELIABLE),
            (f'{NODE}/drivable', Image, ReliabilityPolicy.BEST_EFFORT),
        )
    ]
    peer.repeat(image(0), lambda: all(lists))


def test_a_subscriber_that_cannot_connect_is_named_while_it_is_there(
    running: NodeProcess, peer: Peer
) -> None:
    latched = qos(ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL)
    subscription = peer.node.create_subscription(Image, f'{NODE}/drivable', print, latched)
    peer.until(lambda: camera(peer)[0] == WARN, 'warning')
    peer.until(lambda: 'test_peer' in camera(peer)[1], 'name of the subscriber')
    assert f'{NODE}/drivable' in camera(peer)[1]
    assert 'volatile publisher' in camera(peer)[1]
    assert f'{NODE}/drivable is not reached' in running.output
    peer.node.destroy_subscription(subscription)
    peer.until(lambda: camera(peer)[0] == OK, 'end of the warning')


def test_a_camera_that_cannot_connect_is_named_with_the_way_out(
    running: NodeProcess, peer: Peer
) -> None:
    """Last here: the node is reliable from then on."""
    for label in ('deactivate', 'cleanup'):
        assert peer.change(label)
    assert peer.set('image_reliability', 'reliable').successful
    for label in ('configure', 'activate'):
        assert peer.change(label)
    offered = qos(ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE)
    publisher = peer.node.create_publisher(Image, f'{NODE}/image', offered)
    peer.until(lambda: camera(peer)[0] == WARN, 'warning')
    peer.until(lambda: 'test_peer' in camera(peer)[1], 'name of the publisher')
    assert 'image_reliability best_effort' in camera(peer)[1]
    assert f'{NODE}/image does not reach us' in running.output
    assert publisher.get_subscription_count() == 0
