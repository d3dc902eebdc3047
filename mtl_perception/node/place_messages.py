# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Places on the road -> ROS messages: objects with size and covariance, lane markings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from geometry_msgs.msg import Point, Pose, PoseWithCovariance, Quaternion, Vector3
from std_msgs.msg import ColorRGBA, Header
from vision_msgs.msg import Detection3D, Detection3DArray, ObjectHypothesisWithPose
from visualization_msgs.msg import Marker, MarkerArray

from mtl_perception.camera_model import Floats
from mtl_perception.frame import Detections
from mtl_perception.geometry import GroundPoints, Mount
from mtl_perception.node.camera_geometry import View
from mtl_perception.objects import size_m
from mtl_perception.tasks import Task
from mtl_perception.transforms import quaternion_of

LINE_WIDTH_M = 0.12
HEADING_VARIANCE = math.pi**2 / 3
"""Of an angle that is not known at all."""


def objects_message(
    image: Header,
    view: View,
    detections: Detections,
    places: GroundPoints,
    task: Task,
    ids: Sequence[str],
) -> Detection3DArray:
    """Objects whose place is known, best score first.

    A result's pose is the object's nearest point on the road with its covariance (x, y, z, and the
    rotations about them; the heading is not known). `bbox` is a typical box of the class that
    begins there and lies along the base frame. `id`: the track's, '' without one.
    """
    header = view.header(image)
    message = Detection3DArray(header=header)
    in_base = bool(view.frame_id)
    positions, covariance = (places.positions, places.covariance) if in_base else places.in_camera()
    axes = np.eye(3) if in_base else view.mount.matrix.T
    x, y, z, w = quaternion_of(axes)
    orientation = Quaternion(x=x, y=y, z=z, w=w)
    tilt = 1e-6
    turns = axes @ np.diag([tilt, tilt, HEADING_VARIANCE]) @ axes.T
    for i in np.flatnonzero(places.known).tolist():
        name = task.classes[int(detections.labels[i])]
        length, width, height = size_m(name)
        found = Detection3D(header=header, id=ids[i])
        centre = positions[i] + axes @ (length / 2, 0.0, height / 2)
        found.bbox.center = Pose(position=_point(centre), orientation=orientation)
        found.bbox.size = Vector3(x=length, y=width, z=height)
        full = np.zeros((6, 6))
        full[:3, :3], full[3:, 3:] = covariance[i], turns
        hypothesis = ObjectHypothesisWithPose()
        hypothesis.hypothesis.class_id = name
        hypothesis.hypothesis.score = float(detections.scores[i])
        hypothesis.pose = PoseWithCovariance(
            pose=Pose(position=_point(positions[i]), orientation=orientation),
            covariance=full.reshape(-1),
        )
        found.results = [hypothesis]
        message.detections.append(found)
    return message


def lines_message(
    image: Header, view: View, lines: Sequence[Floats], task: Task, label: int
) -> MarkerArray:
    """A LINE_STRIP for each marking [K, 3] of the base frame; what was shown before is deleted."""
    header = view.header(image)
    markers = [Marker(header=header, ns=task.name, action=Marker.DELETEALL)]
    red, green, blue = task.colours[label] if task.colours else (255, 255, 255)
    colour = ColorRGBA(r=red / 255, g=green / 255, b=blue / 255, a=1.0)
    for number, line in enumerate(lines):
        marker = Marker(header=header, ns=task.name, id=number, type=Marker.LINE_STRIP)
        marker.pose.orientation.w = 1.0
        marker.scale.x = LINE_WIDTH_M
        marker.color = colour
        marker.points = [_point(point) for point in in_frame(line, view.mount, view.frame_id)]
        markers.append(marker)
    return MarkerArray(markers=markers)


def in_frame(points: Floats, mount: Mount, frame_id: str) -> Floats:
    """Points of the base frame where they are to be given: there, or in the camera's frame."""
    return points if frame_id else mount.to_camera(points)


def _point(values: Floats) -> Point:
    x, y, z = values.tolist()
    return Point(x=x, y=y, z=z)
