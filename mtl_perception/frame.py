# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""One camera frame, and what is known about it: what comes into the pipeline and what leaves it.

Neither engines nor ROS are imported here, so that whoever reads or writes frames needs neither.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mtl_perception.geometry import GroundPoints


@dataclass(frozen=True)
class Frame:
    """An image as it came: uint8 [H, W, 3], a view with padded rows is fine.

    Raises ValueError on another dtype or shape.
    """

    pixels: NDArray[np.uint8]
    order: Literal['rgb', 'bgr'] = 'rgb'

    def __post_init__(self) -> None:
        """Check dtype, shape and order."""
        shape = self.pixels.shape
        if self.pixels.dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
            raise ValueError(
                f'frame: expected uint8 [H, W, 3], found {self.pixels.dtype} {list(shape)}'
            )
        if self.order not in ('rgb', 'bgr'):
            raise ValueError(f"frame: order must be 'rgb' or 'bgr', found {self.order!r}")


@dataclass(frozen=True)
class Detections:
    """N boxes, best score first: boxes float32 [N, 4] xyxy source pixels, scores float32 [N],
    labels int64 [N] (class id).
    """  # noqa: D205

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        """Count of boxes."""
        return len(self.scores)


@dataclass(frozen=True)
class Tracks:
    """The detections of one frame that belong to a track.

    boxes float32 [N, 4] xyxy source pixels, scores float32 [N]: as detected. labels int64 [N]: the
    class of the track, which may differ from the detection's. ids int64 [N]: 1 and up, unique in a
    frame and never used again by a tracker. rows int64 [N]: which detections of the frame they are.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    ids: NDArray[np.int64]
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        """Count the tracks."""
        return len(self.ids)

    def of_detections(self, count: int) -> NDArray[np.int64]:
        """The id of each of the frame's `count` detections; 0 where it has none."""
        ids = np.zeros(count, np.int64)
        ids[self.rows] = self.ids
        return ids


Answer: TypeAlias = Any
"""What a task answers, by its kind: detection `Detections`; segmentation uint8 [H, W] class ids of
source pixels, 255 unlabelled; classification float32 [C] probabilities; depth float32 [H, W] metres
and normals float32 [H, W, 3] unit vectors, both of source pixels; other kinds what they like."""


@dataclass(frozen=True)
class Result:
    """What is known about one frame: an answer per requested task, by the task's name.

    confidences: uint8 [H, W] of masks for which they were asked, 255 = sure.
    tracks: which detections are of which track, where they are tracked. places: where on the road
    the detections are, where the camera's geometry is known. timings_ms: 'letterbox', 'engine',
    'decode'.
    """

    answers: dict[str, Answer] = field(default_factory=dict)
    tracks: dict[str, Tracks] = field(default_factory=dict)
    places: dict[str, GroundPoints] = field(default_factory=dict)
    confidences: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    timings_ms: dict[str, float] = field(default_factory=dict)

    @property
    def detections(self) -> dict[str, Detections]:
        """The answers of detection tasks."""
        return {k: v for k, v in self.answers.items() if isinstance(v, Detections)}

    @property
    def masks(self) -> dict[str, NDArray[np.uint8]]:
        """The answers of segmentation tasks."""
        return {k: v for k, v in self._arrays().items() if v.dtype == np.uint8}

    @property
    def probabilities(self) -> dict[str, NDArray[np.float32]]:
        """The answers of classification tasks."""
        return {k: v for k, v in self._arrays().items() if v.dtype != np.uint8 and v.ndim == 1}

    @property
    def maps(self) -> dict[str, NDArray[np.float32]]:
        """The answers of depth and normals tasks."""
        return {k: v for k, v in self._arrays().items() if v.dtype != np.uint8 and v.ndim > 1}

    @property
    def others(self) -> dict[str, Any]:
        """The answers of kinds that plug-ins add, where they are neither boxes nor arrays."""
        known = (Detections, np.ndarray)
        return {k: v for k, v in self.answers.items() if not isinstance(v, known)}

    def _arrays(self) -> dict[str, Any]:
        return {k: v for k, v in self.answers.items() if isinstance(v, np.ndarray)}
