# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Depth: metres along the optical axis (REP 118), as a 32FC1 image."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mtl_perception.decode.maps import depth
from mtl_perception.frame import Result
from mtl_perception.kinds.base import IMAGE, Kind, Types
from mtl_perception.kinds.images import map_message, tint
from mtl_perception.painting import Image, Style
from mtl_perception.tasks import Task

FARTHEST_M = 100.0
"""What is painted as far as can be."""


class DepthKind(Kind):
    """The answer is float32 [H, W] metres of source pixels."""

    name = 'depth'
    needed = (frozenset({'depth'}),)
    grids = frozenset({'depth'})
    message = IMAGE
    has_classes = False
    is_depth = True
    decode = staticmethod(depth)  # type: ignore[assignment]

    def to_message(self, types: Types, header: Any, answer: NDArray[np.float32], task: Task) -> Any:
        """As it is."""
        return map_message(types, header, answer)

    def paint(self, image: Image, result: Result, task: Task, style: Style) -> None:
        """Near is red, far is blue, by the logarithm of the distance."""
        tint(image, depth_colours(result.maps[task.name]))


def depth_colours(metres: NDArray[np.float32]) -> NDArray[np.uint8]:
    """RGB [H, W, 3] from 1 m to `FARTHEST_M` by logarithm; black where unknown (0)."""
    near = 1 - np.clip(np.log(np.maximum(metres, 1e-3)) / np.log(FARTHEST_M), 0, 1)
    bgr = cv2.applyColorMap((near * 255).astype(np.uint8), cv2.COLORMAP_TURBO)
    return np.where(metres[..., None] > 0, bgr[..., ::-1], 0).astype(np.uint8)


KIND = DepthKind()
