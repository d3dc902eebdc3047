# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""`qos_overrides` parameters change images in and answers out, in every configuration anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='needs ROS 2 (make test installs the Jazzy wheels)')
pytest.importorskip('vision_msgs.msg', reason='needs vision_msgs (make test builds it)')

import live_node
import rclpy
from rclpy.parameter import Parameter
from rclpy.qos import ReliabilityPolicy

from mtl_perception.node.perception_node import SUCCESS, PerceptionNode

pytestmark = pytest.mark.ros

OVERRIDES = {
    'qos_overrides./perception/detections.publisher.reliability': 'best_effort',
    'qos_overrides./perception/image.subscription.depth': '2',
}


@pytest.fixture
def node(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_bundle: Path
) -> Iterator[PerceptionNode]:
    for name, value in live_node.private_ros_environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    arguments = [f'{name}:={value}' for name, value in OVERRIDES.items()]
    rclpy.init(args=['--ros-args', *(word for item in arguments for word in ('-p', item))])
    made = PerceptionNode()
    made.set_parameters(
        [Parameter('engine', value='fake'), Parameter('model', value=str(tiny_bundle))]
    )
    yield made
    made.stop()
    made.destroy_node()
    rclpy.shutdown()


def test_overrides_hold_and_leave_the_others_alone(node: PerceptionNode) -> None:
    for _ in range(2):
        assert node.trigger_configure() == SUCCESS
        assert node.trigger_activate() == SUCCESS
        qos = {publisher.topic_name: publisher.qos_profile for publisher in node.publishers}
        assert qos['/perception/detections'].reliability == ReliabilityPolicy.BEST_EFFORT
        assert qos['/perception/objects'].reliability == ReliabilityPolicy.RELIABLE
        (image,) = (s for s in node.subscriptions if s.topic_name == '/perception/image')
        assert image.qos_profile.depth == 2
        node.trigger_deactivate()
        node.trigger_cleanup()
