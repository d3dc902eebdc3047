# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Depth and normals as lossless PNGs of 16 bits.

depth: one channel, centimetres up to 655.35 m; 0 is unknown (sky, and what lies farther).
normals: R, G, B are x, y, z as round(32767 * component) + 32768, to 0.002 degrees; 0, 0, 0 is
unknown.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.pictures import read_values, write_picture
from training.data.sample import DatasetError

FARTHEST_M = 655.35
_HALF, _SPAN = 32768, 32767


def write_depth_cm(path: Path, depth: NDArray[np.float32]) -> None:
    """Metres [H, W], 0 unknown; raises DatasetError when the file cannot be written."""
    known = (depth > 0) & (depth <= FARTHEST_M)
    centimetres = np.where(known, np.maximum(np.rint(depth * 100.0), 1), 0)
    _write(path, centimetres.astype(np.uint16))


def read_depth_cm(path: Path) -> NDArray[np.float32]:
    """Metres float32 [H, W], 0 unknown; raises DatasetError."""
    return _read(path, 2).astype(np.float32) / np.float32(100.0)


def write_normals(path: Path, normals: NDArray[np.float32]) -> None:
    """Unit vectors [H, W, 3], zeros unknown; raises DatasetError."""
    known = normals.any(axis=-1, keepdims=True)
    stored = np.where(known, np.rint(normals.astype(np.float64) * _SPAN) + _HALF, 0)
    _write(path, np.ascontiguousarray(stored.astype(np.uint16)[..., ::-1]))


def read_normals(path: Path) -> NDArray[np.float32]:
    """Unit vectors float32 [H, W, 3], zeros unknown; raises DatasetError."""
    stored = _read(path, 3)[..., ::-1].astype(np.float32)
    known = stored.any(axis=-1, keepdims=True)
    vectors = np.where(known, (stored - _HALF) / _SPAN, 0)
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.ascontiguousarray(vectors / np.where(known, np.maximum(length, 1e-6), 1), np.float32)


def _write(path: Path, values: NDArray[np.uint16]) -> None:
    try:
        write_picture(path, values)
    except OSError as error:
        raise DatasetError(
            f'{path} cannot be written; is the folder there, and the disk not full? {error}'
        ) from error


def _read(path: Path, axes: int) -> NDArray[np.uint16]:
    values = read_values(path)
    if values is None or values.dtype != np.uint16 or values.ndim != axes:
        found = 'nothing readable' if values is None else f'{values.dtype} {values.shape}'
        form = 'one channel' if axes == 2 else 'three channels'
        raise DatasetError(f'{path}: expected a PNG of 16 bits with {form}, found {found}')
    return np.asarray(values, np.uint16)
