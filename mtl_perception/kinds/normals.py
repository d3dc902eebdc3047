# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Normals: unit vectors with x right, y down, z forward (optical frame of REP 103), as 32FC3."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_perception.decode.maps import normals
from mtl_perception.frame import Result
from mtl_perception.kinds.base import IMAGE, Kind, Types
from mtl_perception.kinds.images import map_message, tint
from mtl_perception.painting import Image, Style
from mtl_perception.tasks import Task


class NormalsKind(Kind):
    """The answer is float32 [H, W, 3] unit vectors of source pixels."""

    name = 'normals'
    needed = (frozenset({'normals'}),)
    grids = frozenset({'normals'})
    message = IMAGE
    has_classes = False
    decode = staticmethod(normals)  # type: ignore[assignment]

    def to_message(self, types: Types, header: Any, answer: NDArray[np.float32], task: Task) -> Any:
        """As it is."""
        return map_message(types, header, answer)

    def paint(self, image: Image, result: Result, task: Task, style: Style) -> None:
        """Components as red, green, blue."""
        tint(image, normal_colours(result.maps[task.name]))


def normal_colours(vectors: NDArray[np.float32]) -> NDArray[np.uint8]:
    """RGB [H, W, 3]: -1 to 1 as 1 to 255; black where unknown (zeros)."""
    return np.where(vectors.any(-1, keepdims=True), vectors * 127 + 128, 0).astype(np.uint8)


KIND = NormalsKind()
