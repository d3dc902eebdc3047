"""The BDD100K layout, which real, derived and generated data share here.

    images/{100k,10k,...}/{split}/NAME.jpg      one index by NAME over all of them
    labels/det_20/det_{split}.json              Scalabel frames: boxes and image attributes; else
    labels/bdd100k_labels_images_{split}.json   the same of 2018; else
    labels/100k/{split}/NAME.json               the same of 2018, a file per image
    labels/{drivable,sem_seg}/masks/{split}/NAME.png    index = class id, 255 = unlabelled
    labels/lane/masks/{split}/NAME.png          bits: -, -, direction, style, background, category
    labels/{depth,normals}/maps/{split}/NAME.png    16-bit, as in `map_files.py`; generated scenes

A frame listed in the label file is labelled for detection even when it has no box; an attribute
`undefined`, a missing mask and an unlisted frame are unlabelled. A derived set may have a
`labels.json` whose frames say in `tasks` what is labelled: attributes that it does not name are not
read. Crowds, boxes marked suspectMerged and the categories that the toolkit maps but does not score
are ignored regions. Masks that exist only as polygons or RLE are drawn by
`python -m training.data.to_masks`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.truth.label_files import IMAGE_SUFFIX, Frame, scalabel_frames
from mtl_perception.tasks import DEPTH, DRIVABLE, LANE, NORMALS, SEMANTIC, UNLABELLED
from training.data.index import (
    UNKNOWN,
    Index,
    LayoutConfig,
    MapFiles,
    MaskFiles,
    as_dataset_error,
    id_table,
)
from training.data.map_files import read_depth_cm, read_normals
from training.tasks.segmentation import COARSE7

log = logging.getLogger(__name__)

MASK_KINDS = {DRIVABLE.name: 'drivable', SEMANTIC.name: 'sem_seg', LANE.name: 'lane'}
"""Folder below `labels/` by task."""

MAP_READERS = {DEPTH.name: read_depth_cm, NORMALS.name: read_normals}
"""By task, which is also the folder below `labels/`."""

DET_20 = 'det_20'
"""Folder of the boxes of 2020, below `labels/`."""

LANE_BACKGROUND = 1 << 3
LANE_USED_BITS = 0b0011_1111


def index(config: LayoutConfig, split: str) -> Index:
    """Files and frames of a split; raises DatasetError on an unreadable label file."""
    labels = config.folder / 'labels'
    images = _images(config, split)
    masks = {}
    for task, kind in MASK_KINDS.items():
        files = mask_files(config, split, task)
        if files.paths:
            masks[task] = files
        elif any((labels / kind / form).is_dir() for form in ('polygons', 'rles')):
            log.warning(
                'data set %r has %s labels as polygons or RLE only, which are not read: run '
                '`python -m training.data.to_masks %s` once', config.name, kind, config.root,
            )  # fmt: skip
    box_file = find_box_file(labels, split, config.boxes)
    frames: dict[str, Frame] = {}
    if box_file is not None:
        with as_dataset_error():
            found = scalabel_frames(box_file)
        frames = {f['name']: f for f in found if fnmatch(f['name'], config.pattern)}
        frames = _labelled_attributes(frames, config.folder / 'labels.json')
    maps = {}
    for task, read in MAP_READERS.items():
        paths = _by_image(labels / task / 'maps' / split, config.pattern)
        if paths:
            maps[task] = MapFiles(paths, read)
    folders = f'{config.folder}/images/*/{split}'
    return Index(images, frames, masks, box_file, folders, maps=maps)


def mask_files(config: LayoutConfig, split: str, task: str) -> MaskFiles:
    """The masks of a task by image name."""
    kind = config.semantic_masks if task == SEMANTIC.name else MASK_KINDS[task]
    folder = config.folder / 'labels' / kind / 'masks' / split
    return MaskFiles(_by_image(folder, config.pattern), _table(task, config))


def _labelled_attributes(frames: dict[str, Frame], listing: Path) -> dict[str, Frame]:
    """Without the attributes that the listing of a derived set, if there is one, does not name."""
    if not listing.is_file():
        return frames
    with as_dataset_error():
        listed = {f['name']: f['tasks'] for f in scalabel_frames(listing) if 'tasks' in f}
    shown = dict(frames)
    for name in frames.keys() & listed.keys():
        attributes = frames[name].get('attributes')
        if isinstance(attributes, Mapping):
            kept = {key: value for key, value in attributes.items() if key in listed[name]}
            shown[name] = {**frames[name], 'attributes': kept}
    return shown


def _by_image(folder: Path, pattern: str) -> dict[str, Path]:
    """PNG files of a folder by the name of their image."""
    paths = {f'{path.stem}{IMAGE_SUFFIX}': path for path in sorted(folder.glob('*.png'))}
    return {name: path for name, path in paths.items() if fnmatch(name, pattern)}


def splits(folder: Path) -> list[str]:
    """Splits that have a folder of images."""
    return sorted({path.name for path in folder.glob('images/*/*') if path.is_dir()})


def find_box_file(labels: Path, split: str, folder: str = DET_20) -> Path | None:
    """The boxes of a split in a folder; of BDD100K's own the newest edition that is there."""
    named = labels / folder / f'det_{split}.json'
    editions = (
        (named,)
        if folder != DET_20
        else (
            named,
            labels / f'bdd100k_labels_images_{split}.json',
            labels / '100k' / split,
        )
    )
    return next((path for path in editions if path.exists()), None)


def _images(config: LayoutConfig, split: str) -> dict[str, Path]:
    """Images of the split by name, less those that another part of the data set holds out.

    The 10k and the 100k images of BDD100K were split independently (toolkit issue 132): some
    training images of one are validation images of the other.
    """
    parts = sorted(config.folder.glob(f'images/*/{split}'))
    images = {
        path.name: path
        for part in parts
        for path in sorted(part.rglob(f'*{IMAGE_SUFFIX}'))
        if fnmatch(path.name, config.pattern)
    }
    if split != 'train':
        return images
    held_out = {
        path.name
        for part in parts
        for other in ('val', 'test')
        for folder in config.folder.glob(f'images/*/{other}')
        if folder.parent != part.parent
        for path in folder.rglob(f'*{IMAGE_SUFFIX}')
        if path.name in images and images[path.name].is_relative_to(part)
    }
    if held_out:
        log.warning(
            'data set %r: %d training images are held out elsewhere in it (%s, ...) and are left '
            'out', config.name, len(held_out), min(held_out),
        )  # fmt: skip
    return {name: path for name, path in images.items() if name not in held_out}


def _table(task: str, config: LayoutConfig) -> NDArray[np.uint8]:
    """From ids of the files to ours."""
    if task == LANE.name:
        return lane_table()
    if task == SEMANTIC.name and config.semantic_masks != 'sem_seg':
        table = id_table(len(COARSE7))
        table[: len(COARSE7)] += len(SEMANTIC.classes)
        return table
    if task == DRIVABLE.name and not config.drivable_split:
        table = id_table(len(DRIVABLE.classes))
        table[0] = len(DRIVABLE.classes)
        return table
    return id_table(len((SEMANTIC if task == SEMANTIC.name else DRIVABLE).classes))


def lane_table() -> NDArray[np.uint8]:
    """The toolkit's lane byte -> lane 0 or background 1, whatever direction, style or category.

    Bit 3 is set where there is no marking; files are 255 there.
    """
    values = np.arange(256)
    table = np.where(values & LANE_BACKGROUND, 1, 0).astype(np.uint8)
    table[(values & ~LANE_USED_BITS != 0) & (values != UNLABELLED)] = UNKNOWN
    return table
