# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""A small labelled data set in BDD100K's layout that the tiny bundle of the tests answers well.

Each image has 2 rows of 4 cells in strong or grey colours, which the tiny bundle takes for objects;
truth differs from what it will say here and there, so that no figure is 0 or 1.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from tiny_bundle import COLUMNS, ROWS, cell_box

WIDTH, HEIGHT = 96, 64
CATEGORIES = ('pedestrian', 'rider', 'car')
COLOURS = np.array([[230, 20, 20], [20, 230, 20], [20, 20, 230], [90, 90, 90]], np.uint8)


def write_block_data(root: Path, images: int = 6, split: str = 'val', seed: int = 0) -> Path:
    """Write images and labels of every task; returns the root."""
    rng = np.random.default_rng(seed)
    kinds = ('images/100k', 'labels/drivable/masks', 'labels/sem_seg/masks')
    folders = [root / kind / split for kind in kinds]
    for folder in (*folders, root / 'labels' / 'det_20'):
        folder.mkdir(parents=True, exist_ok=True)
    frames = []
    for number in range(images):
        name = f'block_{number:03d}'
        cells = rng.integers(0, 4, ROWS * COLUMNS)
        colour = cells.reshape(ROWS, COLUMNS)
        colour = np.kron(colour, np.ones((HEIGHT // ROWS, WIDTH // COLUMNS), int))
        shade = rng.uniform(0.6, 1.0, colour.shape[:1])[:, None, None]
        image = (COLOURS[colour] * shade).astype(np.uint8)
        cv2.imwrite(str(folders[0] / f'{name}.jpg'), image[..., ::-1])
        masks = np.where(colour == 3, 2, colour).astype(np.uint8)
        masks[:, : 8 * (number % 3)] = 255
        cv2.imwrite(str(folders[1] / f'{name}.png'), np.roll(masks, number, 0))
        cv2.imwrite(str(folders[2] / f'{name}.png'), np.roll(masks, -number, 1))
        labels = [
            _label(index, CATEGORIES[cell], rng) for index, cell in enumerate(cells) if cell < 3
        ]
        attributes = {
            'weather': str(rng.choice(['clear', 'rainy'])),
            'timeofday': str(rng.choice(['daytime', 'night', 'undefined'])),
        }
        frames.append({'name': f'{name}.jpg', 'attributes': attributes, 'labels': labels})
    (root / 'labels' / 'det_20' / f'det_{split}.json').write_text(json.dumps(frames))
    return root


def _label(index: int, category: str, rng: np.random.Generator) -> dict:
    corners = np.array(cell_box(index), float) + rng.normal(0, 1.5, 4)
    wrong = rng.random() < 0.2
    return {
        'id': str(index),
        'category': 'truck' if wrong else category,
        'attributes': {'crowd': bool(rng.random() < 0.15)},
        'box2d': dict(zip(('x1', 'y1', 'x2', 'y2'), corners.tolist(), strict=True)),
    }
