# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Depth: metres along the optical axis (REP 118), as a 32FC1 image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_perception.decode.maps import depth
from mtl_perception.kinds.base import IMAGE, Kind, Types
from mtl_perception.kinds.images import map_message
from mtl_perception.tasks import Task


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


KIND = DepthKind()
