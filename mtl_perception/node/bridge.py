"""`sensor_msgs/Image` -> Frame: our own table first, then cv_bridge for what it lacks.

cv_bridge comes with a full ROS 2 only. It takes a short step, truncated data and 0x0 images for
granted, so nothing is handed to it before its size has been checked here.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np
from sensor_msgs.msg import Image

from mtl_perception.frame import Frame
from mtl_perception.image_codec import ImageError, check_layout, decode_raw
from mtl_perception.text import one_line

BRIDGED: dict[str, int] = {
    'mono16': 2,
    'rgb16': 6,
    'bgr16': 6,
    'rgba16': 8,
    'bgra16': 8,
    'bayer_rggb16': 2,
    'bayer_bggr16': 2,
    'bayer_gbrg16': 2,
    'bayer_grbg16': 2,
}
"""Bytes per pixel of the encodings that cv_bridge turns into rgb8, by scaling 16 bits to 8."""


def decode_image(message: Image) -> Frame:
    """The checked pixels of a message; raises ImageError, never anything else.

    The frame of rgb8 and bgr8 shares memory with the message.
    """
    if message.encoding not in BRIDGED:
        return decode_raw(
            message.encoding,
            message.height,
            message.width,
            message.step,
            message.is_bigendian,
            message.data,
        )
    check_layout(
        message.encoding,
        message.height,
        message.width,
        message.step,
        message.data,
        BRIDGED[message.encoding],
        message.height,
    )
    bridge = _cv_bridge()
    if bridge is None:
        raise ImageError(
            f'encoding {message.encoding!r} is converted by cv_bridge, which is not installed: '
            f'`sudo apt install ros-$ROS_DISTRO-cv-bridge`, or put image_proc before this node'
        )
    try:
        pixels = np.asarray(bridge.imgmsg_to_cv2(message, 'rgb8'))
    except Exception as error:  # CvBridgeError, cv2.error, TypeError: it has no common base class
        raise ImageError(
            f'cv_bridge cannot convert {message.encoding}: {one_line(str(error))}'
        ) from error
    expected = (message.height, message.width, 3)
    if pixels.shape != expected or pixels.dtype != np.uint8:
        raise ImageError(
            f'cv_bridge made {pixels.dtype} {pixels.shape} of {message.encoding}, expected uint8 '
            f'{expected}'
        )
    return Frame(pixels, 'rgb')


@lru_cache(maxsize=1)
def _cv_bridge() -> Any:
    """A CvBridge, None where the package is missing."""
    try:
        return import_module('cv_bridge').CvBridge()
    except ImportError:
        return None
