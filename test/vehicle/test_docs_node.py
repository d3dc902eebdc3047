# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The tables of docs/node.md of topics and parameters are those of the live node."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import live_node
import pytest

pytest.importorskip('rclpy', reason='needs ROS 2 (make test installs the Jazzy wheels)')
pytest.importorskip('vision_msgs.msg', reason='needs vision_msgs (make test builds it)')

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from tiny_bundle import write_tiny_bundle

from mtl_perception.node.perception_node import SUCCESS, PerceptionNode

pytestmark = pytest.mark.ros

DOCUMENT = (Path(__file__).parents[2] / 'docs' / 'node.md').read_text('utf-8')
ROS_OWN = {'/parameter_events', '/rosout', '/perception/transition_event'}
"""Topics that every (lifecycle) node has."""
OF_LANE_MODELS = {'/perception/lane/lines': 'visualization_msgs/msg/MarkerArray'}
"""Documented, and published where the model finds lane markings (`test_place_messages.py`)."""


def table(header: str) -> list[list[str]]:
    """Rows of the table with that header line, cells as text."""
    lines = DOCUMENT.partition(header + '\n')[2].splitlines()[1:]
    rows = lines[
        : next((i for i, line in enumerate(lines) if not line.startswith('|')), len(lines))
    ]
    return [[cell.strip() for cell in row.strip('|').split('|')] for row in rows]


def documented_topics() -> dict[str, str]:
    """Topic -> type by docs/node.md; a row may hold several topics, with one type or one each."""
    found = {}
    for topics, types, _ in table('| topic | type | notes |'):
        names = re.findall(r'`([^`]+)`', topics)
        kinds = types.split(', ')
        for number, name in enumerate(names):
            kind = kinds[min(number, len(kinds) - 1)].replace('/', '/msg/')
            if '/' not in kind:
                kind = f'{kinds[0].partition("/")[0]}/msg/{kind}'
            found[name.replace('~', '/perception')] = kind
    return found


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[PerceptionNode]:
    """An active node on the model that comes with the package, on an engine that needs nothing."""
    for name, value in live_node.private_ros_environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    rclpy.init(args=[])
    made = PerceptionNode()
    executor = SingleThreadedExecutor()
    executor.add_node(made)
    made.set_parameters([Parameter('engine', value='fake')])
    assert made.trigger_configure() == SUCCESS
    yield made
    made.stop()
    made.destroy_node()
    rclpy.shutdown()


def topics_of_maps(node: PerceptionNode, bundle: Path) -> dict[str, str]:
    """The topics of depth and normals, which the model that comes with the package lacks."""
    node.trigger_cleanup()
    node.set_parameters([Parameter('model', value=str(bundle))])
    assert node.trigger_configure() == SUCCESS
    names = ('/perception/depth', '/perception/normals')
    kinds = {publisher.topic_name: publisher.msg_type for publisher in node.publishers}
    return {name: f'sensor_msgs/msg/{kinds[name].__name__}' for name in names}


def test_topics(node: PerceptionNode, tmp_path: Path) -> None:
    maps = write_tiny_bundle(tmp_path / 'maps', maps=True)
    published = {publisher.topic_name: publisher.msg_type for publisher in node.publishers}
    found = {
        topic: f'{kind.__module__.split(".")[0]}/msg/{kind.__name__}'
        for topic, kind in published.items()
        if topic not in ROS_OWN
    }
    documented = documented_topics()
    if importlib.util.find_spec('foxglove_msgs') is None:
        del documented['/perception/annotations']
    found |= topics_of_maps(node, maps)
    for transport, topic in (('raw', 'image'), ('compressed', 'image/compressed')):
        node.trigger_cleanup()
        node.set_parameters([Parameter('image_transport', value=transport)])
        assert node.trigger_configure() == SUCCESS
        assert node.trigger_activate() == SUCCESS
        subscribed = {s.topic_name: s.msg_type for s in node.subscriptions}
        for name in (f'/perception/{topic}', '/perception/camera_info'):
            found[name] = f'sensor_msgs/msg/{subscribed[name].__name__}'
        node.trigger_deactivate()
    for topic, kind in OF_LANE_MODELS.items():
        assert found.setdefault(topic, kind) == kind
    assert documented == found


def test_parameters(node: PerceptionNode) -> None:
    """Name, default and whether it can be changed, as `ros2 param describe` would say."""
    rows = table('| parameter | type | default | range | applies | what it does |')
    documented = {row[0].strip('`'): row for row in rows}
    ours = {name for name in node._parameters if name != 'use_sim_time' and '.' not in name}
    ours -= {'start_type_description_service'}
    assert set(documented) == ours
    for name, (_, kind, _, allowed, applies, text) in documented.items():
        descriptor = node.describe_parameter(name)
        assert descriptor.description == text
        assert descriptor.read_only == (applies == 'start')
        ros_type = Parameter.Type(descriptor.type).name
        assert {'boolean': 'BOOL', 'string array': 'STRING_ARRAY'}.get(
            kind, kind.upper()
        ) == ros_type
        for limits in (*descriptor.floating_point_range, *descriptor.integer_range):
            assert allowed == f'{limits.from_value:g} to {limits.to_value:g}'
