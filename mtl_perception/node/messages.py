# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Result of one frame -> ROS messages. The source header goes out exactly as it came in.

`vision_msgs` 4.1 conventions: `class_id` of a hypothesis is the class name, so that a consumer
needs no side table; mask pixels are numbers, and `LabelInfo`, latched beside the mask, names them.
"""

from __future__ import annotations

from array import array
from functools import lru_cache
from importlib import import_module
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from vision_msgs.msg import LabelInfo, VisionClass

from mtl_perception import kinds
from mtl_perception.frame import Tracks
from mtl_perception.kinds.detection import boxes_message
from mtl_perception.kinds.images import image_message
from mtl_perception.tasks import Task

JPEG_QUALITY = 85


@lru_cache
def message_type(name: str) -> Any:
    """The class of a message by its ROS name, `package/msg/Name`."""
    package, _, message = name.split('/')
    return getattr(import_module(f'{package}.msg'), message)


def answer_message(header: Header, answer: Any, task: Task) -> Any:
    """A task's answer as its kind publishes it."""
    return kinds.of(task).to_message(message_type, header, answer, task)


def tracks_message(header: Header, tracks: Tracks, task: Task) -> Any:
    """Detections as published, of the boxes that belong to a track, with its number as `id`."""
    ids = [str(number) for number in tracks.ids.tolist()]
    return boxes_message(message_type, header, tracks, task, ids)


def mask_message(header: Header, mask: NDArray[np.uint8]) -> Image:
    """Map uint8 [H, W] as mono8 with `step` = width."""
    return image_message(message_type, header, mask, 'mono8')


def label_info_message(header: Header, task: Task) -> LabelInfo:
    """Class number -> name of what a mask may hold; 255 (unlabelled) is no class, not listed."""
    classes = [
        VisionClass(class_id=number, class_name=name) for number, name in task.published.items()
    ]
    return LabelInfo(header=header, class_map=classes)


def overlay_message(header: Header, rgb: NDArray[np.uint8]) -> Image:
    """Overlay uint8 [H, W, 3] RGB as bgr8."""
    bgr = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), np.uint8)
    return image_message(message_type, header, bgr, 'bgr8')


def compressed_overlay_message(header: Header, rgb: NDArray[np.uint8]) -> CompressedImage:
    """Overlay uint8 [H, W, 3] RGB as JPEG; `format` as image_transport writes it."""
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    _, jpeg = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    message = CompressedImage(header=header, format='bgr8; jpeg compressed bgr8')
    message.data = array('B', jpeg.tobytes())
    return message
