# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Small bags that tests make: what is in them is written here once."""

from __future__ import annotations

import cv2
import numpy as np

from mtl_evaluation.bags.bag_writer import DriveWriter, EncodedImage
from mtl_evaluation.messages.cdr import IMAGE, serialise, typestore
from mtl_evaluation.truth.truth import Truth, TruthBoxes

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND

TRUTH = Truth(
    TruthBoxes(
        np.array([[1, 2, 11, 22], [5.5, 6.5, 9.25, 12]], np.float32),
        ('car', 'traffic light'),
        np.array([False, True]),
    ),
    {'drivable': np.array([[0, 1], [2, 255]], np.uint8)},
    {'weather': 'foggy', 'timeofday': 'night'},
)


def picture(value: int = 0, height: int = 6, width: int = 8) -> np.ndarray:
    return np.full((height, width, 3), (value, 10, 200), np.uint8)


def jpeg(height: int = 16, width: int = 24) -> bytes:
    return cv2.imencode('.jpg', picture(90, height, width))[1].tobytes()


def header(stamp_ns: int):
    types = typestore().types
    time = types['builtin_interfaces/msg/Time'](*divmod(stamp_ns, SECOND))
    return types['std_msgs/msg/Header'](time, 'camera')


def image_cdr(stamp_ns: int) -> bytes:
    data = picture().reshape(-1)
    return serialise(typestore().types[IMAGE](header(stamp_ns), 6, 8, 'rgb8', 0, 24, data))


def make_bag(path, storage='mcap', compress=True):
    with DriveWriter(path, storage, compress) as writer:
        for index in range(20):
            writer.write_frame(START + index * SECOND // 10, EncodedImage(picture(index)), TRUTH)
    return path


STEREO = ('front', 'rear')


def stereo_bag(path, storage='mcap', compress=True):
    """Two cameras, the rear one half as often, labels of its own for each."""
    with DriveWriter(path, storage, compress, cameras=STEREO) as writer:
        for index in range(4):
            stamp = START + index * SECOND // 10
            front = Truth(TruthBoxes.none(), labels={'weather': 'foggy'})
            matrix = np.array([[500.0, 0, 4], [0, 510, 3], [0, 0, 1]])
            image = EncodedImage(picture(index))
            writer.write_frame(stamp, image, front, matrix, f'f{index}.png', 'front')
            if index % 2:
                image = EncodedImage(data=jpeg(), format='jpeg')
                writer.write_frame(stamp, image, TRUTH, camera='rear')
    return path
