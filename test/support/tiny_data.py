# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Tiny data sets on disk, for tests of training."""

import json
from pathlib import Path

import cv2
import numpy as np

WIDTH, HEIGHT = 64, 48
CAR = {'category': 'car', 'box2d': {'x1': 8, 'y1': 8, 'x2': 40, 'y2': 32}}
OTHER = {'category': 'other vehicle', 'box2d': {'x1': 0, 'y1': 0, 'x2': 8, 'y2': 8}}


def picture(seed: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A smooth picture that no other seed gives."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def put(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


def put_json(path: Path, data) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))
    return path


def frame(name: str, *labels, **attributes) -> dict:
    return {'name': name, 'attributes': attributes, 'labels': list(labels)}


def write_layout(root: Path, count: int = 3, split: str = 'train') -> Path:
    """Every frame has an image and a drivable mask, all but the last one boxes."""
    frames = []
    drivable = np.zeros((HEIGHT, WIDTH), np.uint8)
    drivable[: HEIGHT // 2] = 2
    for index in range(count):
        name = f'frame_{index}'
        put(root / f'images/100k/{split}/{name}.jpg', picture(index + 100 * (split != 'train')))
        put(root / f'labels/drivable/masks/{split}/{name}.png', drivable)
        frames.append(frame(f'{name}.jpg', CAR, OTHER, weather='rainy', timeofday='undefined'))
    put_json(root / f'labels/det_20/det_{split}.json', frames[:-1])
    return root
