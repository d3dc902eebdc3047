# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The place of every pixel in the camera frame: on a flat road, or at the depth that is known."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mtl_perception.camera_model import CameraModel
from mtl_perception.geometry import Mount, on_ground

Points = NDArray[np.float32]


@lru_cache(maxsize=4)
def ground_points(camera: CameraModel, mount: Mount) -> Points:
    """Float32 [H, W, 3] metres in the camera frame; NaN at and above the horizon.

    A pixel of something that stands on the road lies behind it here, where its ray meets the road.
    Kept, for as long as camera and mount stay: it is the work of half a second.
    """
    places = mount.to_camera(on_ground(_grid(camera), camera, mount))
    return _frozen(places)


def depth_points(depth: NDArray[np.float32], camera: CameraModel) -> Points:
    """Float32 [H, W, 3] metres in the camera frame of a depth [H, W] along the optical axis.

    NaN where the depth is not a number above 0.
    """
    known = np.where(np.isfinite(depth) & (depth > 0), depth, np.nan).astype(np.float32)
    return _directions(camera) * known[..., None]


@lru_cache(maxsize=4)
def _directions(camera: CameraModel) -> Points:
    """Rays [H, W, 3] of every pixel, of length 1 along the optical axis."""
    rays = camera.rays(_grid(camera))
    return _frozen(np.where(rays[..., 2:] > 0, rays / rays[..., 2:], np.nan))


def _grid(camera: CameraModel) -> NDArray[np.float64]:
    """Every pixel [H, W, 2] of the camera's images."""
    columns, rows = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    return np.stack([columns, rows], -1).astype(np.float64)


def _frozen(values: NDArray[np.float64]) -> Points:
    points = values.astype(np.float32)
    points.flags.writeable = False  # it is kept, and handed to more than one caller
    return points
