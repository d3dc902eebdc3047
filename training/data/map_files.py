# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Depth and normals as PNGs of 16 bits, as `mtl_evaluation/truth/map_files.py` has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.truth import map_files
from mtl_evaluation.truth.map_files import HALF, SPAN
from training.data.index import as_dataset_error
from training.data.pictures import write_picture
from training.data.sample import DatasetError

FARTHEST_M = 655.35


def write_depth_cm(path: Path, depth: NDArray[np.float32]) -> None:
    """Metres [H, W], 0 unknown; raises DatasetError when the file cannot be written."""
    known = (depth > 0) & (depth <= FARTHEST_M)
    centimetres = np.where(known, np.maximum(np.rint(depth * 100.0), 1), 0)
    _write(path, centimetres.astype(np.uint16))


def read_depth_cm(path: Path) -> NDArray[np.float32]:
    """Metres float32 [H, W], 0 unknown; raises DatasetError."""
    with as_dataset_error():
        return map_files.read_depth_cm(path)


def write_normals(path: Path, normals: NDArray[np.float32]) -> None:
    """Unit vectors [H, W, 3], zeros unknown; raises DatasetError."""
    known = normals.any(axis=-1, keepdims=True)
    stored = np.where(known, np.rint(normals.astype(np.float64) * SPAN) + HALF, 0)
    _write(path, np.ascontiguousarray(stored.astype(np.uint16)[..., ::-1]))


def read_normals(path: Path) -> NDArray[np.float32]:
    """Unit vectors float32 [H, W, 3], zeros unknown; raises DatasetError."""
    with as_dataset_error():
        return map_files.read_normals(path)


def _write(path: Path, values: NDArray[np.uint16]) -> None:
    try:
        write_picture(path, values)
    except OSError as error:
        raise DatasetError(
            f'{path} cannot be written; is the folder there, and the disk not full? {error}'
        ) from error
