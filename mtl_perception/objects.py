# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What stands on the road: places of detections, their sizes by class, and which is in the way.

A place is where the middle of a box's lower edge meets the road (`geometry.py`): the nearest point
of contact of an object that stands on it. What is cut off by the lower edge of the image is at most
that far away. Sizes are those of a typical object of its class and are not measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtl_perception.camera_model import CameraModel, Floats
from mtl_perception.frame import Detections
from mtl_perception.geometry import GroundPoints, Mount, foot_pixels, locate
from mtl_perception.tasks import Task

AIRBORNE = frozenset({'traffic light', 'traffic sign'})
"""Classes that do not stand on the road: the lower edge of their boxes says nothing about it."""

SIZES_M: dict[str, tuple[float, float, float]] = {
    'pedestrian': (0.8, 0.7, 1.75),
    'person': (0.8, 0.7, 1.75),
    'rider': (1.8, 0.6, 1.75),
    'car': (4.2, 1.8, 1.6),
    'truck': (8.0, 2.5, 3.2),
    'bus': (11.0, 2.9, 3.4),
    'train': (20.0, 3.0, 3.8),
    'motorcycle': (2.1, 0.8, 1.5),
    'bicycle': (1.7, 0.6, 1.3),
}
"""Length, width and height by class: means of KITTI's and nuScenes' training boxes, rounded."""
UNKNOWN_SIZE_M = (1.0, 1.0, 1.0)

STRIP_ROWS = 0.02
"""Height of the strip below a box that tells what it stands on, in image heights."""
HALF_LANE_M = 1.5
"""Half of a narrow lane: what is that close to the axis is in the way whatever the mask says."""


@dataclass(frozen=True)
class Deviations:
    """How far off boxes and camera are: standard deviations.

    foot: of a box's lower edge, in heights of the box, and at least `FLOOR_PX`. tilt: of pitch and
    roll between camera and road, radians. Along the lower edge the contact may be anywhere: uniform
    over the width of the box.
    """

    foot: float = 0.03
    tilt: float = 0.005

    FLOOR_PX = 1.0

    def of_feet(self, boxes: NDArray[np.float32]) -> Floats:
        """Pixels [N, 2], x and y, of boxes [N, 4]."""
        width, height = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64).T
        deviations = np.stack([width / math.sqrt(12), self.foot * height], 1)
        return np.maximum(self.FLOOR_PX, deviations)


def place(
    detections: Detections,
    task: Task,
    camera: CameraModel,
    mount: Mount,
    deviations: Deviations = Deviations(),
) -> GroundPoints:
    """Where the detections of a task stand; unknown (NaN) above the horizon and for the airborne.

    camera: for the pixels of the boxes.
    """
    airborne = [index for index, name in enumerate(task.classes) if name in AIRBORNE]
    feet = foot_pixels(detections.boxes)
    feet[np.isin(detections.labels, airborne)] = np.nan
    return locate(feet, camera, mount, deviations.of_feet(detections.boxes), deviations.tilt)


def size_m(name: str) -> tuple[float, float, float]:
    """Length, width and height of a typical object of a class."""
    return SIZES_M.get(name, UNKNOWN_SIZE_M)


def on_mask(boxes: NDArray[np.float32], mask: NDArray[np.uint8], label: int) -> NDArray[np.bool_]:
    """Whether boxes [N, 4] stand on a class of a mask [H, W]: most of the strip below is of it."""
    height, width = mask.shape
    rows = max(2, round(STRIP_ROWS * height))
    inner = np.stack([0.75 * boxes[:, 0] + 0.25 * boxes[:, 2], boxes[:, 3],
                      0.25 * boxes[:, 0] + 0.75 * boxes[:, 2]], 1)  # fmt: skip
    lefts, tops, rights = np.round(inner).astype(int).T
    stands = np.zeros(len(boxes), bool)
    for i, (left, top, right) in enumerate(zip(lefts, tops, rights, strict=True)):
        strip = mask[top : top + rows, max(0, left) : min(width, max(right, left + 1))]
        stands[i] = strip.size > 0 and (strip == label).mean() >= 0.5
    return stands


def in_path(
    places: GroundPoints, boxes: NDArray[np.float32], mask: NDArray[np.uint8], label: int
) -> NDArray[np.bool_]:
    """Which objects [N] are on the own path, by the class of a mask that marks it.

    An object that reaches the lower edge of the image stands on nothing that can be seen: it is in
    the path where it is less than half a lane from the axis of the camera.
    """
    aside = np.abs(places.positions[:, 1] - places.mount.translation[1])
    cut = boxes[:, 3] >= len(mask) - 2
    return places.known & np.where(cut, aside < HALF_LANE_M, on_mask(boxes, mask, label))


def between_lines(places: GroundPoints, lines: list[Floats]) -> NDArray[np.bool_]:
    """Which objects [N] are in the own lane, by markings [K, 3] on the road in the base frame.

    The lane is between the nearest markings to the left and right of the axis of the camera, each
    taken as straight; nothing is in it unless both are there.
    """
    x, y, _ = places.mount.translation
    fits = []
    for line in lines:
        ahead, aside = line[:, 0] - x, line[:, 1] - y
        if np.ptp(ahead) >= 2.0:  # shorter ones do not tell a direction
            slope, offset = np.polyfit(ahead, aside, 1)
            if abs(slope) < 0.5:
                fits.append((offset, slope))
    left = min((fit for fit in fits if fit[0] > 0.3), default=None)
    right = max((fit for fit in fits if fit[0] < -0.3), default=None)
    if left is None or right is None:
        return np.zeros(len(places), bool)
    ahead = places.ahead_m
    aside = places.positions[:, 1] - y
    within = (aside < left[0] + left[1] * ahead) & (aside > right[0] + right[1] * ahead)
    return places.known & within


def closest(places: GroundPoints, chosen: NDArray[np.bool_]) -> int | None:
    """Index of the chosen object that is the least ahead; None where none is known."""
    ahead = np.where(chosen & places.known, places.ahead_m, np.inf)
    return int(ahead.argmin()) if len(ahead) and np.isfinite(ahead.min()) else None
