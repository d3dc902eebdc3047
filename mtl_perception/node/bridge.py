# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""`sensor_msgs/Image` -> Frame."""

from __future__ import annotations

from sensor_msgs.msg import Image

from mtl_perception.frame import Frame
from mtl_perception.image_codec import decode_raw


def decode_image(message: Image) -> Frame:
    """The checked pixels of a message; raises ImageError, never anything else.

    The frame of rgb8 and bgr8 shares memory with the message.
    """
    return decode_raw(
        message.encoding,
        message.height,
        message.width,
        message.step,
        message.is_bigendian,
        message.data,
    )
