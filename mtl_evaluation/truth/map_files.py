# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Depth and normals that were labelled, as lossless PNGs of 16 bits.

depth: one channel, centimetres up to 655.35 m; 0 is unknown (sky, and what lies farther).
normals: R, G, B are x, y, z as round(32767 * component) + 32768, to 0.002 degrees; 0, 0, 0 is
unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.truth.errors import LabelError
from mtl_perception.tasks import DEPTH, NORMALS

HALF, SPAN = 32768, 32767


def read_depth_cm(path: Path) -> NDArray[np.float32]:
    """Metres float32 [H, W], 0 unknown; raises LabelError."""
    return _read(path, 2).astype(np.float32) / np.float32(100.0)


def read_normals(path: Path) -> NDArray[np.float32]:
    """Unit vectors float32 [H, W, 3], zeros unknown; raises LabelError."""
    stored = _read(path, 3)[..., ::-1].astype(np.float32)
    known = stored.any(axis=-1, keepdims=True)
    vectors = np.where(known, (stored - HALF) / SPAN, 0)
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.ascontiguousarray(vectors / np.where(known, np.maximum(length, 1e-6), 1), np.float32)


MAP_READERS: dict[str, Callable[[Path], NDArray[np.float32]]] = {
    DEPTH.name: read_depth_cm, NORMALS.name: read_normals,
}  # fmt: skip
"""By task, which is also the folder of its files."""


def _read(path: Path, axes: int) -> NDArray[np.uint16]:
    data = np.fromfile(path, np.uint8) if path.is_file() else np.empty(0, np.uint8)
    values = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
    if values is None or values.dtype != np.uint16 or values.ndim != axes:
        found = 'nothing readable' if values is None else f'{values.dtype} {values.shape}'
        form = 'one channel' if axes == 2 else 'three channels'
        raise LabelError(f'{path}: expected a PNG of 16 bits with {form}, found {found}')
    return np.asarray(values, np.uint16)
