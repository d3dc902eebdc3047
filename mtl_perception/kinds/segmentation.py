# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Segmentation: a class id per source pixel, as a mono8 image with the names latched beside it."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mtl_perception.decode.masks import segmentation
from mtl_perception.frame import Result
from mtl_perception.kinds.base import IMAGE, Kind, Types
from mtl_perception.kinds.images import image_message
from mtl_perception.painting import TINT, Image, Style
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

    def paint(self, image: Image, result: Result, task: Task, style: Style) -> None:
        """Class colours, of which black is not painted."""
        if task.colours:
            _tint(image, result.masks[task.name], task, style)


def _tint(image: Image, mask: NDArray[np.uint8], task: Task, style: Style) -> None:
    """Blend class colours in; classes that leave others unpainted also get an outline."""
    table = np.zeros((256, 1, 3), np.uint8)
    table[: len(task.colours), 0] = task.colours
    painted = np.full(256, 255, np.uint8) * table.any(axis=(1, 2))
    blended = cv2.addWeighted(image, 1 - TINT, cv2.applyColorMap(mask, table), TINT, 0)
    cv2.copyTo(blended, cv2.LUT(mask, painted), image)
    if all(any(colour) for colour in task.colours):
        return
    for label, colour in enumerate(task.colours):
        if any(colour):
            area = cv2.inRange(mask, np.array(label), np.array(label))
            outlines, _ = cv2.findContours(area, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
            large = [line for line in outlines if len(line) > 2 and cv2.contourArea(line) > 64]
            cv2.polylines(image, large, True, colour, style.line, cv2.LINE_AA)


KIND = SegmentationKind()
