# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Where on the road the objects of a frame stand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mtl_scenes.mesh import Thing
from mtl_scenes.world import Camera

CONTACT_M = 0.1
"""What is less above the lowest point of a thing counts as its contact with the road."""
DEPTH_M = 0.25
"""How much farther than the nearest point of contact others may be to be one foot with it."""


def feet_of(
    track_ids: NDArray[np.int64],
    shown: Sequence[Thing],
    ego: tuple[float, float, float, float],
    camera: Camera,
) -> NDArray[np.float64]:
    """Metres [N, 3] in the camera frame (x right, y down, z forward) of the objects' feet.

    A foot is the point of contact with the road that is nearest to the camera: the middle of the
    rear wheels of a car ahead, the nearer wheel of one that is seen from the side.
    """
    by_track = {thing.track + slot: thing for thing in shown for slot in range(len(thing.classes))}
    found = [_foot(by_track[track], ego) for track in track_ids.tolist()]
    aside, ahead = np.array(found, np.float64).reshape(-1, 2).T
    sine, cosine = np.sin(camera.pitch), np.cos(camera.pitch)
    drop = camera.height_m
    return np.stack([aside, drop * cosine - ahead * sine, drop * sine + ahead * cosine], 1)


def _foot(thing: Thing, ego: tuple[float, float, float, float]) -> tuple[float, float]:
    """Metres to the right of and ahead of the camera."""
    eye_x, eye_z, yaw, _ = ego
    dx, dz = thing.x - eye_x, thing.z - eye_z
    aside, ahead = dx * np.cos(yaw) - dz * np.sin(yaw), dx * np.sin(yaw) + dz * np.cos(yaw)
    turn = np.arctan2(aside, ahead) if thing.billboard else thing.yaw - yaw
    points = thing.mesh.vertices.astype(np.float64)
    low = points[points[:, 1] <= points[:, 1].min() + CONTACT_M]
    x = aside + low[:, 0] * np.cos(turn) + low[:, 2] * np.sin(turn)
    z = ahead + low[:, 2] * np.cos(turn) - low[:, 0] * np.sin(turn)
    near = z <= z.min() + DEPTH_M
    # The middle, not the mean: wheels have more corners than others.
    return float((x[near].min() + x[near].max()) / 2), float(z.min())
