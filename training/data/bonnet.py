# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""A bonnet of one's own: what many cameras see at the bottom, and few labelled frames here show.

Without it a network takes the bonnet for road or for a car. Drawn over the lower edge of the image:
a curved sheet with the vehicle's colour, a gradient and a mirror image of what is above. Its pixels
are background to drivable area and lane markings and unlabelled for other masks; boxes that it
mostly hides are ignored.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from mtl_perception.tasks import DRIVABLE, LANE, UNLABELLED
from training.data.sample import Boxes, Sample

HEIGHT = (0.05, 0.2)
"""Share of the image's height at the middle of the bonnet."""
HIDDEN = 0.5
"""Share of a box's area from which the bonnet hides it."""
BACKGROUND = {
    DRIVABLE.name: DRIVABLE.classes.index('background'),
    LANE.name: LANE.classes.index('background'),
}


def with_bonnet(sample: Sample, rng: np.random.Generator) -> Sample:
    """The sample with a bonnet at its lower edge; image and masks are copied."""
    height, width = sample.image.shape[:2]
    line = _line(height, width, rng)
    covered = np.arange(height)[:, None] >= line
    image = np.where(covered[..., None], _sheet(sample.image, rng), sample.image)
    masks = {}
    for task, mask in sample.masks.items():
        shape = (mask.shape[1], mask.shape[0])
        hidden = cv2.resize(covered.astype(np.uint8), shape, interpolation=cv2.INTER_NEAREST)
        masks[task] = np.where(hidden == 1, np.uint8(BACKGROUND.get(task, UNLABELLED)), mask)
    maps = {}
    for task, values in sample.maps.items():
        shape = (values.shape[1], values.shape[0])
        hidden = cv2.resize(covered.astype(np.uint8), shape, interpolation=cv2.INTER_NEAREST)
        maps[task] = values * (hidden == 0).reshape(hidden.shape + (1,) * (values.ndim - 2))
    boxes = {
        task: _behind(found, line * sample.shrink, sample.shrink)
        for task, found in sample.boxes.items()
    }
    return replace(sample, image=image, masks=masks, maps=maps, boxes=boxes)


def _line(height: int, width: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """First row of the bonnet in each column [W]: a parabola, highest near the middle."""
    x = (np.arange(width) + 0.5) / width - rng.uniform(0.4, 0.6)
    top = 1 - rng.uniform(*HEIGHT)
    return height * (top + rng.uniform(0.05, 0.35) * x**2)


def _sheet(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Paint, a gradient and the mirrored, blurred surroundings; uint8 as the image."""
    height, width = image.shape[:2]
    grey = rng.uniform(10, 200)
    paint = grey * rng.uniform(0.8, 1.2, 3)
    shade = np.linspace(1.3, 0.7, height)[:, None, None]
    small = cv2.resize(image[::-1], (max(1, width // 16), max(1, height // 16)))
    mirror = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    share = rng.uniform(0.1, 0.6)
    return np.clip((1 - share) * paint * shade + share * mirror, 0, 255).astype(np.uint8)


def _behind(boxes: Boxes, line: NDArray[np.float64], shrink: int) -> Boxes:
    """Boxes whose lower part the bonnet hides are cut at it, mostly hidden ones are ignored."""
    if not len(boxes.xyxy):
        return boxes
    middle = (boxes.xyxy[:, 0] + boxes.xyxy[:, 2]) / 2 / shrink
    edge = line[np.clip(middle.astype(int), 0, len(line) - 1)]
    xyxy = boxes.xyxy.copy()
    tall = np.maximum(xyxy[:, 3] - xyxy[:, 1], 1e-6)
    hidden = (xyxy[:, 3] - edge).clip(0) / tall
    seen = np.minimum(xyxy[:, 3], np.maximum(edge, xyxy[:, 1]))
    xyxy[:, 3] = np.where(hidden < HIDDEN, seen, xyxy[:, 3])
    return replace(boxes, xyxy=xyxy, ignored=boxes.ignored | (hidden >= HIDDEN))
