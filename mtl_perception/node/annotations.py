# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""One camera's annotations: what a viewer draws over the image by itself, instead of the overlay.

foxglove_msgs need not be installed: without it there is no such topic.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from std_msgs.msg import Header

from mtl_perception.annotations import annotate, as_message
from mtl_perception.frame import Frame, Result
from mtl_perception.tasks import Task

QOS = QoSProfile(depth=5)


class CameraAnnotations:
    """Publishes foxglove_msgs/ImageAnnotations on `annotations`, where that is installed."""

    def __init__(
        self, node: Node, prefix: str, tasks: Sequence[Task], mask_task: str | None
    ) -> None:
        """mask_task: the segmentation task whose areas are outlined."""
        self._tasks = tuple(tasks)
        self._mask_task = mask_task
        self._messages = _foxglove_msgs()
        self._output: Publisher | None = None
        if self._messages is None:
            node.get_logger().info(
                f'no {prefix}annotations: foxglove_msgs is not installed '
                f'(apt install ros-$ROS_DISTRO-foxglove-msgs)'
            )
            return
        kind = self._messages.ImageAnnotations
        self._output = node.create_publisher(kind, f'{prefix}annotations', QOS)

    def requested(self) -> bool:
        """Whether there is a subscriber."""
        return self._output is not None and bool(self._output.get_subscription_count())

    def publish(self, header: Header, frame: Frame, result: Result) -> None:
        """Send the shapes of one frame, each part stamped like it."""
        if self._output is not None:
            shapes = annotate(result, self._tasks, len(frame.pixels), self._mask_task)
            self._output.publish(as_message(shapes, header.stamp, self._type))

    @property
    def publishers(self) -> list[Publisher]:
        """All of them."""
        return [] if self._output is None else [self._output]

    def _type(self, name: str) -> Any:
        return getattr(self._messages, name)


def _foxglove_msgs() -> ModuleType | None:
    try:
        import foxglove_msgs.msg
    except ImportError:
        return None
    module: ModuleType = foxglove_msgs.msg
    return module
