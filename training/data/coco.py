# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The general door: images, one COCO JSON and mask PNGs, in whatever folders (docs/data.md).

    ROOT/{images}/NAME.jpg|jpeg|png                 NAME may hold folders, as `file_name` does
    ROOT/{annotations}                              COCO: boxes, and `attributes` of an image
    ROOT/{masks.TASK.folder}/NAME{suffix}           ids by table

An image that the JSON lists is labelled for detection even when it has no annotation; one that it
does not list is unlabelled. `iscrowd` and `ignore` annotations are ignored regions.
"""

from __future__ import annotations

import difflib
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.truth.label_files import Frame, scalabel_frames
from mtl_evaluation.truth.labels import NOT_SCORED, RENAMED
from mtl_perception.tasks import DETECTION, Task
from training import tasks as kinds
from training.data.index import (
    UNKNOWN,
    CocoConfig,
    Index,
    LayoutConfig,
    MapFiles,
    MaskConfig,
    MaskFiles,
    as_dataset_error,
    image_attributes,
    mask_code,
    unlisted,
    unpaired,
)  # fmt: skip
from training.data.map_files import read_depth_cm, read_normals
from training.data.mask_values import road_above
from training.data.sample import DatasetError
from training.tasks.detection import SET_NAMES

log = logging.getLogger(__name__)

SUFFIXES = ('.jpg', '.jpeg', '.png')
BDD100K_NAMES = (*DETECTION.classes, *RENAMED, *NOT_SCORED, *SET_NAMES)
"""BDD100K's categories, older names of them, regions that are not scored, sets."""
MAP_READERS = {'depth': read_depth_cm, 'normals': read_normals}
"""By kind of task."""


def index(config: LayoutConfig, split: str) -> Index:
    """Files and frames of a split; raises DatasetError on a missing or unreadable label file."""
    coco = config.coco
    detection = config.task(coco.task, ('detection',), 'coco.task')
    folder = config.folder / coco.images.format(split=split)
    images = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob('*'))
        if path.suffix.lower() in SUFFIXES
    }
    images = {name: path for name, path in images.items() if fnmatch(name, config.pattern)}
    box_file = None
    frames: dict[str, Frame] = {}
    if coco.annotations:
        box_file = config.folder / coco.annotations.format(split=split)
        with as_dataset_error():
            found = scalabel_frames(box_file)
        _check_names(found, coco, detection, f'data set {config.name!r}: {box_file}')
        frames = {
            frame['name']: _renamed(frame, coco)
            for frame in found
            if fnmatch(frame['name'], config.pattern)
        }
    stems: dict[str, list[str]] = defaultdict(list)
    for name in images:
        stems[Path(name).with_suffix('').as_posix()].append(name)
    masks = {
        task: _masks(config, split, task, entry, stems) for task, entry in coco.masks.items()
    }  # fmt: skip
    hints = {task: unpaired(files, images) for task, files in masks.items()}
    maps = {task: _maps(config, split, task, folder, stems) for task, folder in coco.maps.items()}
    hints[detection.name] = unlisted(frames, images)
    hints = {task: hint for task, hint in hints.items() if hint}
    for task, files in masks.items():
        if doubt := road_above(task, files, images):
            log.warning('data set %r: %s', config.name, doubt)
    for task, hint in hints.items():
        log.warning('data set %r has no %s labels: %s', config.name, task, hint)
    labels = {
        task.name: _attribute(frames.values(), task, f'data set {config.name!r}: {box_file}')
        for name, task in config.known.items()
        if name in config.definitions and kinds.of(task).by_attribute
    }
    return Index(
        images, frames, masks, box_file, str(folder), coco.boxes, maps, labels=labels,
        detection=detection, hints=hints,
    )  # fmt: skip


