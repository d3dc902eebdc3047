# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Letterbox geometry: resize with kept aspect ratio, pad to the network input, and the inverse.

Pixel convention everywhere: a pixel is a unit square, its centre at (x + 0.5, y + 0.5); boxes are
edges. A source point p maps to p * scale + pad, and back by (p - pad) / scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Letterbox:
    """Where a source image of one size lies inside the network input.

    All sizes in pixels; `inner_*` is the resized image, `pad_*` the padding left of / above it. The
    resize rounds the inner size to whole pixels, so the two axes have scales of their own.
    """

    source_width: int
    source_height: int
    input_width: int
    input_height: int
    inner_width: int
    inner_height: int
    pad_left: int
    pad_top: int

    @classmethod
    def fit(
        cls, source_width: int, source_height: int, input_width: int, input_height: int
    ) -> Letterbox:
        """Centre the source in the input at the largest scale that fits.

        Raises ValueError on sizes below 1.
        """
        sizes = (source_width, source_height, input_width, input_height)
        if min(sizes) < 1:
            raise ValueError(
                f'letterbox sizes must be at least 1 pixel, got source {sizes[:2]}, '
                f'input {sizes[2:]}'
            )
        scale = min(input_width / source_width, input_height / source_height)
        inner_width = min(input_width, max(1, round(source_width * scale)))
        inner_height = min(input_height, max(1, round(source_height * scale)))
        return cls(
            source_width, source_height, input_width, input_height, inner_width, inner_height,
            (input_width - inner_width) // 2, (input_height - inner_height) // 2,
        )  # fmt: skip

    @property
    def scale_x(self) -> float:
        """Input pixels per source pixel, horizontally."""
        return self.inner_width / self.source_width

    @property
    def scale_y(self) -> float:
        """Input pixels per source pixel, vertically."""
        return self.inner_height / self.source_height

    def new_buffer(self, colour: tuple[int, int, int] = (114, 114, 114)) -> NDArray[np.uint8]:
        """Padding-coloured uint8 [input_height, input_width, 3], to be reused by `apply`."""
        return np.full((self.input_height, self.input_width, 3), colour, np.uint8)

    def apply(self, image: NDArray[np.uint8], out: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize uint8 [H, W, 3] into the inner area of `out` (of `new_buffer`); returns `out`."""
        self.resize(image, self.inner(out))
        return out

    def inner(self, out: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The part of an input [input_height, input_width, 3] that the image takes, as a view."""
        top, left = self.pad_top, self.pad_left
        return out[top : top + self.inner_height, left : left + self.inner_width]

    def pad(self, out: NDArray[np.uint8], colour: tuple[int, int, int]) -> None:
        """Paint the rest of it."""
        top, left = self.pad_top, self.pad_left
        bottom, right = top + self.inner_height, left + self.inner_width
        for border in (out[:top], out[bottom:], out[top:bottom, :left], out[top:bottom, right:]):
            border[:] = colour

    def resize(self, image: NDArray[np.uint8], inner: NDArray[np.uint8]) -> None:
        """Write uint8 [H, W, 3] into `inner` [inner_height, inner_width, 3], without a copy."""
        if inner.shape == image.shape:
            inner[:] = image
            return
        shrinks = self.inner_width < self.source_width
        cv2.resize(
            image, (self.inner_width, self.inner_height), dst=inner,
            interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
        )  # fmt: skip

    def boxes_to_input(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """xyxy source pixels [N, 4] -> xyxy input pixels."""
        return boxes * self._scales() + self._pads()

    def boxes_to_source(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """xyxy input pixels [N, 4] -> xyxy source pixels, clipped to the source image."""
        source = (boxes - self._pads()) / self._scales()
        limit = np.array([self.source_width, self.source_height] * 2, np.float32)
        return np.clip(source, 0, limit).astype(np.float32)

    def _scales(self) -> NDArray[np.float32]:
        return np.array([self.scale_x, self.scale_y] * 2, np.float32)

    def _pads(self) -> NDArray[np.float32]:
        return np.array([self.pad_left, self.pad_top] * 2, np.float32)
