# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""One camera's places on the road: `~/objects`, `~/lane/lines`, and what is closest in the way."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from std_msgs.msg import Header
from vision_msgs.msg import Detection3DArray
from visualization_msgs.msg import MarkerArray

from mtl_perception import kinds
from mtl_perception.camera_model import Floats
from mtl_perception.frame import Frame, Result
from mtl_perception.lanes import lane_lines
from mtl_perception.node import place_messages
from mtl_perception.node.camera_geometry import CameraGeometry, View
from mtl_perception.node.endpoints import create_publisher
from mtl_perception.objects import between_lines, closest, in_path, place
from mtl_perception.tasks import Task

QOS = QoSProfile(depth=5)
OWN_PATH = 'direct'
"""Class of a drivable area that the vehicle may drive on without leaving its lane (BDD100K)."""
MARKING = 'lane'
"""Class of a segmentation task whose pixels are lane markings."""


@dataclass(frozen=True)
class Closest:
    """The closest object in the own path: its class and metres ahead of the camera."""

    name: str
    ahead_m: float

    def __str__(self) -> str:
        """`car 12.3 m`."""
        return f'{self.name} {self.ahead_m:.1f} m'


class CameraObjects:
    """Puts the places of a camera's detections into results and publishes them.

    closest: of the last frame whose objects were placed; None where nothing is in the path, or no
    task tells the path.
    """

    def __init__(
        self, node: Node, prefix: str, tasks: Sequence[Task], geometry: CameraGeometry
    ) -> None:
        """Create the publishers below `prefix` (`~/`, `~/<camera>/`)."""
        self.geometry = geometry
        self.closest: Closest | None = None
        self._tasks = {task.name: task for task in tasks}
        self._detection = [task.name for task in tasks if kinds.of(task).has_boxes]
        masks = [task for task in tasks if kinds.of(task).is_mask]
        self._lines = [task.name for task in masks if MARKING in task.classes]
        paths = [task.name for task in masks if OWN_PATH in task.classes]
        self._path = next(iter([*paths, *self._lines]), '')
        self._outputs: dict[str, Publisher] = {}
        for name in self._detection:
            middle = '' if name == 'detection' else f'{name}/'
            topic = f'{prefix}{middle}objects'
            self._outputs[name] = create_publisher(node, Detection3DArray, topic, QOS)
        for name in self._lines:
            topic = f'{prefix}{name}/lines'
            self._outputs[name] = create_publisher(node, MarkerArray, topic, QOS)

    def requested(self) -> frozenset[str]:
        """Tasks whose places have subscribers."""
        return frozenset(
            name for name, output in self._outputs.items() if output.get_subscription_count()
        )

    def needs(self, requested: Collection[str]) -> frozenset[str]:
        """Tasks to compute for these: they themselves, and what tells the own path."""
        path = {self._path} - {''} if set(requested) & set(self._detection) else set()
        return frozenset(requested) | path

    def add(self, header: Header, frame: Frame, result: Result, tasks: Collection[str]) -> None:
        """Put the places of these tasks' detections into the result, where they can be known."""
        self.closest = None
        names = [name for name in self._detection if name in tasks and name in result.detections]
        view = self._view(header, frame) if names else None
        if view is None:
            return
        for name in names:
            found = result.detections[name]
            deviations = self.geometry.settings.deviations
            task = self._tasks[name]
            result.places[name] = place(found, task, view.camera, view.mount, deviations)
            self._find_closest(name, result, view)

    def publish(self, header: Header, frame: Frame, result: Result, tasks: Collection[str]) -> None:
        """Send the places of these tasks; nothing where the geometry is not known."""
        view = self._view(header, frame) if tasks else None
        if view is None:
            return
        for name in sorted(tasks):
            task = self._tasks[name]
            if name in result.places:
                found = result.detections[name]
                ids = _track_ids(result, name)
                message = place_messages.objects_message(
                    header, view, found, result.places[name], task, ids
                )
                self._outputs[name].publish(message)
            elif name in result.masks:
                label = task.classes.index(MARKING)
                lines = self._lane_lines(result, name, view)
                self._outputs[name].publish(
                    place_messages.lines_message(header, view, lines, task, label)
                )

    @property
    def fault(self) -> str:
        """Why what is subscribed to cannot be served, '' where it can."""
        fault = self.geometry.fault
        return f'no places on the road: {fault}' if fault and self.requested() else ''

    @property
    def values(self) -> dict[str, str]:
        """For /diagnostics."""
        found = self.closest
        if found is None:
            return {}
        return {'closest_in_path': found.name, 'closest_in_path_m': f'{found.ahead_m:.2f}'}

    @property
    def publishers(self) -> list[Publisher]:
        """All of them."""
        return list(self._outputs.values())

    def _view(self, header: Header, frame: Frame) -> View | None:
        height, width = frame.pixels.shape[:2]
        return self.geometry.view(header, width, height)

    def _find_closest(self, name: str, result: Result, view: View) -> None:
        """Look for the closest object on the own path."""
        mask = result.masks.get(self._path)
        if mask is None:
            return
        places, found = result.places[name], result.detections[name]
        classes = self._tasks[self._path].classes
        if OWN_PATH in classes:
            chosen = in_path(places, found.boxes, mask, classes.index(OWN_PATH))
        else:
            chosen = between_lines(places, self._lane_lines(result, self._path, view))
        index = closest(places, chosen)
        if index is None:
            return
        ahead = float(places.ahead_m[index])
        if self.closest is None or ahead < self.closest.ahead_m:
            label = self._tasks[name].classes[int(found.labels[index])]
            self.closest = Closest(label, ahead)

    def _lane_lines(self, result: Result, name: str, view: View) -> list[Floats]:
        label = self._tasks[name].classes.index(MARKING)
        return lane_lines(result.masks[name], label, view.camera, view.mount)


def _track_ids(result: Result, name: str) -> list[str]:
    """Id of each detection's track, '' where it has none."""
    count = len(result.detections[name])
    if name not in result.tracks:
        return [''] * count
    numbers = result.tracks[name].of_detections(count).tolist()
    return [str(number) if number else '' for number in numbers]
