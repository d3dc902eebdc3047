# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Labels that a model wrote, for training images that no person labelled for a task.

A source names them by task (`teachers: {detection: det_teacher, drivable: road}`); each folder,
below `labels/` or absolute, is laid out as `python -m training.teach` writes it:

    FOLDER/det_{split}.json             Scalabel frames: boxes with score and crowd; attributes
    FOLDER/masks/{split}/NAME.png       our class ids and class sets, 255 = the teacher is not sure
    FOLDER/confidence/{split}/NAME.png  of soft labels: 0-255; pixels count in proportion to it

Boxes that are marked `soft` count in proportion to their scores.

What people labelled stays as it is. A teacher adds boxes of the classes that they left out, tells
classes apart that a mask names only as a set, and labels the tasks that an image has none of.
Validation reads no such labels: agreement with a teacher is no accuracy.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.truth.label_files import Frame, scalabel_frames
from mtl_perception import kinds
from mtl_perception.tasks import DRIVABLE, Task
from training.data.box_classes import checked, of_classes
from training.data.index import UNKNOWN, Index, LayoutConfig, MaskFiles, as_dataset_error, id_table
from training.data.sample import DatasetError
from training.tasks.segmentation import GROUPS

TRAIN = 'train'
"""The split that teachers complete."""


def can_be_taught(task: Task) -> bool:
    """Whether teachers can label a task: boxes, masks and classes of images."""
    kind = kinds.of(task)
    return kind.has_boxes or kind.is_mask or kind.is_label


def completed(index: Index, config: LayoutConfig, split: str) -> Index:
    """The index with the teachers' labels where it has none.

    Raises DatasetError for a task that no teacher can label, a folder without files, and labels
    that fit no unlabelled image.
    """
    if split != TRAIN:
        return index
    for name, folder in config.teachers.items():
        where = f'data set {config.name!r}: teachers.{name}'
        task = config.known.get(name)
        path = config.folder / 'labels' / Path(folder).expanduser()
        if task is None or not can_be_taught(task):
            known = [name for name, task in config.known.items() if can_be_taught(task)]
            raise DatasetError(f'{where}: no task that a teacher labels, expected one of {known}')
        if kinds.of(task).is_mask:
            index = _with_masks(index, config, task, path, where)
        elif kinds.of(task).is_label:
            index = _with_attribute(index, task, path / f'det_{split}.json', where)
        else:
            if task != index.detection:
                raise DatasetError(f'{where}: the boxes of this source are {index.detection.name}')
            index = _with_boxes(index, config, path / f'det_{split}.json', where)
        if not index.taught[name] and index.images:
            raise DatasetError(
                f'{where}: {path} adds nothing to the images that people labelled; expected labels '
                f'of what they left out, named as the images, such as {min(index.images)}'
            )
    return index


def _with_boxes(index: Index, config: LayoutConfig, path: Path, where: str) -> Index:
    """Teachers' boxes of the classes that people did not label in an image."""
    task = index.detection
    names = config.teacher_classes or task.classes
    taught_classes = checked(names, task, f'data set {config.name!r}: teacher_classes')
    frames, taught = dict(index.frames), set()
    covered = {image: frozenset(index.covers(image)) for image in index.frames}
    for name, frame in _frames(path, where).items():
        human = covered.get(name, frozenset())
        if name in index.images and (added := taught_classes - human):
            own = frames.get(name, {'name': name})
            found = [_thinned(label, name, path) for label in of_classes(frame, added, task)]
            labels = [*(own.get('labels') or ()), *found]
            frames[name] = {**own, 'labels': labels}
            covered[name] = human | added
            taught.add(name)
    box_file = index.box_file or path
    index = replace(index, frames=frames, boxed=True, box_file=box_file, covered=covered)
    return _taught(index, task, taught)


def _thinned(label: Mapping[str, Any], image: str, path: Path) -> Mapping[str, Any]:
    """A soft box as an ignored region with the probability that it is wrong.

    Over many boxes the loss is then that of boxes weighted by their scores. The same boxes of an
    image every time, as of a mask's pixels: a sample is a function of its index.
    """
    attributes = label.get('attributes')
    if not isinstance(attributes, Mapping) or not attributes.get('soft'):
        return label
    score = label.get('score')
    if not isinstance(score, int | float) or not 0 <= score <= 1:
        raise DatasetError(
            f'{path}: {image}: a box is soft and its score is {score!r}, expected 0 to 1'
        )
    seed = zlib.crc32(f'{image} {label.get("id")}'.encode())
    if np.random.default_rng(seed).random() < score:
        return label
    return {**label, 'attributes': {**attributes, 'crowd': True}}


def _with_attribute(index: Index, task: Task, path: Path, where: str) -> Index:
    frames, taught = dict(index.frames), set()
    covered = dict(index.covered)
    for name, frame in _frames(path, where).items():
        value = (frame.get('attributes') or {}).get(task.name)
        own = frames.get(name, {'name': name})
        attributes = own.get('attributes') or {}
        unlabelled = attributes.get(task.name) not in task.classes
        if name in index.images and value in task.classes and unlabelled:
            covered[name] = index.covers(name)
            frames[name] = {**own, 'attributes': {**attributes, task.name: value}}
            taught.add(name)
    return _taught(replace(index, frames=frames, covered=covered), task, taught)


def _with_masks(
    index: Index, config: LayoutConfig, task: Task, folder: Path, where: str
) -> Index:  # fmt: skip
    masks = folder / 'masks' / TRAIN
    if not masks.is_dir():
        raise DatasetError(f'{where}: no folder {masks}; python -m training.teach writes it')
    paths = _by_image(masks, index)
    confidence = _by_image(folder / 'confidence' / TRAIN, index)
    taught = MaskFiles(paths, teacher_table(task, config), confidence=confidence)
    human = index.masks.get(task.name, MaskFiles({}, taught.table))
    files = replace(human, paths={**paths, **human.paths}, taught=taught)
    coarse = ((human.table >= len(task.classes)) & (human.table < UNKNOWN)).any()
    return _taught(
        replace(index, masks={**index.masks, task.name: files}),
        task,
        paths if coarse else paths.keys() - human.paths,
    )


def teacher_table(task: Task, config: LayoutConfig) -> NDArray[np.uint8]:
    """Table of a teacher's masks, uint8 [256]: class ids and class sets are ours, 255 is unsure.

    Where the source tells no direct from alternative road, the teacher's road is either of them.
    """
    table = id_table(len(task.classes) + len(GROUPS.get(task.name, ())))
    if task == DRIVABLE and not config.drivable_split:
        table[:2] = len(DRIVABLE.classes)
    return table


def _by_image(folder: Path, index: Index) -> dict[str, Path]:
    """PNG files below a folder by the name of their image, joined without suffix."""
    names = {_stem(Path(name)): name for name in index.images}
    found = {_stem(path.relative_to(folder)): path for path in sorted(folder.rglob('*.png'))}
    return {names[stem]: path for stem, path in found.items() if stem in names}


def _stem(path: Path) -> str:
    return path.with_suffix('').as_posix()


def _taught(index: Index, task: Task, names: Collection[str]) -> Index:
    return replace(index, taught={**index.taught, task.name: frozenset(names)})


def _frames(path: Path, where: str) -> dict[str, Frame]:
    if not path.is_file():
        raise DatasetError(f'{where}: no file {path}; python -m training.teach writes it')
    with as_dataset_error():
        return {frame['name']: frame for frame in scalabel_frames(path)}
