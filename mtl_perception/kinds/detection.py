# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Detection: boxes with class and score, as vision_msgs/Detection2DArray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mtl_perception.decode.boxes import detection
from mtl_perception.frame import Detections, Result, Tracks
from mtl_perception.kinds.base import Kind, Types
from mtl_perception.painting import Colour, Image, Style, ink_on, write
from mtl_perception.tasks import Task

_NO_COLOUR: Colour = (255, 255, 255)

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

    def paint(self, image: Image, result: Result, task: Task, style: Style) -> None:
        """Boxes with class, track id, score and metres ahead, as far as they are known."""
        found = result.detections[task.name]
        tracks, places = result.tracks.get(task.name), result.places.get(task.name)
        ids = None if tracks is None else tracks.of_detections(len(found))
        _boxes(image, found, task, style, ids, None if places is None else places.ahead_m)


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


def colours_of(task: Task) -> list[Colour]:
    """A colour for each class of a detection task, also where its table has none."""
    colours = [colour if any(colour) else _NO_COLOUR for colour in task.colours]
    return colours or [_NO_COLOUR] * len(task.classes)


def _boxes(
    image: Image,
    detections: Detections,
    task: Task,
    style: Style,
    ids: NDArray[np.int64] | None,
    ahead_m: NDArray[np.float64] | None,
) -> None:
    """Boxes from weak to strong, then labels from strong to weak where no other label is."""
    colours = colours_of(task)
    corners = np.round(detections.boxes * 16).astype(int)
    for (left, top, right, bottom), label in zip(
        corners[::-1].tolist(), detections.labels[::-1].tolist(), strict=True
    ):
        cv2.rectangle(
            image, (left, top), (right, bottom), colours[label], style.line, cv2.LINE_AA, 4
        )
    taken = np.zeros((len(detections), 4), int)
    for i, label in enumerate(detections.labels.tolist()):
        text = box_text(
            task.classes[label],
            detections.scores[i],
            0 if ids is None else ids[i],
            np.nan if ahead_m is None else ahead_m[i],
        )
        chip = _chip(image, detections.boxes[i], text, style)
        meets = (taken[:i, :2] < chip[2:]).all(axis=1) & (taken[:i, 2:] > chip[:2]).all(axis=1)
        if meets.any():
            continue
        taken[i] = chip
        left, top, right, bottom = chip.tolist()
        cv2.rectangle(image, (left, top), (right - 1, bottom - 1), colours[label], cv2.FILLED)
        at = (left + style.margin // 2, bottom - 1 - style.margin // 2)
        write(image, text, at, style, ink_on(colours[label]))


def box_text(name: str, score: float, track_id: int = 0, ahead_m: float = np.nan) -> str:
    """What is written at a box: class, track id (0: none), score and metres ahead (NaN: none)."""
    number = f' #{track_id}' if track_id else ''
    distance = '' if np.isnan(ahead_m) else f' {ahead_m:.0f} m'
    return name + number + ('' if np.isnan(score) else f' {score:.2f}') + distance


def _chip(image: Image, box: NDArray[np.float32], text: str, style: Style) -> NDArray[np.int_]:
    """Where a label goes, xyxy: above the box, or in it where there is no room above."""
    width = style.text_width(text) + style.margin
    height = style.text_height + style.margin
    left = int(np.clip(round(float(box[0])) - style.line // 2, 0, max(0, image.shape[1] - width)))
    top = round(float(box[1])) - height
    top = top if top >= 0 else max(0, round(float(box[1])))
    return np.array([left, top, left + width, top + height])


KIND = DetectionKind()
