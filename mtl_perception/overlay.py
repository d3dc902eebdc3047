# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What a person looks at: boxes, a tinted mask and scene labels painted on the frame.

Each kind paints its own answers (`kinds/`); here is the order, the captions and the status line.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mtl_perception import kinds
from mtl_perception.frame import Result
from mtl_perception.painting import TEXT, Colour, Image, Style, panel, write
from mtl_perception.tasks import Task

_DIM_TEXT: Colour = (185, 190, 200)


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
    is known with the metres ahead. mask_task: the task
    of masks, depth or normals to tint with; 'auto' prefers drivable, None paints none; one that
    `result` lacks is left out.
    status: one line at the bottom. Returns uint8 [H, W, 3] RGB.
    """
    painted = np.array(image, np.uint8, order='C')
    style = Style.for_height(len(painted))
    by_name = {task.name: task for task in tasks}
    if mask_task == 'auto':
        mask_task = default_mask(result)
    answered = [name for name in result.answers if name in by_name]
    always = [name for name in answered if kinds.of(by_name[name]).always_painted]
    for name in [*(name for name in answered if name == mask_task), *always]:
        kinds.of(by_name[name]).paint(painted, result, by_name[name], style)
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


def _caption(image: Image, lines: list[tuple[str, str, float | None]], style: Style) -> None:
    """Scene labels in the upper left corner: task, class, probability."""
    columns = [
        [name for name, _, _ in lines],
        [label for _, label, _ in lines],
        ['' if probability is None else f'{probability:.0%}' for _, _, probability in lines],
    ]
    widths = [max(style.text_width(text) for text in column) for column in columns]
    margin = style.margin
    pitch = style.text_height + margin
    panel(image, 0, 0, sum(widths) + 6 * margin, len(lines) * pitch + 2 * margin)
    left = 2 * margin
    for column, width, colour in zip(columns, widths, (_DIM_TEXT, TEXT, _DIM_TEXT), strict=True):
        for row, text in enumerate(column):
            write(image, text, (left, (row + 1) * pitch + margin // 2), style, colour)
        left += width + margin


def _status(image: Image, text: str, style: Style) -> None:
    """One line in the lower left corner."""
    width = style.text_width(text)
    height = style.text_height + 2 * style.margin
    top = len(image) - height
    panel(image, 0, top, width + 4 * style.margin, len(image))
    write(image, text, (2 * style.margin, len(image) - style.margin), style, TEXT)
