# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Views of one image: whole, mirrored, closer up. Their average knows more than any of them.

A scale above 1 cuts the image into overlapping parts, each of which fills the network's input; one
below 1 puts the image into a larger empty picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtl_perception.frame import Detections

EDGE = 0.01
"""A box this near to where a view cuts the image is likely cut as well, as a share of the view."""


@dataclass(frozen=True)
class View:
    """A rectangle of the image, pixels; it may lie partly outside. mirrored: left to right."""

    left: int
    top: int
    width: int
    height: int
    mirrored: bool = False

    def cut(self, image: NDArray[np.uint8], colour: Sequence[int]) -> NDArray[np.uint8]:
        """What the view shows of uint8 [H, W, 3], with `colour` outside the image."""
        height, width = image.shape[:2]
        seen = np.empty((self.height, self.width, 3), np.uint8)
        seen[:] = np.asarray(colour, np.uint8)
        (rows, columns), (own_rows, own_columns) = self._overlap(width, height)
        seen[own_rows, own_columns] = image[rows, columns]
        return np.ascontiguousarray(seen[:, ::-1]) if self.mirrored else seen

    def boxes(self, found: Detections, width: int, height: int) -> Detections:
        """Detections of the view in pixels of the image, without those that the view cuts."""
        boxes = found.boxes.astype(np.float32)
        if self.mirrored:
            boxes = np.stack(
                (self.width - boxes[:, 2], boxes[:, 1], self.width - boxes[:, 0], boxes[:, 3]), 1
            )
        boxes = boxes + np.array([self.left, self.top] * 2, np.float32)
        near = EDGE * max(self.width, self.height)
        cut = np.zeros(len(boxes), bool)
        for column, border, inner in (
            (0, self.left, self.left > 0),
            (1, self.top, self.top > 0),
            (2, self.left + self.width, self.left + self.width < width),
            (3, self.top + self.height, self.top + self.height < height),
        ):
            if inner:
                cut |= np.abs(boxes[:, column] - border) < near
        boxes = boxes.clip(0, [width, height, width, height]).astype(np.float32)
        kept = ~cut & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        return Detections(boxes[kept], found.scores[kept], found.labels[kept])

    def add(self, seen: NDArray[np.float32], total: NDArray[np.float32]) -> None:
        """Add values of the view, float32 [C, height, width], to those of the image [C, H, W]."""
        if self.mirrored:
            seen = seen[:, :, ::-1]
        (rows, columns), (own_rows, own_columns) = self._overlap(total.shape[2], total.shape[1])
        total[:, rows, columns] += seen[:, own_rows, own_columns]

    def _overlap(
        self, width: int, height: int
    ) -> tuple[tuple[slice, slice], tuple[slice, slice]]:  # fmt: skip
        """Rows and columns of the image, and of the view, that both have."""
        left, right = max(self.left, 0), min(self.left + self.width, width)
        top, bottom = max(self.top, 0), min(self.top + self.height, height)
        return (
            (slice(top, bottom), slice(left, right)),
            (slice(top - self.top, bottom - self.top), slice(left - self.left, right - self.left)),
        )


def views(width: int, height: int, scales: Sequence[float], flip: bool) -> list[View]:
    """The views of an image of that size; together those of a scale cover all of it."""
    found = []
    for scale in scales:
        wide, high = round(width / scale), round(height / scale)
        for top in _starts(height, high, scale):
            for left in _starts(width, wide, scale):
                found.append(View(left, top, wide, high))
                if flip:
                    found.append(View(left, top, wide, high, mirrored=True))
    return found


def _starts(length: int, part: int, scale: float) -> list[int]:
    if part >= length:
        return [(length - part) // 2]
    count = math.floor(scale) + 1
    return [round(start) for start in np.linspace(0, length - part, count)]
