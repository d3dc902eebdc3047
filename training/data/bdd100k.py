# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The BDD100K layout, which real, derived and generated data share here.

    images/{100k,10k,...}/{split}/NAME.jpg      one index by NAME over all of them
    labels/det_20/det_{split}.json              Scalabel frames: boxes and image attributes; else
    labels/bdd100k_labels_images_{split}.json   the same of 2018; else
    labels/100k/{split}/NAME.json               the same of 2018, a file per image
    labels/{drivable,sem_seg}/masks/{split}/NAME.png    index = class id, 255 = unlabelled; else
    drivable_maps/, seg/                        masks of 2018, see `bdd_folders.py`
    labels/lane/masks/{split}/NAME.png          bits: -, -, direction, style, background, category
    labels/{depth,normals}/maps/{split}/NAME.png    16-bit, as in `map_files.py`; generated scenes

Labels are joined to images by NAME alone, so each name stands once in a part. A frame listed in the
label file is labelled for detection even when it has no box; an attribute `undefined`, a missing
mask and an unlisted frame are unlabelled. A derived set may have a `labels.json` whose frames say
in `tasks` what is labelled: attributes that it does not name are not read. Crowds, boxes marked
suspectMerged and the categories that the toolkit maps but does not score are ignored regions. Masks
that exist only as polygons or RLE are drawn by `python -m training.data.to_masks`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.truth.label_files import IMAGE_SUFFIX, Frame, scalabel_frames
from mtl_evaluation.truth.labels import NOT_SCORED, RENAMED
from mtl_perception.tasks import DEPTH, DETECTION, DRIVABLE, LANE, NORMALS, SEMANTIC, UNLABELLED
from training.data.bdd_folders import (
    DRIVABLE_2018,
    SEMANTIC_2018,
    find,
    find_box_file,
    find_old_labels,
    image_folders,
    tops,
    undrawn,
)
from training.data.index import (
    UNKNOWN,
    Index,
    LayoutConfig,
    MapFiles,
    MaskFiles,
    as_dataset_error,
    by_name,
    id_table,
    unlisted,
    unpaired,
)
from training.data.map_files import read_depth_cm, read_normals
from training.data.mask_values import road_above, two_valued
from training.data.sample import DatasetError
from training.tasks.segmentation import COARSE7

log = logging.getLogger(__name__)

MASK_KINDS = {DRIVABLE.name: 'drivable', SEMANTIC.name: 'sem_seg', LANE.name: 'lane'}
"""Folder below `labels/` by task."""

MAP_READERS = {DEPTH.name: read_depth_cm, NORMALS.name: read_normals}
"""By task, which is also the folder below `labels/`."""

OF_2018 = {'drivable': DRIVABLE_2018, 'sem_seg': SEMANTIC_2018}
"""Masks of 2018 by the folder that the same have since 2020."""

AREAS = {DRIVABLE.name: ('drivable area', 'area/'), LANE.name: ('lane',)}
"""How the categories begin that the label files of 2018 have of a task."""

OTHER_SPLITS = ('val', 'test')
"""Held out of training."""

LANE_BACKGROUND = 1 << 3
LANE_USED_BITS = 0b0011_1111


def index(config: LayoutConfig, split: str) -> Index:
    """Files and frames of a split.

    Raises DatasetError on an unreadable label file, on names that repeat, and on masks whose ids
    are not those of the layout.
    """
    root = config.folder
    images = _images(config, split)
    box_file = find_box_file(root, split, config.boxes)
    frames: dict[str, Frame] = {}
    if box_file is not None:
        with as_dataset_error():
            found = scalabel_frames(box_file)
        frames = {f['name']: f for f in found if fnmatch(f['name'], config.pattern)}
        frames = _labelled_attributes(frames, config.folder / 'labels.json')
        _say_strange(frames.values(), box_file)
    masks: dict[str, MaskFiles] = {}
    hints: dict[str, str] = {}
    for task in MASK_KINDS:
        files = mask_files(config, split, task)
        hint = unpaired(files, images) if files.paths else _undrawn(root, split, task, frames)
        if files.paths:
            masks[task] = files
            if fault := two_valued(task, files, images):
                raise DatasetError(f'data set {config.name!r}: {fault}')
            if doubt := road_above(task, files, images):
                log.warning('data set %r: %s', config.name, doubt)
        if hint:
            hints[task] = hint
    if hint := unlisted(frames, images):
        hints[DETECTION.name] = hint
    for task, hint in hints.items():
        log.warning('data set %r has no %s labels: %s', config.name, task, hint)
    maps = {}
    for task, read in MAP_READERS.items():
        paths = _by_image(find(root, f'labels/{task}/maps/{split}'), config.pattern)
        if paths:
            maps[task] = MapFiles(paths, read)
    folders = ', '.join(f'{folder}/images/*/{split}' for folder in tops(root))
    return Index(images, frames, masks, box_file, folders, maps=maps, hints=hints)