def _check_names(frames: list[Frame], coco: CocoConfig, task: Task, where: str) -> None:
    """Every category of the file is told what it is: none is dropped by a misspelt table."""
    table, bdd100k = coco.categories, task == DETECTION
    names = BDD100K_NAMES if bdd100k else task.classes
    strange = [f'{name}: {to}' for name, to in table.items() if to is not None and to not in names]
    if strange:
        raise DatasetError(f'{where}: categories map to {strange}, expected some of {list(names)}')
    found = {label['category'] for frame in frames for label in frame['labels']}
    unmapped = sorted(found - set(table) - set(names))
    if unmapped:
        near = difflib.get_close_matches(unmapped[0], names, 1, 0)
        region = f'`{unmapped[0]}: other vehicle` for a region that is not scored, '
        raise DatasetError(
            f'{where}: categories {unmapped} are neither classes of {task.name} nor in '
            f'`coco.categories`; add e.g. `{unmapped[0]}: {near[0]}`, {region if bdd100k else ""}'
            f'`{unmapped[0]}: null` to leave it out, or train a detection task of your own '
            f'(docs/training.md)'
        )


def _attribute(frames: Iterable[Frame], task: Task, where: str) -> dict[str, Any]:
    """Image -> label of a task of one's own; raises DatasetError on values that are none."""
    found = {}
    for frame in frames:
        place = f'{where}: {frame["name"]}'
        value = image_attributes(frame, place).get(task.name)
        if value in (None, '', 'undefined'):
            continue
        try:
            found[frame['name']] = kinds.of(task).of_attribute(value, task)
        except ValueError as error:
            raise DatasetError(f'{place}: {error}') from error
    return found


def _renamed(frame: Frame, coco: CocoConfig) -> Frame:
    """The frame with the categories of the table; those that map to None are gone."""
    labels: list[Mapping[str, Any]] = []
    for label in frame['labels']:
        category = coco.categories.get(label['category'], label['category'])
        if category is not None:
            labels.append({**label, 'category': category})
    return {**frame, 'labels': labels}


def _masks(
    config: LayoutConfig, split: str, task: str, entry: MaskConfig, stems: Mapping[str, list[str]]
) -> MaskFiles:
    """Masks of one task, joined to the images by path without suffix."""
    where = f'data set {config.name!r}: coco.masks.{task}'
    owner = config.task(task, ('segmentation',), f'coco.masks.{task}')
    paths = _files(config, split, entry.folder, entry.suffix, stems, where)
    return MaskFiles(paths, _table(owner, entry, where))


def _maps(
    config: LayoutConfig, split: str, task: str, folder: str, stems: Mapping[str, list[str]]
) -> MapFiles:
    """Depth or normals of one task, joined likewise."""
    owner = config.task(task, tuple(MAP_READERS), f'coco.maps.{task}')
    where = f'data set {config.name!r}: coco.maps.{task}'
    paths = _files(config, split, folder, '.png', stems, where)
    return MapFiles(paths, MAP_READERS[owner.kind])


def _files(
    config: LayoutConfig, split: str, below: str, suffix: str, stems: Mapping[str, list[str]],
    where: str,
) -> dict[str, Path]:  # fmt: skip
    """Image name -> file of a folder; raises DatasetError where a file could be of two images."""
    folder = config.folder / below.format(split=split)
    if not folder.is_dir():
        raise DatasetError(f'{where}: no folder {folder}')
    paths = {}
    for path in sorted(folder.rglob(f'*{suffix}')):
        stem = path.relative_to(folder).as_posix().removesuffix(suffix)
        name, *others = stems.get(stem, [f'{stem}{SUFFIXES[0]}'])
        if others:
            raise DatasetError(
                f'{where}: {path} could be of any of the images {[name, *others]}, which differ in '
                f'their suffix only: expected one; rename or remove the others'
            )
        if fnmatch(name, config.pattern):
            paths[name] = path
    return paths


def _table(task: Task, entry: MaskConfig, where: str) -> NDArray[np.uint8]:
    """The id table of a mask configuration."""
    other = mask_code(task, entry.other, f'{where}.other') if entry.other else UNKNOWN
    table = np.full(256, other, np.uint8)
    for value, meaning in entry.ids.items():
        if not 0 <= value <= 255:
            raise DatasetError(f'{where}.ids: {value} is no value of an 8-bit mask')
        table[value] = mask_code(task, meaning, f'{where}.ids[{value}]')
    return table
