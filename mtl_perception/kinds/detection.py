# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Detection: boxes with class and score, as vision_msgs/Detection2DArray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mtl_perception.decode.boxes import detection
from mtl_perception.frame import Detections, Tracks
from mtl_perception.kinds.base import Kind, Types
from mtl_perception.tasks import Task

ARRAY = 'vision_msgs/msg/Detection2DArray'


class DetectionKind(Kind):
    """The answer is `Detections`."""

    name = 'detection'
    needed = (
        frozenset({'boxes', 'scores', 'labels'}),
        frozenset({'unique_boxes', 'scores', 'labels'}),
    )
    message = ARRAY
    always_painted = True
    has_boxes = True
    decode = staticmethod(detection)  # type: ignore[assignment]

    def to_message(self, types: Types, header: Any, answer: Detections, task: Task) -> Any:
        """Boxes (xyxy, source pixels) as centre and size; `id` stays empty."""
        return boxes_message(types, header, answer, task, [''] * len(answer))


def boxes_message(
    types: Types, header: Any, found: Detections | Tracks, task: Task, ids: Sequence[str]
) -> Any:
    """A Detection2DArray, each box with its id; `class_id` of a hypothesis is the class name."""
    message = types(ARRAY)(header=header)
    one = types('vision_msgs/msg/Detection2D')
    with_pose = types('vision_msgs/msg/ObjectHypothesisWithPose')
    boxes, scores, labels = found.boxes.tolist(), found.scores.tolist(), found.labels.tolist()
    for (left, top, right, bottom), score, label, name in zip(
        boxes, scores, labels, ids, strict=True
    ):
        made = one(header=header, id=name)
        box = made.bbox
        box.center.position.x = (left + right) / 2
        box.center.position.y = (top + bottom) / 2
        box.size_x = right - left
        box.size_y = bottom - top
        hypothesis = with_pose()
        hypothesis.hypothesis.class_id = task.classes[label]
        hypothesis.hypothesis.score = score
        made.results = [hypothesis]
        message.detections.append(made)
    return message


KIND = DetectionKind()
