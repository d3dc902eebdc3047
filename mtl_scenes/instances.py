# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What can be counted: which faces form one instance, and the tight boxes of instances."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from mtl_scenes.mesh import Thing


def number_instances(
    shown: list[Thing],
    owner: NDArray[np.int64],
    slot: NDArray[np.int64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
) -> tuple[NDArray[np.int16], NDArray[np.float64], list[tuple[int, int]]]:
    """Number what has a detection class: instance a face, its outer bounds, (class, track)."""
    slots = 1 + max((len(thing.classes) for thing in shown), default=0)
    classes = np.full((len(shown), slots), -1)
    for index, thing in enumerate(shown):
        classes[index, : len(thing.classes)] = thing.classes
    countable = np.flatnonzero(classes[owner, np.minimum(slot, slots - 1)] >= 0)
    keys = owner[countable] * slots + slot[countable]
    found, number = np.unique(keys, return_inverse=True)
    instance = np.zeros(len(owner) + 2, np.int16)
    instance[countable + 2] = number + 1
    bounds = np.full((len(found), 4), np.inf)
    bounds[:, 2:] *= -1
    np.minimum.at(bounds[:, :2], number, low[countable])
    np.maximum.at(bounds[:, 2:], number, high[countable])
    owners = [
        (int(classes[key // slots, key % slots]), shown[key // slots].track + key % slots)
        for key in found.tolist()
    ]
    return instance, bounds, owners


def tight_boxes(
    instance: NDArray[np.int16], bounds: NDArray[np.float64], owners: list[tuple[int, int]]
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Tight boxes of the visible pixels of every instance; what is too small to see is dropped."""
    height, width = instance.shape
    boxes, kept = [], []
    for index, (left, top, right, bottom) in enumerate(bounds.tolist()):
        x0, x1 = max(int(left) - 2, 0), min(int(right) + 3, width)
        y0, y1 = max(int(top) - 2, 0), min(int(bottom) + 3, height)
        if x0 >= x1 or y0 >= y1:
            continue
        mask = (instance[y0:y1, x0:x1] == index + 1).view(np.uint8)
        if cv2.countNonZero(mask) < 12:
            continue
        x, y, across, down = cv2.boundingRect(mask)
        if down < 4 or across < 2:
            continue
        boxes.append((x0 + x, y0 + y, x0 + x + across, y0 + y + down))
        kept.append(owners[index])
    pairs = np.array(kept, np.int64).reshape(-1, 2)
    return np.array(boxes, np.float32).reshape(-1, 4), pairs[:, 0], pairs[:, 1]
