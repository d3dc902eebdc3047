# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""One split of a data set as samples, whatever layout its files are in.

Labels are kept as a few flat arrays: a split of 70,000 frames takes some 40 MB, of which every
loader worker (spawned) has a copy.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.truth.label_files import Frame, flag, number
from mtl_evaluation.truth.labels import truth_boxes
from mtl_perception.tasks import DETECTION, SCENE, TIME_OF_DAY, UNLABELLED, WEATHER, Task
from training.data import bdd100k, cityscapes, coco, coco2017, comma10k, nyuv2, office31, voc
from training.data.box_classes import restricted, set_code
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
)  # fmt: skip
from training.data.pictures import largest_shrink
from training.data.sample import Boxes, DatasetError, Sample
from training.data.teacher_labels import TRAIN, completed
from training.tasks.segmentation import GROUPS

__all__ = [
    'ATTRIBUTES', 'LAYOUTS', 'CocoConfig', 'Layout', 'LayoutConfig', 'MaskConfig', 'box_rows',
    'image_attributes', 'mask_of', 'open_index', 'open_layouts',
]  # fmt: skip

log = logging.getLogger(__name__)

ATTRIBUTES = (WEATHER, SCENE, TIME_OF_DAY)

LAYOUTS: dict[str, Callable[[LayoutConfig, str], Index]] = {
    'bdd100k': bdd100k.index,
    'coco': coco.index,
    'coco2017': coco2017.index,
    'comma10k': comma10k.index,
    'nyuv2': nyuv2.index,
    'cityscapes': cityscapes.index,
    'voc': voc.index,
    'office31': office31.index,
}


