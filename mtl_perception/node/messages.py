# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Result of one frame -> ROS messages. The source header goes out exactly as it came in.

`vision_msgs` 4.1 conventions: `class_id` of a hypothesis is the class name, so that a consumer
needs no side table; mask pixels are numbers, and `LabelInfo`, latched beside the mask, names them.
"""

from __future__ import annotations

import sys
from array import array
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from vision_msgs.msg import (
    Classification,
    Detection2D,
    Detection2DArray,
    LabelInfo,
    ObjectHypothesis,
    ObjectHypothesisWithPose,
    VisionClass,
)

from mtl_perception.decode.answers import UNKNOWN, answer
from mtl_perception.frame import Detections, Tracks
from mtl_perception.tasks import Task

JPEG_QUALITY = 85


def detections_message(header: Header, detections: Detections, task: Task) -> Detection2DArray:
    """Boxes (xyxy, source pixels) as centre and size; `id` stays empty."""
    return _boxes_message(header, detections, task, [''] * len(detections))


def tracks_message(header: Header, tracks: Tracks, task: Task) -> Detection2DArray:
    """As `detections_message`, of the boxes that belong to a track, with its number as `id`."""
    return _boxes_message(header, tracks, task, [str(number) for number in tracks.ids.tolist()])


def _boxes_message(
    header: Header, found: Detections | Tracks, task: Task, ids: list[str]
) -> Detection2DArray:
    message = Detection2DArray(header=header)
    boxes, scores, labels = found.boxes.tolist(), found.scores.tolist(), found.labels.tolist()
    for (left, top, right, bottom), score, label, name in zip(
        boxes, scores, labels, ids, strict=True
    ):
        detection = Detection2D(header=header, id=name)
        box = detection.bbox
        box.center.position.x = (left + right) / 2
        box.center.position.y = (top + bottom) / 2
        box.size_x = right - left
        box.size_y = bottom - top
        hypothesis = ObjectHypothesisWithPose()
        hypothesis.hypothesis.class_id = task.classes[label]
        hypothesis.hypothesis.score = score
        detection.results = [hypothesis]
        message.detections.append(detection)
    return message


def mask_message(header: Header, mask: NDArray[np.uint8]) -> Image:
    """Class map uint8 [H, W] as mono8 with `step` = width; 255 is unlabelled."""
    return _image(header, mask, 'mono8', 1)


def map_message(header: Header, values: NDArray[np.float32]) -> Image:
    """Float32 values of source pixels: depth [H, W] as 32FC1, normals [H, W, 3] as 32FC3.

    Depth is metres along the optical axis (REP 118); normals are unit vectors with x right, y down,
    z forward (the optical frame of REP 103).
    """
    channels = 1 if values.ndim == 2 else values.shape[2]
    return _image(header, values, f'32FC{channels}', 4 * channels)


def label_info_message(header: Header, task: Task) -> LabelInfo:
    """Class number -> name of what a mask may hold; 255 (unlabelled) is no class, not listed."""
    classes = [
        VisionClass(class_id=number, class_name=name) for number, name in task.published.items()
    ]
    return LabelInfo(header=header, class_map=classes)


def classification_message(
    header: Header, probabilities: NDArray[np.float32], task: Task
) -> Classification:
    """The answer first, then every class of the task with its probability [C], the best first.

    The answer is the most probable class, or `unknown` where the model is not to be believed.
    """
    order = np.argsort(-probabilities, kind='stable')
    results = [
        ObjectHypothesis(class_id=task.classes[index], score=float(probabilities[index]))
        for index in order
    ]
    name, score = answer(probabilities, task)
    if name == UNKNOWN:
        results.insert(0, ObjectHypothesis(class_id=name, score=score))
    return Classification(header=header, results=results)


def overlay_message(header: Header, rgb: NDArray[np.uint8]) -> Image:
    """Overlay uint8 [H, W, 3] RGB as bgr8."""
    bgr = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), np.uint8)
    return _image(header, bgr, 'bgr8', 3)


def compressed_overlay_message(header: Header, rgb: NDArray[np.uint8]) -> CompressedImage:
    """Overlay uint8 [H, W, 3] RGB as JPEG; `format` as image_transport writes it."""
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    _, jpeg = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    message = CompressedImage(header=header, format='bgr8; jpeg compressed bgr8')
    message.data = array('B', jpeg.tobytes())
    return message


def _image(header: Header, pixels: NDArray[Any], encoding: str, pixel_bytes: int) -> Image:
    height, width = pixels.shape[:2]
    message = Image(header=header, height=height, width=width, encoding=encoding)
    message.step = width * pixel_bytes
    message.is_bigendian = sys.byteorder == 'big' and pixels.itemsize > 1
    # array.array is the one type that rclpy takes over without converting byte by byte.
    data = array('B')
    data.frombytes(np.ascontiguousarray(pixels).data.cast('B'))
    message.data = data
    return message
