# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Cityscapes (Cordts et al., CVPR 2016) in its own folders.

    ROOT/leftImg8bit/{split}/CITY/ID_leftImg8bit.png
    ROOT/gtFine/{split}/CITY/ID_gtFine_labelIds.png     tasks semantic (19) and cityscapes7
    ROOT/disparity/{split}/CITY/ID_disparity.png        16-bit, (value - 1) / 256 pixels, 0 unknown
    ROOT/camera/{split}/CITY/ID_camera.json             baseline and focal length: task depth

Depth is metres, baseline * focal length / disparity; MTAN and LibMTL regress the disparity. The
public `test` labels are empty.
"""

from __future__ import annotations

import json
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtl_perception.tasks import CITYSCAPES7, DEPTH, SEMANTIC, UNLABELLED
from training.data.index import Index, LayoutConfig, MapFiles, MaskFiles
from training.data.pictures import read_values
from training.data.sample import DatasetError

IMAGE = '_leftImg8bit.png'

TRAIN_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Label id of each of the 19 classes; the others are not scored."""

CATEGORIES = (2, 5, 8, 10, 11, 13, 19)
"""How many of TRAIN_IDS lie in the categories up to each: flat, construction, object, ..."""


def index(config: LayoutConfig, split: str) -> Index:
    """Files of a split."""
    folder = config.folder / 'leftImg8bit' / split
    images = {
        f'{path.parent.name}/{path.name}': path
        for path in sorted(folder.glob(f'*/*{IMAGE}'))
        if fnmatch(path.name, config.pattern)
    }

    def beside(kind: str, suffix: str) -> dict[str, Path]:
        place = config.folder / kind / split
        paths = {name: place / f'{name.removesuffix(IMAGE)}{suffix}' for name in images}
        return {name: path for name, path in paths.items() if path.is_file()}

    labels = beside('gtFine', '_gtFine_labelIds.png')
    masks = {
        SEMANTIC.name: MaskFiles(labels, _table(range(len(TRAIN_IDS)))),
        CITYSCAPES7.name: MaskFiles(labels, _table(_categories())),
    }
    maps = {DEPTH.name: MapFiles(beside('disparity', '_disparity.png'), read_depth)}
    return Index(images, {}, masks, None, str(folder), False, maps)


def read_depth(path: Path) -> NDArray[np.float32]:
    """Metres float32 [H, W], 0 unknown; raises DatasetError, also for want of the camera file."""
    stored = read_values(path)
    if stored is None or stored.dtype != np.uint16 or stored.ndim != 2:
        raise DatasetError(f'{path}: expected a disparity PNG of 16 bits with one channel')
    *_, split, city, name = path.parts
    file = name.replace('_disparity.png', '_camera.json')
    camera = path.parents[3] / 'camera' / split / city / file
    try:
        told = json.loads(camera.read_text('utf-8'))
        product = float(told['extrinsic']['baseline']) * float(told['intrinsic']['fx'])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f'{camera}: no baseline and fx of the camera ({error!r}); metres need '
            f'camera_trainvaltest.zip beside the disparities'
        ) from error
    disparity = (stored.astype(np.float32) - 1) / 256
    known = disparity > 0
    return np.where(known, product / np.where(known, disparity, 1), 0).astype(np.float32)


def _table(classes: range | list[int]) -> NDArray[np.uint8]:
    """Label ids -> ours; what is not scored is unlabelled."""
    table = np.full(256, UNLABELLED, np.uint8)
    table[list(TRAIN_IDS)] = list(classes)
    return table


def _categories() -> list[int]:
    """Category of each of TRAIN_IDS."""
    return np.searchsorted(CATEGORIES, np.arange(len(TRAIN_IDS)), side='right').tolist()