def mask_files(config: LayoutConfig, split: str, task: str) -> MaskFiles:
    """The masks of a task by image name; raises DatasetError for a name that two of them have."""
    kind = config.semantic_masks if task == SEMANTIC.name else MASK_KINDS[task]
    paths = _by_image(find(config.folder, f'labels/{kind}/masks/{split}'), config.pattern)
    if not paths and kind in OF_2018:
        place, suffix = OF_2018[kind]
        paths = _by_image(find(config.folder, place.format(split=split)), config.pattern, suffix)
        if paths and task == DRIVABLE.name:
            return MaskFiles(paths, drivable_table_2018())
    return MaskFiles(paths, _table(task, config))


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


def _by_image(folder: Path | None, pattern: str, suffix: str = '.png') -> dict[str, Path]:
    """Files of a folder and those below it by the name of their image."""
    if folder is None:
        return {}
    found = (
        (path.name.removesuffix(suffix) + IMAGE_SUFFIX, path)
        for path in sorted(folder.rglob(f'*{suffix}'))
    )
    return by_name((name, path) for name, path in found if fnmatch(name, pattern))


def _undrawn(root: Path, split: str, task: str, frames: Mapping[str, Frame]) -> str:
    """Says where labels of a task are that must be drawn as masks first; empty for none."""
    how = f'run `python -m training.data.to_masks {root}` once'
    source = undrawn(root, MASK_KINDS[task], split)
    if source is not None:
        return f'{source} has them as polygons or RLE only, which are not read: {how}'
    old = find_old_labels(root, split)
    if old is None or task not in AREAS:
        return ''
    if old == find_box_file(root, split) and not _has(frames.values(), AREAS[task]):
        return ''
    return f'{old} has them as shapes only, which are not read: {how}'


def _has(frames: Iterable[Frame], beginnings: tuple[str, ...]) -> bool:
    """Whether any label is of a category that begins so."""
    return any(
        str(label.get('category')).startswith(beginnings)
        for frame in frames
        for label in frame['labels']
        if isinstance(label, Mapping)
    )


def _say_strange(frames: Iterable[Frame], path: Path) -> None:
    """Log categories that are no classes here, most often for another spelling."""
    found = {
        str(label.get('category'))
        for frame in frames
        for label in frame['labels']
        if isinstance(label, Mapping) and label.get('box2d')
    }
    if strange := sorted(found - {*DETECTION.classes, *RENAMED, *NOT_SCORED}):
        log.warning(
            '%s: boxes of %s are no objects here, but ignored regions; `kind: coco` tells what '
            'categories of your own mean', path, strange[:5],
        )  # fmt: skip


def _images(config: LayoutConfig, split: str) -> dict[str, Path]:
    """Images of the split by name, less those that another part of the data set holds out.

    The 10k and the 100k images of BDD100K were split independently (toolkit issue 132): some
    training images of one are validation images of the other. Kaggle's copy has images of the test
    split in folders below `train`.
    """
    parts = {
        folder: _part(folder, config.pattern) for folder in image_folders(config.folder, split)
    }
    images = {name: path for found in parts.values() for name, path in found.items()}
    if split != 'train':
        return images
    held_out = {
        name
        for other in OTHER_SPLITS
        for folder in image_folders(config.folder, other)
        for name in (path.name for path in folder.rglob(f'*{IMAGE_SUFFIX}'))
        for own, found in parts.items()
        if own.parent != folder.parent and images.get(name) == found.get(name, '')
    }
    inside = {
        name
        for own, found in parts.items()
        for name, path in found.items()
        if any(part.startswith(OTHER_SPLITS) for part in path.relative_to(own).parts[:-1])
    }
    for names, where in ((held_out, 'elsewhere in it'), (inside, 'in folders of other splits')):
        if names:
            log.warning(
                'data set %r: %d training images are held out %s (%s, ...) and are left out',
                config.name, len(names), where, min(names),
            )  # fmt: skip
    return {name: path for name, path in images.items() if name not in held_out | inside}


def _part(folder: Path, pattern: str) -> dict[str, Path]:
    """Images of one part by name; raises DatasetError when two have the same."""
    found = ((path.name, path) for path in sorted(folder.rglob(f'*{IMAGE_SUFFIX}')))
    return by_name((name, path) for name, path in found if fnmatch(name, pattern))


def drivable_table_2018() -> NDArray[np.uint8]:
    """Masks of `drivable_maps`: 0 background, 1 direct, 2 alternative -> ours."""
    table = id_table(0)
    table[:3] = [DRIVABLE.classes.index(name) for name in ('background', 'direct', 'alternative')]
    return table


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

    Bit 3 is set where there is no marking; files are 255 there, which is no marking and not, as in
    other masks, unlabelled.
    """
    values = np.arange(256)
    table = np.where(values & LANE_BACKGROUND, 1, 0).astype(np.uint8)
    table[(values & ~LANE_USED_BITS != 0) & (values != UNLABELLED)] = UNKNOWN
    return table
