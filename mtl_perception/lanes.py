# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Lane markings of a mask as polylines on the road.

A marking is a connected component of the mask. Its pixels are put on the road, sorted along the
longest direction there, and thinned to one point a metre: so a stop line across the road becomes a
line across the road, and a dashed line as many short ones as it has dashes.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from mtl_perception.camera_model import CameraModel, Floats
from mtl_perception.geometry import Mount, on_ground

LEAST_PIXELS = 30
LEAST_LENGTH_M = 1.0
STEP_M = 1.0
"""Distance of the points of a line."""
RANGE_M = 50.0
"""What is farther ahead is left out: a pixel there is metres long."""
MOST_LINES = 64
"""The largest components; a noisy mask has thousands."""
MOST_PIXELS = 6_000
"""Pixels that are looked at, spread over all markings."""


def lane_lines(
    mask: NDArray[np.uint8], label: int, camera: CameraModel, mount: Mount
) -> list[Floats]:
    """Polylines float64 [K, 3], K >= 2, in the base frame, of a mask uint8 [H, W]; longest first.

    camera: for the pixels of the mask.
    """
    marked = (mask == label).view(np.uint8)
    count, components, stats, _ = cv2.connectedComponentsWithStats(
        marked, connectivity=8, ltype=cv2.CV_32S
    )
    areas = stats[1:, cv2.CC_STAT_AREA]
    large = np.argsort(-areas, kind='stable')[:MOST_LINES]
    large = large[areas[large] >= LEAST_PIXELS] + 1
    if not len(large):
        return []
    rank = np.full(count, -1)
    rank[large] = np.arange(len(large))
    pixels = cv2.findNonZero(marked).reshape(-1, 2)
    owner = rank[components[pixels[:, 1], pixels[:, 0]]]
    pixels, owner = pixels[owner >= 0], owner[owner >= 0]
    step = -(-len(pixels) // MOST_PIXELS)
    pixels, owner = pixels[::step], owner[::step]
    places = on_ground(pixels.astype(np.float64), camera, mount)
    near = places[:, 0] - mount.translation[0] <= RANGE_M  # False for NaN, above the horizon
    places, owner = places[near], owner[near]
    lines = [line for k in range(len(large)) if len(line := _line(places[owner == k])) >= 2]
    return sorted(lines, key=lambda line: -float(np.linalg.norm(line[-1] - line[0])))


def _line(points: Floats) -> Floats:
    """One point a step along the longest direction of points [N, 3]: [K, 3], from near to far."""
    if len(points) < 4:
        return points[:0]
    flat = points[:, :2] - points[:, :2].mean(0)
    _, vectors = np.linalg.eigh(flat.T @ flat)
    direction = vectors[:, 1] if vectors[0, 1] >= 0 else -vectors[:, 1]
    along = flat @ direction
    if np.ptp(along) < LEAST_LENGTH_M:
        return points[:0]
    cell = np.rint((along - along.min()) / STEP_M).astype(int)  # half a step at either end
    found = [np.median(points[cell == k], axis=0) for k in np.unique(cell)]
    return np.array(found)
