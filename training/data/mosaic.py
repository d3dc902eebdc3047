# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Four images in one (Bochkovskiy et al., "YOLOv4", 2020), labelled as partially as they are.

The mosaic is labelled for a task that any of its tiles is labelled for. A tile without that label
is an ignored region (boxes) or unlabelled pixels (masks, maps), so nothing in it counts as
background. There is no such thing as a partly labelled image attribute: a mosaic has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mtl_perception.tasks import UNLABELLED
from training.data.sample import Boxes, Sample

SCALE = (0.5, 1.0)
"""A tile shows its image at this factor of the scale that a whole crop would have."""
CENTRE = (0.35, 0.65)
"""Where the tiles meet, as a share of the crop."""


class Tile(NamedTuple):
    """A part of the crop, pixels."""

    top: int
    left: int
    height: int
    width: int


def draw_tiles(height: int, width: int, rng: np.random.Generator) -> list[Tile]:
    """Four tiles that meet in one point."""
    y, x = round(height * rng.uniform(*CENTRE)), round(width * rng.uniform(*CENTRE))
    return [
        Tile(top, left, tall, wide)
        for top, tall in ((0, y), (y, height - y))
        for left, wide in ((0, x), (x, width - x))
    ]


def join(parts: Sequence[Sample], tiles: Sequence[Tile]) -> Sample:
    """One sample of parts that have the size of their tiles."""
    height = max(tile.top + tile.height for tile in tiles)
    width = max(tile.left + tile.width for tile in tiles)
    image = np.empty((height, width, 3), np.uint8)
    mask_tasks = sorted({task for part in parts for task in part.masks})
    masks = {task: np.full((height, width), UNLABELLED, np.uint8) for task in mask_tasks}
    for part, (top, left, tall, wide) in zip(parts, tiles, strict=True):
        place = slice(top, top + tall), slice(left, left + wide)
        image[place] = part.image
        for task, mask in part.masks.items():
            masks[task][place] = mask
    shapes = {task: values.shape[2:] for part in parts for task, values in part.maps.items()}
    maps = {task: np.zeros((height, width, *shapes[task]), np.float32) for task in sorted(shapes)}
    for part, (top, left, tall, wide) in zip(parts, tiles, strict=True):
        for task, values in part.maps.items():
            maps[task][top : top + tall, left : left + wide] = values
    box_tasks = sorted({task for part in parts for task in part.boxes})
    boxes = {task: _joined(task, parts, tiles) for task in box_tasks}
    names = '+'.join(part.name for part in parts)
    sources = '+'.join(dict.fromkeys(part.source for part in parts))
    return Sample(names, sources, image, boxes, masks, maps=maps)


def _joined(task: str, parts: Sequence[Sample], tiles: Sequence[Tile]) -> Boxes:
    """The boxes of all parts; as complete as the least complete of them."""
    rows = []
    labelled = [part.boxes[task] for part in parts if task in part.boxes]
    covered = [boxes.covered for boxes in labelled if boxes.covered is not None]
    for part, (top, left, tall, wide) in zip(parts, tiles, strict=True):
        boxes = part.boxes.get(task)
        if boxes is None:
            everything = np.array([[0, 0, wide, tall]], np.float32)
            boxes = Boxes(everything, np.zeros(1, np.int64), np.ones(1, bool))
        moved = boxes.xyxy + np.array([left, top, left, top], np.float32)
        rows.append((moved, boxes.labels, boxes.ignored))
    xyxy, labels, ignored = (np.concatenate(column) for column in zip(*rows, strict=True))
    return Boxes(
        xyxy,
        labels,
        ignored,
        covered=np.logical_and.reduce(covered) if covered else None,
        complete=all(boxes.complete for boxes in labelled),
    )
