# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Frames and the transforms between them, as /tf and /tf_static tell them. No ROS.

Of each frame the newest transform counts, whatever its stamp: what is asked for here is where a
camera sits on its vehicle, which does not move.
"""

from __future__ import annotations

from threading import Lock

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MOST_FRAMES = 10_000
"""Beyond so many frames new ones are not taken in: somebody invents names."""


class TransformError(Exception):
    """Two frames that are not connected: which, and what is known."""


class TransformTree:
    """Transforms by child frame; filled by one thread, asked by another."""

    def __init__(self) -> None:
        """Start with none."""
        self._parents: dict[str, tuple[str, Floats]] = {}
        self._lock = Lock()

    def put(
        self,
        parent: str,
        child: str,
        translation: tuple[float, float, float],
        quaternion: tuple[float, float, float, float],
    ) -> bool:
        """Take in the pose of a child in its parent, quaternion x y z w; False if it is no pose."""
        values = np.array([*translation, *quaternion], np.float64)
        length = float(np.linalg.norm(values[3:]))
        if not np.isfinite(values).all() or abs(length - 1) > 0.1 or parent == child:
            return False
        transform = np.eye(4)
        transform[:3, :3] = rotation_of(values[3:] / length)
        transform[:3, 3] = values[:3]
        with self._lock:
            if child in self._parents or len(self._parents) < MOST_FRAMES:
                self._parents[child.removeprefix('/')] = parent.removeprefix('/'), transform
        return True

    def lookup(self, target: str, source: str) -> Floats:
        """The matrix [4, 4] that takes points of the source frame to the target frame.

        Raises TransformError where they are not connected.
        """
        with self._lock:
            up_source, up_target = self._up(source), self._up(target)
            known = len(self._parents)
        for frame, from_source in up_source.items():
            if frame in up_target:
                return np.asarray(np.linalg.inv(up_target[frame]) @ from_source)
        if not known:
            raise TransformError('no transform has come on /tf or /tf_static yet')
        raise TransformError(
            f'tf does not connect {source!r} with {target!r}: the first is below '
            f'{list(up_source)[-1]!r}, the second below {list(up_target)[-1]!r}; publish the '
            f'missing transform (`ros2 run tf2_ros static_transform_publisher`)'
        )

    def _up(self, frame: str) -> dict[str, Floats]:
        """Every frame above one, itself first, with the matrix that leads there."""
        frame = frame.removeprefix('/')
        found = {frame: np.eye(4)}
        while frame in self._parents:
            parent, transform = self._parents[frame]
            if parent in found:  # a loop
                break
            found[parent] = transform @ found[frame]
            frame = parent
        return found


def rotation_of(quaternion: Floats) -> Floats:
    """Rotation matrix [3, 3] of a unit quaternion x y z w."""
    x, y, z, w = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def quaternion_of(rotation: Floats) -> tuple[float, float, float, float]:
    """Unit quaternion x y z w of a rotation matrix, w >= 0 (Shepperd, 1978)."""
    diagonal = np.diagonal(rotation)
    squares = np.array([*(1 + 2 * diagonal - diagonal.sum()), 1 + diagonal.sum()])
    best = int(squares.argmax())
    r = rotation
    products = np.array(
        [
            [squares[0], r[0, 1] + r[1, 0], r[0, 2] + r[2, 0], r[2, 1] - r[1, 2]],
            [r[0, 1] + r[1, 0], squares[1], r[1, 2] + r[2, 1], r[0, 2] - r[2, 0]],
            [r[0, 2] + r[2, 0], r[1, 2] + r[2, 1], squares[2], r[1, 0] - r[0, 1]],
            [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], squares[3]],
        ]
    )
    x, y, z, w = (products[best] / np.linalg.norm(products[best])).tolist()
    return (x, y, z, w) if w >= 0 else (-x, -y, -z, -w)
