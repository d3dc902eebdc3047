# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What every kind paints with: sizes by image height, text, panels, colours that go together."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]
Image = NDArray[np.uint8]

FONT = cv2.FONT_HERSHEY_DUPLEX
TINT = 0.42
"""Share of the colour in what is painted over a picture."""
TEXT: Colour = (240, 240, 240)
_PANEL = 0.72
_DARK: Colour = (16, 18, 22)


@dataclass(frozen=True)
class Style:
    """Sizes in pixels for an image of some height."""

    line: int
    font_scale: float
    text_height: int
    margin: int

    @classmethod
    def for_height(cls, height: int) -> Style:
        """360 and 720 rows look alike."""
        font_scale = float(np.clip(0.5 * height / 720, 0.36, 1.2))
        (_, text_height), _ = cv2.getTextSize('Ag', FONT, font_scale, 1)
        return cls(max(1, round(height / 360)), font_scale, text_height, max(3, text_height // 2))

    def text_width(self, text: str) -> int:
        """Of a line of text."""
        return int(cv2.getTextSize(text, FONT, self.font_scale, 1)[0][0])


def panel(image: Image, left: int, top: int, right: int, bottom: int) -> None:
    """Darken a rectangle so that light text can be read on it."""
    area = image[max(0, top) : bottom, left:right]
    area[:] = cv2.addWeighted(area, 1 - _PANEL, np.full_like(area, _DARK), _PANEL, 0)


def write(image: Image, text: str, at: tuple[int, int], style: Style, colour: Colour) -> None:
    """A line of text whose lower left corner is `at`."""
    cv2.putText(image, text, at, FONT, style.font_scale, colour, 1, cv2.LINE_AA)


def ink_on(background: Colour) -> Colour:
    """Dark text on light colours and light text on dark ones (ITU-R BT.601 luma)."""
    red, green, blue = background
    return _DARK if 0.299 * red + 0.587 * green + 0.114 * blue > 120 else TEXT
