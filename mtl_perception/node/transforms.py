# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""/tf and /tf_static -> the transforms that geometry asks for."""

from __future__ import annotations

from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile

from mtl_perception.node.parameters import ParameterError
from mtl_perception.transforms import TransformTree

# As tf2_ros listens.
DYNAMIC = QoSProfile(depth=100)
STATIC = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class TransformListener:
    """Fills a tree while it lives; raises ParameterError where the message type is missing."""

    def __init__(self, node: Node) -> None:
        """Subscribe."""
        try:
            from tf2_msgs.msg import TFMessage
        except ImportError as error:
            raise ParameterError(
                'base_frame needs the package tf2_msgs, which is not installed: '
                '`sudo apt install ros-$ROS_DISTRO-tf2-msgs`, or give camera_height_m instead'
            ) from error
        self.tree = TransformTree()
        self._node = node
        self._subscriptions = [
            node.create_subscription(TFMessage, topic, self._take, qos)
            for topic, qos in (('/tf', DYNAMIC), ('/tf_static', STATIC))
        ]

    def destroy(self) -> None:
        """Stop listening."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def _take(self, message: Any) -> None:
        for item in message.transforms:
            at, turn = item.transform.translation, item.transform.rotation
            self.tree.put(
                item.header.frame_id,
                item.child_frame_id,
                (at.x, at.y, at.z),
                (turn.x, turn.y, turn.z, turn.w),
            )
