# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What the node would have published about a frame, as messages and in a bag, without ROS.

Topics and types are the node's (`topics.py`), below `/perception`, or `/perception/<camera>` where
a drive has several cameras. The bag also holds the picture (JPEG), the ground truth and the
overlay: Foxglove and RViz show it with the layouts in `config/`, and `replay` reads it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mtl_evaluation import kinds
from mtl_evaluation.bags.bag_writer import DriveWriter, EncodedImage
from mtl_evaluation.bags.outputs import PREFIX, answer_topic, tracks_topic
from mtl_evaluation.messages.cdr import (
    CAMERA,
    COMPRESSED_IMAGE,
    DETECTIONS,
    detection_message,
    header_of,
    label_info_message,
    serialise,
    typestore,
)
from mtl_evaluation.truth.truth import Truth
from mtl_perception import kinds as vehicle
from mtl_perception.annotations import Annotations, as_message
from mtl_perception.frame import Result
from mtl_perception.tasks import Task

QUALITY = 90

Image = NDArray[np.uint8]


class AnswerBag:
    """A bag of frames with their answers being written; use as a context manager."""

    def __init__(self, path: Path, tasks: Sequence[Task], cameras: Sequence[str] = (CAMERA,)):
        """Start the bag; raises BagError."""
        self._writer = DriveWriter(path, cameras=cameras)
        self._tasks = tuple(tasks)
        self._several = len(cameras) > 1
        self._told: set[str] = set()

    def __enter__(self) -> AnswerBag:
        """The bag."""
        self._writer.__enter__()
        return self

    def __exit__(self, kind: object, *more: object) -> None:
        """Finish it, or remove it after an exception."""
        self._writer.__exit__(kind, *more)

    def add(
        self, stamp_ns: int, image: Image, result: Result, truth: Truth, painted: Image,
        shapes: Annotations, name: str, camera: str = CAMERA,
    ) -> None:  # fmt: skip
        """Append a frame: its picture and overlay (RGB), answers and truth; raises BagError.

        shapes: what a viewer draws on the picture.
        """
        size = (image.shape[1], image.shape[0])
        jpeg = EncodedImage(data=as_jpeg(image), format='rgb8; jpeg compressed bgr8', size=size)
        self._writer.write_frame(stamp_ns, jpeg, truth, name=name, camera=camera)
        prefix = f'{PREFIX}/{camera}' if self._several else PREFIX
        header = header_of(stamp_ns, camera)
        for topic, message in answer_messages(header, result, self._tasks, prefix):
            self._put(topic, stamp_ns, message)
        annotations = as_message(shapes, header.stamp, _foxglove_type)
        self._put(f'{prefix}/annotations', stamp_ns, annotations)
        overlay = typestore().types[COMPRESSED_IMAGE](
            header, 'bgr8; jpeg compressed bgr8', np.frombuffer(as_jpeg(painted), np.uint8)
        )
        self._put(f'{prefix}/overlay/compressed', stamp_ns, overlay)
        for task in self._tasks:
            topic = f'{answer_topic(task, prefix)}/label_info'
            if vehicle.of(task).is_mask and topic not in self._told:
                self._told.add(topic)
                self._put(topic, stamp_ns, label_info_message(header, task.classes), latched=True)

    def _put(self, topic: str, stamp_ns: int, message: Any, latched: bool = False) -> None:
        self._writer.write(topic, message.__msgtype__, stamp_ns, serialise(message), latched)


def answer_messages(
    header: Any, result: Result, tasks: Sequence[Task], prefix: str
) -> Iterator[tuple[str, Any]]:
    """Topic and message of everything that was answered about a frame."""
    types = typestore().types
    for task in tasks:
        answer = result.answers.get(task.name)
        if answer is None:
            continue
        yield answer_topic(task, prefix), kinds.of(task).to_message(header, answer, task)
        if task.name in result.tracks:
            tracks = result.tracks[task.name]
            items = [
                detection_message(header, box, task.classes[label], score, str(number))
                for box, score, label, number in zip(
                    tracks.boxes.tolist(), tracks.scores.tolist(), tracks.labels.tolist(),
                    tracks.ids.tolist(), strict=True,
                )
            ]  # fmt: skip
            yield tracks_topic(task, prefix), types[DETECTIONS](header, items)


def _foxglove_type(name: str) -> Any:
    return typestore().types[f'foxglove_msgs/msg/{name}']


def as_jpeg(image: Image) -> bytes:
    """RGB pixels as JPEG."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, jpeg = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return bytes(jpeg.tobytes())
