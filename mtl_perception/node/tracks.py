# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""One camera's tracks: its trackers, one per detection task, and the topics that carry the ids."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray

from mtl_perception import kinds
from mtl_perception.frame import Frame, Result
from mtl_perception.node import messages
from mtl_perception.node.endpoints import create_publisher
from mtl_perception.node.health import Throttle
from mtl_perception.tasks import Task
from mtl_perception.tracking import Tracker, Tracking

QOS = QoSProfile(depth=5)


class CameraTracks:
    """Gives a camera's detections their ids, in the order in which its frames are answered."""

    def __init__(self, node: Node, prefix: str, tasks: Sequence[Task]) -> None:
        """Create the publishers below `prefix` (`~/`, `~/<camera>/`)."""
        self._node = node
        self._tasks = {task.name: task for task in tasks if kinds.of(task).has_boxes}
        self._trackers = {name: Tracker(len(task.classes)) for name, task in self._tasks.items()}
        self._outputs: dict[str, Publisher] = {
            name: create_publisher(node, Detection2DArray, tracks_topic(prefix, task), QOS)
            for name, task in self._tasks.items()
        }
        self._throttle = Throttle()

    def configure(self, settings: Tracking) -> None:
        """Use these settings from the next frame on."""
        for tracker in self._trackers.values():
            tracker.settings = settings

    def requested(self) -> frozenset[str]:
        """Tasks whose tracks have subscribers."""
        return frozenset(
            name for name, output in self._outputs.items() if output.get_subscription_count()
        )

    def add(self, header: Header, frame: Frame, result: Result, tasks: Collection[str]) -> None:
        """Put the tracks of these tasks into the result of the camera's next frame.

        Time is the header's; where its stamp is not set (0), the node's clock.
        """
        stamp_ns = header.stamp.sec * 10**9 + header.stamp.nanosec
        stamp_ns = stamp_ns or self._node.get_clock().now().nanoseconds
        height, width = frame.pixels.shape[:2]
        for name in sorted(self._tasks.keys() & tasks & result.detections.keys()):
            tracker = self._trackers[name]
            view = (header.frame_id, width, height)
            result.tracks[name] = tracker.update(result.detections[name], stamp_ns, view)
            if tracker.ended and self._throttle(name) is not None:
                topic = self._outputs[name].topic_name
                self._node.get_logger().warning(f'{topic}: all tracks ended: {tracker.ended}')

    def publish(self, header: Header, result: Result, tasks: Collection[str]) -> None:
        """Send the tracks of these tasks."""
        for name in sorted(result.tracks.keys() & tasks):
            message = messages.tracks_message(header, result.tracks[name], self._tasks[name])
            self._outputs[name].publish(message)

    @property
    def publishers(self) -> list[Publisher]:
        """All of them."""
        return list(self._outputs.values())


def tracks_topic(prefix: str, task: Task) -> str:
    """`~/tracks` of the task `detection`, `~/<task>/tracks` of another one."""
    return f'{prefix}{"" if task.name == "detection" else f"{task.name}/"}tracks'
