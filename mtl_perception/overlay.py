# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What a person looks at: boxes, a tinted mask and scene labels painted on the frame.

Colours are those of the tasks; black in a colour table means that the class is not painted
(drivable's background). Sizes follow the image height, so 360 and 720 rows look alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mtl_perception import kinds
from mtl_perception.frame import Detections, Result
from mtl_perception.tasks import Task

Colour = tuple[int, int, int]
Image = NDArray[np.uint8]

_FONT = cv2.FONT_HERSHEY_DUPLEX
_TINT = 0.42
_PANEL = 0.72
_TEXT: Colour = (240, 240, 240)
_DIM_TEXT: Colour = (185, 190, 200)
_DARK: Colour = (16, 18, 22)
_NO_COLOUR: Colour = (255, 255, 255)


@dataclass(frozen=True)
class _Style:
    """Sizes in pixels for an image of some height."""

    line: int
    font_scale: float
    text_height: int
    margin: int

    @classmethod
    def for_height(cls, height: int) -> _Style:
        font_scale = float(np.clip(0.5 * height / 720, 0.36, 1.2))
        (_, text_height), _ = cv2.getTextSize('Ag', _FONT, font_scale, 1)
        return cls(max(1, round(height / 360)), font_scale, text_height, max(3, text_height // 2))


def draw(
    image: Image,
    result: Result,
    tasks: Sequence[Task],
    mask_task: str | None = 'auto',
    status: str = '',
) -> Image:
    """A painted copy of the frame.

    image: uint8 [H, W, 3] RGB, the frame that `result` is about; a box whose score is NaN (truth)
    is named without one, a box that belongs to a track with its id, one whose place on the road
    is known with the metres ahead. mask_task: the segmentation
    task to tint with; 'auto' prefers drivable, None paints none; one that `result` lacks is left
    out.
    status: one line at the bottom. Returns uint8 [H, W, 3] RGB.
    """
    painted = np.array(image, np.uint8, order='C')
    style = _Style.for_height(len(painted))
    by_name = {task.name: task for task in tasks}
    if mask_task == 'auto':
        mask_task = default_mask(result)
    if mask_task in result.masks and by_name[mask_task].colours:
        _tint(painted, result.masks[mask_task], by_name[mask_task], style)
    for name, detections in result.detections.items():
        tracks = result.tracks.get(name)
        ids = None if tracks is None else tracks.of_detections(len(detections))
        places = result.places.get(name)
        ahead_m = None if places is None else places.ahead_m
        _boxes(painted, detections, by_name[name], style, ids, ahead_m)
    lines = [
        (name, *caption)
        for name, answer in result.answers.items()
        if name in by_name
        if (caption := kinds.of(by_name[name]).caption(answer, by_name[name]))
    ]
    if lines:
        _caption(painted, lines, style)
    if status:
        _status(painted, status, style)
    return painted


def default_mask(result: Result) -> str | None:
    """The mask to show where nobody chose one: drivable, else the first, if there is any."""
    return 'drivable' if 'drivable' in result.masks else next(iter(result.masks), None)


def colours_of(task: Task) -> list[Colour]:
    """A colour for each class of a detection task, also where its table has none."""
    colours = [colour if any(colour) else _NO_COLOUR for colour in task.colours]
    return colours or [_NO_COLOUR] * len(task.classes)


def _tint(image: Image, mask: NDArray[np.uint8], task: Task, style: _Style) -> None:
    """Blend class colours in; classes that leave others unpainted also get an outline."""
    table = np.zeros((256, 1, 3), np.uint8)
    table[: len(task.colours), 0] = task.colours
    painted = np.full(256, 255, np.uint8) * table.any(axis=(1, 2))
    blended = cv2.addWeighted(image, 1 - _TINT, cv2.applyColorMap(mask, table), _TINT, 0)
    cv2.copyTo(blended, cv2.LUT(mask, painted), image)
    if all(any(colour) for colour in task.colours):
        return
    for label, colour in enumerate(task.colours):
        if any(colour):
            area = cv2.inRange(mask, np.array(label), np.array(label))
            outlines, _ = cv2.findContours(area, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
            large = [line for line in outlines if len(line) > 2 and cv2.contourArea(line) > 64]
            cv2.polylines(image, large, True, colour, style.line, cv2.LINE_AA)


def _boxes(
    image: Image,
    detections: Detections,
    task: Task,
    style: _Style,
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
        _write(image, text, at, style, ink_on(colours[label]))


def box_text(name: str, score: float, track_id: int = 0, ahead_m: float = np.nan) -> str:
    """What is written at a box: class, track id (0: none), score and metres ahead (NaN: none)."""
    number = f' #{track_id}' if track_id else ''
    distance = '' if np.isnan(ahead_m) else f' {ahead_m:.0f} m'
    return name + number + ('' if np.isnan(score) else f' {score:.2f}') + distance


def _chip(image: Image, box: NDArray[np.float32], text: str, style: _Style) -> NDArray[np.int_]:
    """Where a label goes, xyxy: above the box, or in it where there is no room above."""
    (width, _), _ = cv2.getTextSize(text, _FONT, style.font_scale, 1)
    width += style.margin
    height = style.text_height + style.margin
    left = int(np.clip(round(float(box[0])) - style.line // 2, 0, max(0, image.shape[1] - width)))
    top = round(float(box[1])) - height
    top = top if top >= 0 else max(0, round(float(box[1])))
    return np.array([left, top, left + width, top + height])


def _caption(image: Image, lines: list[tuple[str, str, float]], style: _Style) -> None:
    """Scene labels in the upper left corner: task, class, probability."""
    columns = [
        [name for name, _, _ in lines],
        [label for _, label, _ in lines],
        [f'{probability:.0%}' for _, _, probability in lines],
    ]
    widths = [
        max(cv2.getTextSize(text, _FONT, style.font_scale, 1)[0][0] for text in column)
        for column in columns
    ]
    margin = style.margin
    pitch = style.text_height + margin
    _panel(image, 0, 0, sum(widths) + 6 * margin, len(lines) * pitch + 2 * margin)
    left = 2 * margin
    for column, width, colour in zip(columns, widths, (_DIM_TEXT, _TEXT, _DIM_TEXT), strict=True):
        for row, text in enumerate(column):
            _write(image, text, (left, (row + 1) * pitch + margin // 2), style, colour)
        left += width + margin


def _status(image: Image, text: str, style: _Style) -> None:
    """One line in the lower left corner."""
    (width, _), _ = cv2.getTextSize(text, _FONT, style.font_scale, 1)
    height = style.text_height + 2 * style.margin
    top = len(image) - height
    _panel(image, 0, top, width + 4 * style.margin, len(image))
    _write(image, text, (2 * style.margin, len(image) - style.margin), style, _TEXT)


def _panel(image: Image, left: int, top: int, right: int, bottom: int) -> None:
    """Darken a rectangle so that light text can be read on it."""
    area = image[max(0, top) : bottom, left:right]
    area[:] = cv2.addWeighted(area, 1 - _PANEL, np.full_like(area, _DARK), _PANEL, 0)


def _write(image: Image, text: str, at: tuple[int, int], style: _Style, colour: Colour) -> None:
    cv2.putText(image, text, at, _FONT, style.font_scale, colour, 1, cv2.LINE_AA)


def ink_on(background: Colour) -> Colour:
    """Dark text on light colours and light text on dark ones (ITU-R BT.601 luma)."""
    red, green, blue = background
    return _DARK if 0.299 * red + 0.587 * green + 0.114 * blue > 120 else _TEXT
