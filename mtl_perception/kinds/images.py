# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Answers as large as the frame -> sensor_msgs/Image."""

from __future__ import annotations

import sys
from array import array
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mtl_perception.kinds.base import IMAGE, Types
from mtl_perception.painting import Image


def image_message(types: Types, header: Any, pixels: NDArray[Any], encoding: str) -> Any:
    """uint8 or float32 [H, W] or [H, W, C] as it lies in memory; `step` is without padding."""
    height, width = pixels.shape[:2]
    message = types(IMAGE)(header=header, height=height, width=width, encoding=encoding)
    message.step = pixels.nbytes // height
    message.is_bigendian = sys.byteorder == 'big' and pixels.itemsize > 1
    # array.array is the one type that rclpy takes over without converting byte by byte.
    data = array('B')
    data.frombytes(np.ascontiguousarray(pixels).data.cast('B'))
    message.data = data
    return message


def tint(image: Image, colours: NDArray[np.uint8]) -> None:
    """Blend RGB [H, W, 3] over a picture, strongly; black is not painted."""
    blended = cv2.addWeighted(image, 0.35, colours, 0.65, 0)
    cv2.copyTo(blended, np.asarray(colours.any(axis=2), np.uint8), image)


def map_message(types: Types, header: Any, values: NDArray[np.float32]) -> Any:
    """Float32 values of source pixels: [H, W] as 32FC1, [H, W, C] as 32FCn."""
    channels = 1 if values.ndim == 2 else values.shape[2]
    return image_message(types, header, values, f'32FC{channels}')
