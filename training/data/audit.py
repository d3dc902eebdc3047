# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What is in a data set and what is wrong with it, file by file: the work behind `check.py`.

Broken (training would stop, skip or learn something false): files that do not decode, truncated
JPEGs, masks of another size than their image, with unknown ids or in another coding, masks of which
none belongs to an image, malformed labels, boxes that are inverted or outside the image, one
picture in two splits. Notes: labels without image and images without label, labels that must be
drawn as masks first, images and boxes listed twice, boxes over the border, categories and attribute
values that no task has.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from rich.progress import track

from mtl_evaluation.truth.label_files import Frame
from mtl_evaluation.truth.labels import NOT_SCORED, RENAMED
from mtl_perception.tasks import ALL_TASKS, DETECTION, SEMANTIC, UNLABELLED, Task
from training.data import bdd100k
from training.data.box_classes import label_names
from training.data.index import NOTHING, Index, LayoutConfig, MaskFiles, unpaired
from training.data.layout import ATTRIBUTES, box_rows, image_attributes, mask_of, open_index
from training.data.mask_values import road_above
from training.data.pictures import picture_size, read_picture
from training.data.sample import DatasetError
from training.tasks.detection import SET_NAMES
from training.tasks.segmentation import GROUPS

OVER_BORDER = 1.0
"""Pixels that a box may reach over the image without a note: labelling tools round."""
UNDEFINED = ('undefined', '', None)
COARSE = 'coarse7'
"""Folder of semantic masks whose ids are class sets."""


@dataclass(frozen=True)
class Finding:
    """One fault or note. kind groups them; where is a file, or a file and a name in it."""

    kind: str
    where: str
    text: str = ''
    broken: bool = True


@dataclass
class SplitAudit:
    """Counts of one split of one data set, and what was found in it.

    labelled: task -> images. classes: task -> class -> boxes, pixels or images. digests: content of
    an image file -> its path. known: the tasks there are, by name.
    """

    source: str
    split: str
    images: int = 0
    labelled: Counter[str] = field(default_factory=Counter)
    classes: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    findings: list[Finding] = field(default_factory=list)
    digests: dict[str, Path] = field(default_factory=dict)
    known: Mapping[str, Task] = field(default_factory=lambda: ALL_TASKS)


@dataclass(frozen=True)
class _Read:
    """An image that was read: size (width, height) if sound, pixels by task and mask value."""

    name: str
    digest: str
    size: tuple[int, int] | None
    pixels: Mapping[str, np.ndarray]
    findings: tuple[Finding, ...]


def audit(config: LayoutConfig, split: str, workers: int) -> SplitAudit:
    """Read every file of a split once; raises DatasetError when its label file cannot be read."""
    result = SplitAudit(config.name, split, known=config.known)
    index = open_index(config, split)
    if config.kind == 'bdd100k':
        index = replace(index, masks={**index.masks, **_coarse_masks(config, split)})
    if not index.images:
        result.findings.append(Finding('split without images', index.folders))
    result.images = len(index.images)
    result.findings += _unpaired(index)
    for read in _read_all(index, config.known, workers, f'{config.name} {split}'):
        result.findings += read.findings
        if read.digest in result.digests:
            result.findings.append(
                Finding(
                    'same picture twice in a split',
                    str(index.images[read.name]),
                    str(result.digests[read.digest]),
                    broken=False,
                )
            )
        elif read.digest:
            result.digests[read.digest] = index.images[read.name]
        for task, pixels in read.pixels.items():
            _count_mask(result, task, pixels, config.known)
        if read.name in index.frames:
            where = f'{index.box_file}: {read.name}'
            result.findings += check_frame(
                index.frames[read.name], read.size, where, index.detection
            )
    for name in index.images:
        if name in index.frames:
            _count_frame(result, index, name)
        for task, ids in index.labels.items():
            if name in ids:
                result.labelled[task] += 1
                result.classes[task][config.known[task].classes[ids[name]]] += 1
    return result


def shared_pictures(audits: Iterable[SplitAudit]) -> Iterator[Finding]:
    """Files of the same content in different splits, of whatever data sets."""
    seen: dict[str, tuple[str, Path]] = {}
    for one in audits:
        for digest, path in one.digests.items():
            split, other = seen.setdefault(digest, (one.split, path))
            if split != one.split:
                yield Finding('same picture in two splits', str(path), str(other))


def check_frame(
    frame: Frame, size: tuple[int, int] | None, where: str, detection: Task = DETECTION
) -> list[Finding]:
    """Faults of one frame's labels; size of its image (width, height), None when it is broken."""
    found = []
    attributes: Mapping[str, object] = {}
    try:
        attributes = image_attributes(frame, where)
    except DatasetError as error:
        found.append(Finding('malformed label', where, str(error)))
    for task in ATTRIBUTES:
        value = attributes.get(task.name)
        if value not in (*task.classes, *UNDEFINED):
            found.append(Finding(f'unknown {task.name}', where, repr(value), broken=False))
    try:
        boxes = box_rows(frame, where, detection)
    except DatasetError as error:
        return [*found, Finding('malformed label', where, str(error))]
    more = (*RENAMED, *NOT_SCORED, *SET_NAMES) if detection == DETECTION else ()
    known = (*detection.classes, *more)
    strange = {label['category'] for label in frame.get('labels') or [] if label.get('box2d')}
    for category in sorted(map(str, strange - set(known))):
        found.append(Finding('unknown category, ignored region', where, category, broken=False))
    told = frame.get('size')
    if told and not (isinstance(told, Mapping) and {'width', 'height'} <= told.keys()):
        text = f'`size` is {told!r}, expected `width` and `height`'
        found.append(Finding('malformed label', where, text))
    elif size and told and (told['width'], told['height']) != size:
        found.append(Finding('image has another size than its labels say', where, f'{size}'))
    if listed := frame.get('listed'):
        text = f'{listed} times; its labels are taken together'
        found.append(Finding('image listed more than once', where, text, broken=False))
    told_boxes = np.column_stack([boxes.xyxy, boxes.labels])
    for box in told_boxes[_repeated(told_boxes)]:
        text = np.array2string(box[:4], precision=1)
        found.append(Finding('same box twice', where, text, broken=False))
    for box in boxes.xyxy:
        text = np.array2string(box, precision=1)
        if not np.isfinite(box).all() or (box[2:] < box[:2]).any():
            found.append(Finding('box inverted or not finite', where, text))
        elif size and ((box[:2] >= size).any() or (box[2:] <= 0).any()):
            found.append(Finding('box outside its image', where, f'{text} in {size}'))
        elif (box[2:] == box[:2]).any():
            found.append(Finding('box without area', where, text, broken=False))
        elif size and (box[:2].min() < -OVER_BORDER or (box[2:] > np.add(size, OVER_BORDER)).any()):
            found.append(Finding('box over the border', where, f'{text} in {size}', broken=False))
    return found


