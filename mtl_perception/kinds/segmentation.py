# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Segmentation: a class id per source pixel, as a mono8 image with the names latched beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_perception.decode.masks import segmentation
from mtl_perception.kinds.base import IMAGE, Kind, Types
from mtl_perception.kinds.images import image_message
from mtl_perception.tasks import Task


class SegmentationKind(Kind):
    """The answer is uint8 [H, W], 255 = unlabelled."""

    name = 'segmentation'
    needed = (frozenset({'logits'}), frozenset({'class_map'}))
    grids = frozenset({'logits', 'class_map'})
    message = IMAGE
    is_mask = True
    decode = staticmethod(segmentation)  # type: ignore[assignment]

    def to_message(self, types: Types, header: Any, answer: NDArray[np.uint8], task: Task) -> Any:
        """As mono8 with `step` = width; 255 is unlabelled."""
        return image_message(types, header, answer, 'mono8')


KIND = SegmentationKind()
