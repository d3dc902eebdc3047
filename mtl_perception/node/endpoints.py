# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Publishers and subscriptions whose QoS a user may override: `qos_overrides.TOPIC...` parameters.

History, depth and reliability of every input and output, as ROS 2 has it (`ros2 param list` shows
them once the node is configured). The reliability of images has a parameter of its own,
`image_reliability`, which may change between two configurations; an override may not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSPolicyKind, QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription

OF_IMAGES = (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH)
POLICIES = (*OF_IMAGES, QoSPolicyKind.RELIABILITY)


def create_publisher(node: Node, kind: type, topic: str, qos: QoSProfile) -> Publisher:
    """A publisher with this QoS, or what its parameters say."""
    options = QoSOverridingOptions(POLICIES)
    return node.create_publisher(kind, topic, copy(qos), qos_overriding_options=options)


def create_subscription(
    node: Node,
    kind: type,
    topic: str,
    callback: Callable[[Any], None],
    qos: QoSProfile,
    policies: Sequence[QoSPolicyKind] = POLICIES,
) -> Subscription:
    """A subscription with this QoS, or what its parameters for these policies say."""
    options = QoSOverridingOptions(policies)
    return node.create_subscription(
        kind, topic, callback, copy(qos), qos_overriding_options=options
    )
