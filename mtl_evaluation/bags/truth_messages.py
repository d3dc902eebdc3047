# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What is known about a frame as messages, on the topics that `bag.py` lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mtl_evaluation import kinds
from mtl_evaluation.messages.cdr import (
    BASE_FRAME,
    CLASSIFICATION,
    DETECTIONS,
    HEADER,
    IGNORED,
    OBJECTS,
    POSE,
    TRUTH,
    detection_message,
    image_message,
    map_message,
    typestore,
)
from mtl_evaluation.truth.truth import Truth, TruthBoxes, TruthPlaces
from mtl_perception import kinds as vehicle
from mtl_perception.tasks import Task
from mtl_perception.transforms import quaternion_of


def truth_messages(header: Any, truth: Truth, root: str = TRUTH) -> Iterator[tuple[str, Any]]:
    """Topic, below `root`, and message of everything that is known about a frame."""
    types = typestore().types
    if truth.boxes is not None:
        yield f'{root}/detections', types[DETECTIONS](header, [*_items(header, truth.boxes)])
    if truth.places is not None:
        yield from _place_messages(header, truth.places, root)
    for name, mask in truth.masks.items():
        yield f'{root}/{name}', image_message(header, mask, 'mono8')
    for name, values in truth.maps.items():
        yield f'{root}/{name}', map_message(header, values)
    for name, label in truth.labels.items():
        hypothesis = types['vision_msgs/msg/ObjectHypothesis'](label, 1.0)
        yield f'{root}/scene/{name}', types[CLASSIFICATION](header, [hypothesis])
    for kind, by_task in truth.others.items():
        for name, value in by_task.items():
            message = kinds.named(kind).to_message(header, value, Task(name, kind))
            yield f'{root}/{vehicle.KINDS[kind].topic_folder}{name}', message


def _items(header: Any, boxes: TruthBoxes) -> Iterator[Any]:
    ids = boxes.ids or ('',) * len(boxes.classes)
    for box, name, ignored, identity in zip(
        boxes.boxes.tolist(), boxes.classes, boxes.ignore, ids, strict=True
    ):
        yield detection_message(header, box, name, 1.0, IGNORED if ignored else identity)


def _place_messages(header: Any, places: TruthPlaces, root: str) -> Iterator[tuple[str, Any]]:
    """Feet of the boxes of `detections`, in their order, and the pose of the camera."""
    types = typestore().types
    base = types[HEADER](header.stamp, BASE_FRAME)

    def pose(at: Sequence[float], turn: Sequence[float]) -> Any:
        return types['geometry_msgs/msg/Pose'](
            types['geometry_msgs/msg/Point'](*at), types['geometry_msgs/msg/Quaternion'](*turn)
        )

    level = (0.0, 0.0, 0.0, 1.0)
    nothing = types['vision_msgs/msg/BoundingBox3D'](
        pose((0.0, 0.0, 0.0), level), types['geometry_msgs/msg/Vector3'](0.0, 0.0, 0.0)
    )
    objects = []
    for foot in places.feet.tolist():
        found = types['vision_msgs/msg/ObjectHypothesisWithPose'](
            types['vision_msgs/msg/ObjectHypothesis']('', 1.0),
            types['geometry_msgs/msg/PoseWithCovariance'](pose(foot, level), np.zeros(36)),
        )
        objects.append(types['vision_msgs/msg/Detection3D'](base, [found], nothing, ''))
    yield f'{root}/objects', types[OBJECTS](base, objects)
    mount = places.mount
    camera = pose(mount.translation, quaternion_of(mount.matrix))
    yield f'{root}/camera_pose', types[POSE](base, camera)
