# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Maps of numbers from network output to source pixels: depth and surface normals.

Bilinear interpolation with half-pixel centres, clamped at the border of the map. Between a near and
a far surface that invents a few pixels in between; the metrics count them as what they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mtl_perception.engine_error import EngineError
from mtl_perception.letterbox import Letterbox
from mtl_perception.tasks import Task

if TYPE_CHECKING:
    from mtl_perception.manifest import OutputSpec


def depth(
    task: Task,
    specs: Mapping[str, OutputSpec],
    outputs: Mapping[str, NDArray[Any]],
    letterbox: Letterbox,
    thresholds: object,
) -> NDArray[np.float32]:
    """Metres of every source pixel: float32 [source_height, source_width].

    Raises EngineError on values that are not finite numbers above 0.
    """
    values = outputs['depth']
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise EngineError(_senseless(task, specs['depth'], 'metres above 0'))
    return bilinear_to_source(values, letterbox, specs['depth'].stride)


def normals(
    task: Task,
    specs: Mapping[str, OutputSpec],
    outputs: Mapping[str, NDArray[Any]],
    letterbox: Letterbox,
    thresholds: object,
) -> NDArray[np.float32]:
    """Unit vector of every source pixel: float32 [source_height, source_width, 3].

    Raises EngineError on values that are not finite.
    """
    values = outputs['normals']
    if not np.isfinite(values).all():
        raise EngineError(_senseless(task, specs['normals'], 'finite vectors'))
    vectors = bilinear_to_source(values, letterbox, specs['normals'].stride).transpose(1, 2, 0)
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.ascontiguousarray(vectors / np.maximum(length, 1e-6))


def bilinear_to_source(
    values: NDArray[np.float32], letterbox: Letterbox, stride: int
) -> NDArray[np.float32]:
    """Float32 [..., H, W] at `stride` -> float32 [..., source_height, source_width]."""
    box = letterbox
    y = positions(box.source_height, box.scale_y, box.pad_top, stride)
    x = positions(box.source_width, box.scale_x, box.pad_left, stride)
    rows = _between(np.asarray(values, np.float32), y, -2)
    return _between(rows, x, -1)


def positions(size: int, scale: float, pad: int, stride: int) -> NDArray[np.float64]:
    """Cell coordinate of every source pixel centre; cell centres are whole numbers."""
    return ((np.arange(size) + 0.5) * scale + pad) / stride - 0.5


def _between(
    values: NDArray[np.float32], position: NDArray[np.float64], axis: int
) -> NDArray[np.float32]:
    """Linear interpolation along one of the last two axes."""
    last = values.shape[axis] - 1
    position = position.clip(0, last)
    lower = np.floor(position).astype(np.intp)
    part = (position - lower).astype(np.float32)
    part = part[:, None] if axis == -2 else part
    low, high = (values.take(cells, axis=axis) for cells in (lower, np.minimum(lower + 1, last)))
    return np.asarray(low + (high - low) * part, np.float32)


def _senseless(task: Task, spec: OutputSpec, expected: str) -> str:
    return (
        f'task {task.name!r}: output {spec.name!r} should hold {expected}, and some values are '
        f'not. Run it at fp32 to see whether the precision is to blame.'
    )
