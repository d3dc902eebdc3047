# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The interfaces are the public ones, as text and as built."""

import os
import time

import pytest

from mtl_perception.interfaces import message_texts

# Of vision_msgs 4.1.1, as released: what two ROS 2 processes compare before they talk.
PUBLIC_HASHES = {
    'vision_msgs/msg/Detection2DArray': (
        'RIHS01_214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968'
    ),
    'vision_msgs/msg/LabelInfo': (
        'RIHS01_3d37df4015cdf660cc851c51897f2acd957e1ca6205ba0a99aebffb9406b0783'
    ),
}
VISION = {
    'BoundingBox2D', 'BoundingBox2DArray', 'BoundingBox3D', 'BoundingBox3DArray', 'Classification',
    'Detection2D', 'Detection2DArray', 'Detection3D', 'Detection3DArray', 'LabelInfo',
    'ObjectHypothesis', 'ObjectHypothesisWithPose', 'Point2D', 'Pose2D', 'VisionClass',
    'VisionInfo',
}  # fmt: skip


FOXGLOVE = {
    'CircleAnnotation', 'Color', 'ImageAnnotations', 'Point2', 'PointsAnnotation', 'TextAnnotation',
}  # fmt: skip
MESSAGES = {f'vision_msgs/msg/{name}' for name in VISION}
MESSAGES |= {f'foxglove_msgs/msg/{name}' for name in FOXGLOVE}
MESSAGES |= {'tf2_msgs/msg/TFMessage'}


@pytest.fixture(scope='module')
def typestore():
    """ROS 2 Jazzy's types as rosbags has them, and ours registered from their texts."""
    typesys = pytest.importorskip('rosbags.typesys')
    store = typesys.get_typestore(typesys.Stores.ROS2_JAZZY)
    types = {}
    for name, text in message_texts().items():
        types.update(typesys.get_types_from_msg(text, name))
    store.register(types)
    return store


def test_texts_cover_every_message():
    assert message_texts().keys() == MESSAGES


@pytest.mark.parametrize('name', PUBLIC_HASHES)
def test_text_has_the_public_type_hash(typestore, name):
    assert typestore.hash_rihs01(name) == PUBLIC_HASHES[name]


@pytest.mark.parametrize('name', sorted(MESSAGES))
def test_built_message_has_the_fields_of_the_text(typestore, name):
    package, _, message = name.split('/')
    messages = pytest.importorskip(f'{package}.msg')

    built = getattr(messages, message)

    fields = [field for field, _ in typestore.fielddefs[name][1]]
    assert list(built.get_fields_and_field_types()) == fields


@pytest.mark.ros
@pytest.mark.parametrize('name', PUBLIC_HASHES)
def test_built_message_announces_the_public_type_hash(name, monkeypatch):
    rclpy = pytest.importorskip('rclpy')
    messages = pytest.importorskip('vision_msgs.msg')
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    context = rclpy.context.Context()
    rclpy.init(context=context, domain_id=1 + os.getpid() % 100)
    node = rclpy.create_node('type_hash', context=context)

    node.create_publisher(getattr(messages, name.rpartition('/')[2]), '~/probe', 1)
    deadline = time.monotonic() + 10
    while not (found := node.get_publishers_info_by_topic('/type_hash/probe')):
        assert time.monotonic() < deadline, 'the node does not see its own publisher'
        time.sleep(0.02)
    announced = getattr(found[0], 'topic_type_hash', None)
    node.destroy_node()
    rclpy.shutdown(context=context)

    if announced is None:
        pytest.skip('this ROS 2 is older than Iron and announces no type hashes')
    assert str(announced) == PUBLIC_HASHES[name]
