# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What one asks for and what one gets: the typed configuration and result of a generated drive."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtl_perception import tasks


@dataclass(frozen=True)
class DriveConfig:
    """One generated drive; equal configs give bit-identical frames.

    seed: chooses world, camera, traffic and every attribute that is None. width, height: pixels, at
    least 32. rate_hz: frames per second of driven time. weather, scene, timeofday: one of the
    classes of tasks.WEATHER, tasks.SCENE, tasks.TIME_OF_DAY. Raises ValueError naming what is
    allowed.
    """

    seed: int = 0
    width: int = 640
    height: int = 360
    frames: int = 200
    rate_hz: float = 10.0
    weather: str | None = None
    scene: str | None = None
    timeofday: str | None = None

    def __post_init__(self) -> None:
        """Check every value, and name the allowed ones."""
        for task in (tasks.WEATHER, tasks.SCENE, tasks.TIME_OF_DAY):
            value = getattr(self, task.name)
            if value is not None and value not in task.classes:
                raise ValueError(
                    f'{task.name}: {value!r} is not one of {", ".join(map(repr, task.classes))}'
                )
        if self.seed < 0:
            raise ValueError(f'seed: expected 0 or more, found {self.seed}')
        if not (32 <= self.width <= 8192 and 32 <= self.height <= 8192):
            raise ValueError(
                f'width, height: expected 32 to 8192 pixels, found {self.width}x{self.height}'
            )
        if self.frames < 1:
            raise ValueError(f'frames: expected 1 or more, found {self.frames}')
        if not 0.0 < self.rate_hz < float('inf'):
            raise ValueError(f'rate_hz: expected a finite rate above 0, found {self.rate_hz}')


@dataclass(frozen=True)
class SceneFrame:
    """One frame with its exact labels, all in source pixels.

    image: uint8 [H, W, 3] RGB. boxes: float32 [N, 4] xyxy, pixel edges, visible part only.
    labels: int64 [N], index into tasks.DETECTION.classes. track_ids: int64 [N], constant over a
    drive. drivable, semantic: uint8 [H, W], class ids of tasks.DRIVABLE and tasks.SEMANTIC.
    depth: float32 [H, W], metres along the optical axis, 0 = none (sky). normals: float32
    [H, W, 3], unit vectors towards the camera, x right, y down, z forward, 0 for sky.
    attributes: weather, scene, timeofday. camera_matrix: float64 [3, 3], pixel centres at whole
    numbers. time_s: seconds since the start of the drive. feet: float64 [N, 3], metres in the
    camera frame (x right, y down, z forward), where on the road each object stands (`feet.py`).
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    track_ids: NDArray[np.int64]
    drivable: NDArray[np.uint8]
    semantic: NDArray[np.uint8]
    depth: NDArray[np.float32]
    normals: NDArray[np.float32]
    attributes: dict[str, str]
    camera_matrix: NDArray[np.float64]
    time_s: float
    feet: NDArray[np.float64]