def _repeated(rows: np.ndarray) -> np.ndarray:
    """Indices of the rows that are equal to an earlier one."""
    _, first = np.unique(rows, axis=0, return_index=True)
    return np.setdiff1d(np.arange(len(rows)), first)


def _coarse_masks(config: LayoutConfig, split: str) -> dict[str, MaskFiles]:
    """Masks of the coarse classes beside fine ones: another configuration may read them."""
    if config.semantic_masks == COARSE:
        return {}
    masks = bdd100k.mask_files(replace(config, semantic_masks=COARSE), split, SEMANTIC.name)
    return {COARSE: masks} if masks.paths else {}


def _unpaired(index: Index) -> list[Finding]:
    """Labels without image, and images without any label."""
    found = []
    for task, files in index.masks.items():
        if hint := unpaired(files, index.images):
            found.append(Finding(f'no {task} mask belongs to an image', index.folders, hint))
        if doubt := road_above(task, files, index.images):
            found.append(Finding(f'{task} masks in another coding', index.folders, doubt))
    for task, hint in index.hints.items():
        if task not in index.masks and task != index.detection.name:
            found.append(Finding(f'{task} labels that are not read', index.folders, hint, False))
    labelled = set(index.frames)
    for name in sorted(set(index.frames) - set(index.images)):
        found.append(Finding('boxes without image', f'{index.box_file}: {name}', broken=False))
    for task, files in index.masks.items():
        labelled |= set(files.paths)
        for name in sorted(set(files.paths) - set(index.images)):
            path = str(files.paths[name])
            found.append(Finding(f'{task} mask without image', path, broken=False))
    for name in sorted(set(index.images) - labelled):
        found.append(Finding('image without label', str(index.images[name]), broken=False))
    if index.frames and not set(index.frames) & set(index.images):
        found.append(Finding('no image of the label file is there', str(index.box_file)))
    return found


def _read_all(index: Index, known: Mapping[str, Task], workers: int, title: str) -> Iterator[_Read]:
    """Every image with its masks, with progress. Decoding leaves the interpreter to others."""
    with ThreadPoolExecutor(workers) as pool:
        done = pool.map(partial(_read, index, known), index.images)
        yield from track(done, description=title, total=len(index.images))


def _read(index: Index, known: Mapping[str, Task], name: str) -> _Read:
    path = index.images[name]
    masks = [(task, files) for task, files in index.masks.items() if name in files.paths]
    try:
        height, width = read_picture(path).shape[:2]
        if (told := picture_size(path)) != (width, height):
            raise DatasetError(
                f'{path}: decodes as {(height, width)}, its header says {told[::-1]}'
            )
        digest = hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()
    except DatasetError as error:
        found = Finding('image does not decode', str(path), str(error))
        return _Read(name, '', None, {}, (found,))
    pixels, findings = {}, []
    for task, files in masks:
        try:
            fine = SEMANTIC if task == COARSE else known[task]
            mask = mask_of(files, name, (width, height), fine)
            pixels[task] = cv2.calcHist([mask], [0], None, [256], [0, 256])[:, 0].astype(np.int64)
        except DatasetError as error:
            findings.append(Finding('broken mask', str(files.paths[name]), str(error)))
    return _Read(name, digest, (width, height), pixels, tuple(findings))


def _count_mask(
    result: SplitAudit, task: str, pixels: np.ndarray, known: Mapping[str, Task]
) -> None:
    result.labelled[task] += 1
    table = SEMANTIC if task == COARSE else known[task]
    for value in np.flatnonzero(pixels):
        if value == UNLABELLED:
            name = NOTHING
        elif value < len(table.classes):
            name = table.classes[value]
        else:
            members = GROUPS[table.name][value - len(table.classes)]
            name = '|'.join(table.classes[member] for member in members)
        result.classes[task][name] += int(pixels[value])


def _count_frame(result: SplitAudit, index: Index, name: str) -> None:
    try:
        attributes = image_attributes(index.frames[name], name)
        boxes = box_rows(index.frames[name], name, index.detection)
    except DatasetError:
        return  # reported by check_frame
    for task in ATTRIBUTES:
        value = attributes.get(task.name)
        if value in task.classes:
            result.labelled[task.name] += 1
            result.classes[task.name][str(value)] += 1
    if not index.covers(name):
        return
    result.labelled[index.detection.name] += 1
    counts = result.classes[index.detection.name]
    for label, ignored in zip(boxes.labels, boxes.ignored, strict=True):
        counts['ignored' if ignored else '|'.join(label_names(label, index.detection))] += 1
