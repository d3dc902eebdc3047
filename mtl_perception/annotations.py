# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What a viewer draws over a frame by itself: the outlines and texts of the overlay, as shapes.

Boxes, mask outlines, class names with track ids and metres, and scene labels. The shapes are plain
data in source pixels, (0, 0) being the upper left corner of the upper left pixel; the node and
replay make `foxglove_msgs/ImageAnnotations` of them, replay a Rerun recording, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mtl_perception import kinds
from mtl_perception.frame import Result
from mtl_perception.kinds.detection import box_text, colours_of
from mtl_perception.overlay import default_mask
from mtl_perception.painting import Colour, ink_on
from mtl_perception.tasks import Task

SMALLEST_AREA_PX = 64
"""Areas below are specks: their outlines would hide the picture."""

TOLERANCE_PX = 1.0
"""How far an outline may be from the border of its area."""

MOST_POINTS = 1500
"""Points of all mask outlines of a frame: the largest areas are outlined first."""

LINE_LOOP = 2
"""`PointsAnnotation.type` of a closed line."""


@dataclass(frozen=True)
class Outline:
    """A closed line. points float64 [N, 2]: x, y in source pixels."""

    points: NDArray[np.float64]
    colour: Colour


@dataclass(frozen=True)
class Caption:
    """A text whose lower left corner is at (x, y)."""

    x: float
    y: float
    text: str
    colour: Colour


@dataclass(frozen=True)
class Annotations:
    """The shapes of a frame. boxes: one for each detection, in their order; font_px: text height.

    line_px: width of lines. captions: one for each box, then the scene labels.
    """

    boxes: list[Outline]
    areas: list[Outline]
    captions: list[Caption]
    line_px: float
    font_px: float


def annotate(
    result: Result, tasks: Sequence[Task], height: int, mask_task: str | None = 'auto'
) -> Annotations:
    """The shapes of what is known about a frame of so many rows.

    mask_task: the segmentation task to outline; as `overlay.draw` has it.
    """
    by_name = {task.name: task for task in tasks}
    line_px, font_px = max(1.0, height / 360), max(10.0, height / 45)
    boxes, captions = [], []
    for name, found in result.detections.items():
        task = by_name[name]
        colours = colours_of(task)
        tracks, places = result.tracks.get(name), result.places.get(name)
        ids = np.zeros(len(found), np.int64) if tracks is None else tracks.of_detections(len(found))
        ahead = np.full(len(found), np.nan) if places is None else places.ahead_m
        for i, (left, top, right, bottom) in enumerate(found.boxes.astype(float).tolist()):
            label = int(found.labels[i])
            corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
            text = box_text(task.classes[label], found.scores[i], int(ids[i]), float(ahead[i]))
            boxes.append(Outline(corners, colours[label]))
            captions.append(Caption(left, top, text, colours[label]))
    mask_task = default_mask(result) if mask_task == 'auto' else mask_task
    areas = []
    if mask_task in result.masks:
        areas = list(_areas(result.masks[mask_task], by_name[mask_task]))
    told = [
        (name, *caption)
        for name in result.answers
        if name in by_name
        if (caption := kinds.of(by_name[name]).caption(result.answers[name], by_name[name]))
    ]
    for row, (name, answer, probability) in enumerate(told, start=1):
        text = f'{name}: {answer}' + ('' if probability is None else f' {probability:.0%}')
        captions.append(Caption(font_px / 2, 1.3 * row * font_px, text, (240, 240, 240)))
    return Annotations(boxes, areas, captions, line_px, font_px)


def _areas(mask: NDArray[np.uint8], task: Task) -> Iterator[Outline]:
    """Outlines of the classes that have a colour, the largest first; holes have theirs too."""
    found: list[tuple[float, NDArray[np.int32], Colour]] = []
    for label, colour in enumerate(task.colours):
        if any(colour):
            area = cv2.inRange(mask, np.array(label), np.array(label))
            lines, _ = cv2.findContours(area, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
            found += [(cv2.contourArea(line), np.asarray(line), colour) for line in lines]
    left = MOST_POINTS
    for size, line, colour in sorted(found, key=lambda item: -item[0]):
        if size < SMALLEST_AREA_PX:
            return
        points = cv2.approxPolyDP(line, TOLERANCE_PX, True).reshape(-1, 2)
        left -= len(points)
        if left < 0:
            return
        # OpenCV names a pixel by its place, of which the centre is meant.
        yield Outline(points.astype(np.float64) + 0.5, colour)


def as_message(shapes: Annotations, stamp: Any, types: Callable[[str], Any]) -> Any:
    """A foxglove_msgs/ImageAnnotations, every part of it with the image's stamp.

    types: a class of foxglove_msgs by its name, as a ROS installation or a bag library has it.
    """
    point, points, text = types('Point2'), types('PointsAnnotation'), types('TextAnnotation')

    def colour(value: Colour, opacity: float = 1.0) -> Any:
        red, green, blue = (channel / 255 for channel in value)
        return types('Color')(r=red, g=green, b=blue, a=opacity)

    lines = [
        points(
            timestamp=stamp, type=LINE_LOOP,
            points=[point(x=x, y=y) for x, y in line.points.tolist()],
            outline_color=colour(line.colour), outline_colors=[], fill_color=colour((0, 0, 0), 0.0),
            thickness=shapes.line_px,
        )
        for line in (*shapes.boxes, *shapes.areas)
    ]  # fmt: skip
    texts = [
        text(
            timestamp=stamp, position=point(x=item.x, y=item.y), text=item.text,
            font_size=shapes.font_px, text_color=colour(ink_on(item.colour)),
            background_color=colour(item.colour, 0.8),
        )
        for item in shapes.captions
    ]  # fmt: skip
    return types('ImageAnnotations')(circles=[], points=lines, texts=texts)