class Layout:
    """Samples of one split; `load(i)` reads one.

    Raises DatasetError when the split has no images, on a label file that cannot be read and on a
    label that is malformed.
    """

    def __init__(self, config: LayoutConfig, split: str) -> None:
        """Index by image name; reads the label file, no image and no mask."""
        self.config = config
        self.split = split
        index = open_index(config, split)
        self.masks = index.masks
        self.maps = index.maps
        self.detection = index.detection
        self._pictures = index.pictures
        self.labels = index.labels
        self.hints = index.hints
        names = sorted(index.images)
        if config.labelled:
            names = [name for name in names if _tasks(index, name) & set(config.labelled)]
        if not names:
            labelled = f', labelled for any of {config.labelled}' if config.labelled else ''
            raise DatasetError(
                f'data set {config.name!r}: no images {config.pattern!r}{labelled} under '
                f'{index.folders}; see docs/data.md for the layouts'
            )
        self.names = names
        self.paths = [index.images[name] for name in names]
        self._covered = np.array(
            [[c in index.covers(name) for c in index.detection.classes] for name in names]
        )
        self._boxed = self._covered.any(axis=1)
        self._attributes = np.full((len(names), len(ATTRIBUTES)), -1, np.int8)
        rows = [
            box_rows(index.frames.get(name, {}), f'{index.box_file}: {name}', index.detection)
            for name in names
        ]
        for row, name in enumerate(names):
            self._attributes[row] = _attributes(index, name)
        taught = index.taught.get(index.detection.name, ())
        self._complete = np.array([name not in taught for name in names])
        self._first = np.cumsum([0, *(len(boxes.labels) for boxes in rows)])
        self._boxes = _joined(rows)
        self._leave_out_inverted()

    def __len__(self) -> int:
        """Number of images of the split."""
        return len(self.names)

    def size(self, index: int) -> tuple[int, int]:
        """Width and height of an image, without decoding it; raises DatasetError."""
        return self._pictures.size(self.paths[index])

    def tasks(self, index: int) -> set[str]:
        """Names of the tasks that the index-th image is labelled for."""
        name = self.names[index]
        found = _files_of(name, self.masks, self.maps)
        found |= {
            task.name
            for task, value in zip(ATTRIBUTES, self._attributes[index], strict=True)
            if value >= 0
        }
        found |= {task for task, ids in self.labels.items() if name in ids}
        return found | ({self.detection.name} if self._boxed[index] else set())

    def labelled(self) -> set[str]:
        """Tasks that any image of the split is labelled for."""
        files: dict[str, MaskFiles | MapFiles] = {**self.masks, **self.maps}
        names = set(self.names)
        found = {task for task, each in files.items() if not names.isdisjoint(each.paths)}
        found |= {task for task, ids in self.labels.items() if not names.isdisjoint(ids)}
        told = [bool((column >= 0).any()) for column in self._attributes.T]
        found |= {task.name for task, any_told in zip(ATTRIBUTES, told, strict=True) if any_told}
        return found | ({self.detection.name} if self._boxed.any() else set())

    def has_objects(self) -> bool:
        """Whether any image has a box that is no ignored region."""
        return bool((~self._boxes.ignored).any())

    def classes(self, index: int, task: str) -> NDArray[np.int64]:
        """Class ids of a task that an image shows; for a segmentation task its mask is read.

        Raises DatasetError for a task without classes.
        """
        if task == self.detection.name:
            boxes = self.boxes(index)
            known = boxes.labels < len(self.detection.classes)  # of a set nobody knows the class
            return np.unique(boxes.labels[~boxes.ignored & known])
        if task in self.labels:
            if not self.config.known[task].classes:
                raise self._without_classes(task)
            label = self.labels[task].get(self.names[index])
            return np.array([] if label is None else [label], np.int64)
        for column, attribute in enumerate(ATTRIBUTES):
            if attribute.name == task:
                value = self._attributes[index, column]
                return np.array([value] if value >= 0 else [], np.int64)
        if task not in self.masks:
            raise self._without_classes(task)
        mask = self._mask(task, self.names[index], self.size(index))
        values = np.bincount(mask.ravel(), minlength=256)[: len(self.config.known[task].classes)]
        return np.flatnonzero(values)

    def _without_classes(self, task: str) -> DatasetError:
        return DatasetError(
            f'data set {self.config.name!r}: task {task!r} has no classes in its labels; '
            f'expected one with boxes, masks or image attributes'
        )

    def boxes(self, index: int) -> Boxes:
        """Truth boxes of the index-th image, in its pixels; empty where it is not labelled."""
        rows = slice(self._first[index], self._first[index + 1])
        found = self._boxes
        labels = found.labels[rows].astype(np.int64)
        covered, complete = self._covered[index], bool(self._complete[index])
        return Boxes(found.xyxy[rows], labels, found.ignored[rows], covered, complete)

    def load(
        self, index: int, scale: float = 1.0, tasks: Collection[str] | None = None
    ) -> Sample:  # fmt: skip
        """Read image and labels of the index-th name; raises DatasetError naming a broken file.

        scale: what the caller is going to resize the image by; it may then come smaller than its
        labels, which `Sample.shrink` tells. tasks: which labels are wanted; all by default.
        """
        name, path = self.names[index], self.paths[index]
        width, height = self.size(index)
        shrink = largest_shrink(scale)
        image = self._pictures.read(path, shrink)
        if image.shape[:2] == (height, width):
            shrink = 1
        elif image.shape[:2] != (-(-height // shrink), -(-width // shrink)):
            raise DatasetError(
                f'{path}: decodes as {image.shape[:2]}, its header says {(height, width)}'
            )
        wanted = self.tasks(index) if tasks is None else self.tasks(index) & set(tasks)
        classes, others = self._labels(name, wanted)
        return Sample(
            name,
            self.config.name,
            image,
            {t: self.boxes(index) for t in [self.detection.name] if t in wanted},
            {t: self._mask(t, name, (width, height)) for t in self.masks if t in wanted},
            {
                task.name: int(value)
                for task, value in zip(ATTRIBUTES, self._attributes[index], strict=True)
                if task.name in wanted
            }
            | classes,
            {t: self._map(t, name, (width, height)) for t in self.maps if t in wanted},
            shrink,
            others=others,
        )

    def _labels(
        self, name: str, wanted: Collection[str]
    ) -> tuple[dict[str, int], dict[str, dict[str, Any]]]:
        """Class ids by task, and labels of other kinds by kind and task."""
        classes: dict[str, int] = {}
        others: dict[str, dict[str, Any]] = {}
        for task, labels in self.labels.items():
            if task in wanted:
                known = self.config.known[task]
                of_kind = classes if known.classes else others.setdefault(known.kind, {})
                of_kind[task] = labels[name]
        return classes, others

    def _mask(self, task: str, name: str, size: tuple[int, int]) -> NDArray[np.uint8]:
        return mask_of(self.masks[task], name, size, self.config.known[task])

    def _map(self, task: str, name: str, size: tuple[int, int]) -> NDArray[np.float32]:
        path = self.maps[task].paths[name]
        values = self.maps[task].read(path)
        if values.shape[:2] != size[::-1]:
            raise DatasetError(f'{path}: {task} is {values.shape[:2]}, its image is {size[::-1]}')
        return values

    def _leave_out_inverted(self) -> None:
        """Boxes whose corners are exchanged or not finite would poison a loss."""
        xyxy = self._boxes.xyxy
        sound = np.isfinite(xyxy).all(axis=1) & (xyxy[:, 2:] >= xyxy[:, :2]).all(axis=1)
        if sound.all():
            return
        log.warning(
            'data set %r: %d of %d boxes are inverted or not finite and are left out; '
            '`python -m training.data.check` names them', self.config.name, (~sound).sum(),
            sound.size,
        )  # fmt: skip
        self._first = np.concatenate(([0], np.cumsum(sound)))[self._first]
        boxes = self._boxes
        self._boxes = Boxes(xyxy[sound], boxes.labels[sound], boxes.ignored[sound])


def open_index(config: LayoutConfig, split: str) -> Index:
    """The files of a split; raises DatasetError, also for a kind that there is not."""
    if config.kind not in LAYOUTS:
        raise DatasetError(
            f'data set {config.name!r}: kind {config.kind!r}, expected one of {list(LAYOUTS)}'
        )
    return completed(restricted(LAYOUTS[config.kind](config, split), config), config, split)


def open_layouts(configs: Sequence[LayoutConfig], split: str) -> list[Layout]:
    """Open a split of every data set; raises DatasetError when one that is needed is missing."""
    layouts = []
    for config in configs:
        if config.optional and not config.folder.is_dir():
            log.warning('data set %r left out: no folder %s', config.name, config.root)
            continue
        if config.train_only and split != TRAIN:
            continue
        layouts.append(Layout(config, split))
    if not layouts:
        raise DatasetError(
            f'none of the data sets {[c.name for c in configs]} is there or has a split {split!r}; '
            f'`python -m training.data.scenes` draws one'
        )
    return layouts


def box_rows(frame: Frame, where: str, task: Task = DETECTION) -> Boxes:
    """Truth boxes of a frame; raises DatasetError, naming `where`, on a malformed label."""
    try:
        if task != DETECTION:
            return _own_boxes(frame, task)
        labels = frame.get('labels') or []
        truth = truth_boxes(labels)
        codes = [set_code(label) for label in labels if label.get('box2d')]
        crowds = [_is_region(label) for label in labels if label.get('box2d')]
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise DatasetError(
            f'{where}: a label is malformed ({type(error).__name__}: {error}); expected '
            f'`category` and `box2d` with x1, y1, x2, y2'
        ) from error
    ids = [
        DETECTION.classes.index(name) if code is None else code
        for name, code in zip(truth.classes, codes, strict=True)
    ]
    # A class set is no class of BDD100K, for which an unknown category is an ignored region.
    of_set = np.array([code is not None for code in codes], bool)
    ignored = np.where(of_set, np.array(crowds, bool), truth.ignore)
    return Boxes(truth.boxes, np.array(ids, np.int64), ignored)


def _is_region(label: Mapping[str, Any]) -> bool:
    attributes = label.get('attributes') or {}
    return flag(attributes.get('crowd')) or flag(attributes.get('suspectMerged'))


def _own_boxes(frame: Frame, task: Task) -> Boxes:
    """Of another task than BDD100K's, whose categories are the task's classes."""
    labels = frame.get('labels') or []
    keys = ('x1', 'y1', 'x2', 'y2')
    corners = [[number(label['box2d'][key]) for key in keys] for label in labels]
    return Boxes(
        np.array(corners, np.float32).reshape(-1, 4),
        np.array([task.classes.index(label['category']) for label in labels], np.int64),
        np.array([_is_ignored(label['attributes']) for label in labels], bool),
    )


def _is_ignored(attributes: Mapping[str, Any]) -> bool:
    return flag(attributes.get('ignored')) or flag(attributes.get('crowd'))


def mask_of(
    files: MaskFiles, name: str, size: tuple[int, int], task: Task
) -> NDArray[np.uint8]:  # fmt: skip
    """The mask of an image in our ids; raises DatasetError on a wrong size and unknown ids.

    Where a teacher has a mask too, its class takes the place of the class set that it is in.
    """
    own = files.paths[name]
    taught = files.taught.paths.get(name) if files.taught else None
    if files.taught is None or taught is None:
        return _mask_in(own, files, size)
    fine = _thinned(_mask_in(taught, files.taught, size), files.taught, name)
    if own == taught:
        return fine
    mask = _mask_in(own, files, size)
    for code, members in enumerate(GROUPS.get(task.name, ()), len(task.classes)):
        told = (mask == code) & np.isin(fine, members)
        mask[told] = fine[told]
    return mask


def _thinned(mask: NDArray[np.uint8], files: MaskFiles, name: str) -> NDArray[np.uint8]:
    """The mask with each pixel unlabelled with the probability that its label is wrong.

    The mean loss over many pixels is then that of labels weighted by their confidence. The same
    pixels of an image every time: a sample is a function of its index.
    """
    if name not in files.confidence:
        return mask
    path = files.confidence[name]
    with as_dataset_error():
        confidence = files.read(path)
    if confidence.shape != mask.shape:
        raise DatasetError(f'{path}: {confidence.shape}, its mask is {mask.shape}')
    noise = np.random.default_rng(zlib.crc32(name.encode())).integers(0, 255, mask.shape)
    return np.where(noise < confidence, mask, UNLABELLED).astype(np.uint8)


def _mask_in(path: Path, files: MaskFiles, size: tuple[int, int]) -> NDArray[np.uint8]:
    with as_dataset_error():
        mask = files.read(path)
    width, height = size
    if mask.shape != (height, width):
        raise DatasetError(f'{path}: mask is {mask.shape}, its image is {(height, width)}')
    ours = np.asarray(cv2.LUT(mask, files.table), np.uint8)
    if (ours == UNKNOWN).any():
        known = np.flatnonzero(files.table != UNKNOWN)
        unknown = np.setdiff1d(mask, known)
        raise DatasetError(
            f'{path}: unknown ids {unknown.tolist()}, expected some of {known.tolist()}'
        )
    return ours


def _tasks(index: Index, name: str) -> set[str]:
    """Tasks that an image has labels for, before the labels are read into arrays."""
    found = _files_of(name, index.masks, index.maps)
    found |= {task for task, ids in index.labels.items() if name in ids}
    if name in index.frames:
        found |= {index.detection.name} if index.covers(name) else set()
        values = _attributes(index, name)
        found |= {task.name for task, v in zip(ATTRIBUTES, values, strict=True) if v >= 0}
    return found


def _files_of(name: str, masks: Mapping[str, MaskFiles], maps: Mapping[str, MapFiles]) -> set[str]:
    """Tasks that have a file for an image."""
    files: dict[str, MaskFiles | MapFiles] = {**masks, **maps}
    return {task for task, found in files.items() if name in found.paths}


def _attributes(index: Index, name: str) -> list[int]:
    """Class ids of the image attributes, -1 for `undefined` and what is missing."""
    given = image_attributes(index.frames.get(name, {}), f'{index.box_file}: {name}')
    return [
        task.classes.index(given[task.name]) if given.get(task.name) in task.classes else -1
        for task in ATTRIBUTES
    ]


def _joined(rows: Sequence[Boxes]) -> Boxes:
    return Boxes(
        np.concatenate([boxes.xyxy for boxes in rows]),
        np.concatenate([boxes.labels for boxes in rows]).astype(np.int16),
        np.concatenate([boxes.ignored for boxes in rows]),
    )
