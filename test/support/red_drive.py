# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""A drive on which the tiny bundle's answers are known by hand, and so are its scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tiny_bundle import cell_box

from mtl_evaluation.bags.bag_writer import DriveWriter, EncodedImage
from mtl_evaluation.truth.truth import Truth, TruthBoxes

START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 50_000_000
HEIGHT, WIDTH = 64, 96


def red_image() -> np.ndarray:
    """All red, RGB: 8 pedestrians, direct everywhere, road everywhere, dark."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[..., 0] = 255
    return image


def red_truth() -> Truth:
    """What the tiny bundle says about `red_image`, but for a quarter of road that is sidewalk."""
    boxes = np.array([cell_box(k) for k in range(8)], np.float32)
    semantic = np.zeros((HEIGHT, WIDTH), np.uint8)
    semantic[: HEIGHT // 4] = 1
    return Truth(
        TruthBoxes(boxes, ('pedestrian',) * 8, np.zeros(8, bool)),
        {'drivable': np.zeros((HEIGHT, WIDTH), np.uint8), 'semantic': semantic},
        {'timeofday': 'night'},
    )


def write_red_drive(path: Path, frames: int = 12, unlabelled: int = 2) -> Path:
    """`frames` frames at 20 Hz, the last ones unlabelled."""
    with DriveWriter(path) as writer:
        for index in range(frames):
            truth = red_truth() if index < frames - unlabelled else Truth()
            writer.write_frame(START_NS + index * PERIOD_NS, EncodedImage(red_image()), truth)
    return path


EXPECTED = {
    'detection': {'AP': 1.0, 'AP50': 1.0},
    'drivable': {'miou': 1.0, 'official_miou': 1.0},
    'semantic': {'miou': 0.375, 'pixel_accuracy': 0.75},
    'timeofday': {'accuracy': 1.0},
}
"""Semantic: road 0.75 of the picture is right, sidewalk is never found: (0.75 + 0) / 2."""
