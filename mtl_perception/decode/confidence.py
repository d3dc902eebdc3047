# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""How sure a mask is of each of its pixels: the probability of the class that it shows there.

Softmax at the network's cells, interpolated bilinearly to the source image (half-pixel centres, as
the mask). Where the four cells around a pixel agree with the mask, that is the interpolated largest
probability; on class borders the probability of the class shown is looked up, so that a border
between two sure classes is unsure.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mtl_perception.decode.maps import bilinear_to_source, positions
from mtl_perception.letterbox import Letterbox


def confidence_to_source(
    logits: NDArray[np.float32], mask: NDArray[np.uint8], letterbox: Letterbox, stride: int
) -> NDArray[np.uint8]:
    """Uint8 [source_height, source_width], 255 = probability 1.

    logits [C, H, W] at `stride` input pixels per cell; mask: what `argmax_to_source` made of them.
    """
    logits = np.asarray(logits, np.float32)
    shares = np.exp(logits - logits.max(axis=0))
    shares /= shares.sum(axis=0)
    winner = logits.argmax(axis=0).astype(np.uint8)
    value = bilinear_to_source(shares.max(axis=0), letterbox, stride)
    box = letterbox
    y = positions(box.source_height, box.scale_y, box.pad_top, stride)
    x = positions(box.source_width, box.scale_x, box.pad_left, stride)
    (y0, y1, fy), (x0, x1, fx) = _neighbours(y, logits.shape[1]), _neighbours(x, logits.shape[2])
    corners = [(rows, columns) for rows in (y0, y1) for columns in (x0, x1)]
    mixed = np.zeros(mask.shape, bool)
    for rows, columns in corners:
        mixed |= winner.take(columns, axis=1).take(rows, axis=0) != mask
    r, c = np.nonzero(mixed)
    weights = [
        wy[r] * wx[c] for wy in (1 - fy, fy) for wx in (1 - fx, fx)
    ]  # in the order of the corners
    shown = mask[r, c]
    value[r, c] = sum(
        weight * shares[shown, rows[r], columns[c]]
        for weight, (rows, columns) in zip(weights, corners, strict=True)
    )
    return np.asarray(np.rint(np.clip(value, 0, 1) * 255), np.uint8)


def _neighbours(
    position: NDArray[np.float64], cells: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Cells before and behind each pixel, and its way between them."""
    position = position.clip(0, cells - 1)
    lower = np.floor(position).astype(np.intp)
    return lower, np.minimum(lower + 1, cells - 1), (position - lower).astype(np.float32)
