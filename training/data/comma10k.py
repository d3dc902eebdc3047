# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""comma10k (comma.ai, MIT): 10,000 frames of dashcams, masks in five colours.

    ROOT/imgs/NAME.png
    ROOT/masks/NAME.png         RGB: road, lane markings, undrivable, movable, my car

As comma.ai has it, images whose name ends in 9 are `val`, the others `train`. The colours become
class sets: `undrivable` is any of the ten classes that neither move nor are road, `movable` any of
the eight that do. So the masks label `semantic`, `drivable` (road only; the own lane is not told
from others) and `lane`. Of one's own car `semantic` knows nothing; it is no road and no marking.
"""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mtl_perception.tasks import DRIVABLE, LANE, SEMANTIC, UNLABELLED
from training.data.index import UNKNOWN, Index, LayoutConfig, MaskFiles
from training.data.sample import DatasetError
from training.tasks.segmentation import GROUPS, MOVABLE, UNDRIVABLE

COLOURS = {
    'road': 0x402020,
    'lane markings': 0xFF0000,
    'undrivable': 0x808060,
    'movable': 0x00FF66,
    'my car': 0xCC00FF,
}
"""https://github.com/commaai/comma10k, README: the five colours of a mask."""
HELD_OUT = '9'
SPLITS = ('train', 'val')


def index(config: LayoutConfig, split: str) -> Index:
    """Files of a split."""
    folder = config.folder / 'imgs'
    images = {
        path.name: path
        for path in sorted(folder.glob('*.png'))
        if fnmatch(path.name, config.pattern) and path.stem.endswith(HELD_OUT) == (split == 'val')
    }
    if split not in SPLITS:
        images = {}
    masks = {name: config.folder / 'masks' / name for name in images}
    paths = {name: path for name, path in masks.items() if path.is_file()}
    tables = {task: MaskFiles(paths, table, read_colours) for task, table in _tables().items()}
    return Index(images, {}, tables if paths else {}, None, str(folder), False)


def read_colours(path: Path) -> NDArray[np.uint8]:
    """The number of each pixel's colour in COLOURS, uint8 [H, W]; raises DatasetError."""
    try:
        with Image.open(path) as file:
            rgb = np.array(file.convert('RGB'), np.uint32)
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise DatasetError(f'{path} is not a readable PNG: {error}') from error
    value = rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]
    numbers = np.full(value.shape, UNKNOWN, np.uint8)
    for number, colour in enumerate(COLOURS.values()):
        numbers[value == colour] = number
    if (numbers == UNKNOWN).any():
        strange = np.unique(value[numbers == UNKNOWN])
        raise DatasetError(
            f'{path}: {len(strange)} colours that comma10k does not have, such as '
            f'#{int(strange[0]):06x}; expected {[f"#{c:06x}" for c in COLOURS.values()]}'
        )
    return numbers


def _tables() -> dict[str, NDArray[np.uint8]]:
    """By task, from the number of a colour to our ids and class sets."""
    semantic, drivable = len(SEMANTIC.classes), len(DRIVABLE.classes)
    sets = GROUPS[SEMANTIC.name]
    undrivable, movable = semantic + sets.index(UNDRIVABLE), semantic + sets.index(MOVABLE)
    road, background = drivable, DRIVABLE.classes.index('background')
    lane, none = LANE.classes.index('lane'), LANE.classes.index('background')
    ours = {
        SEMANTIC.name: (0, 0, undrivable, movable, UNLABELLED),
        DRIVABLE.name: (road, road, background, background, background),
        LANE.name: (none, lane, none, none, none),
    }
    tables = {}
    for task, codes in ours.items():
        tables[task] = np.full(256, UNKNOWN, np.uint8)
        tables[task][: len(codes)] = codes
    return tables
