# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What a data set offers before an image is read: where its files lie and what its ids mean.

A layout (`bdd100k.py`, `coco.py`) turns a configuration and a split into an `Index`; `layout.py`
reads samples from it, `check.py` looks for faults in it.
"""

from __future__ import annotations

import filecmp
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.truth.label_files import Frame, LabelError
from mtl_evaluation.truth.labels import read_mask
from mtl_perception.tasks import DETECTION, UNLABELLED, Task
from training.data.pictures import picture_size, read_picture
from training.data.sample import DatasetError
from training.task_definition import TaskDefinition, with_known
from training.tasks.segmentation import GROUPS

log = logging.getLogger(__name__)

UNKNOWN = 254
"""Table value of an id that a mask must not hold."""
GENERATED = 'scenes.json'
"""What a folder of generated scenes has."""
NOTHING = 'unlabelled'
"""Name, in configurations, of pixels without a label."""


@dataclass(frozen=True)
class MaskConfig:
    """Masks of one task in a COCO-style data set: single-channel PNGs named as their images.

    folder lies below the root; `{split}` in it is filled in. ids: mask value -> class name,
    `unlabelled`, or a list of class names that the mask does not tell apart (one of
    `training.tasks.segmentation.GROUPS`). other: the same for values that are not listed; without
    it they are an error.
    """

    folder: str
    ids: dict[int, Any]
    suffix: str = '.png'
    other: str = ''


@dataclass(frozen=True)
class CocoConfig:
    """Where a COCO-style data set has its files, below the root; `{split}` is filled in.

    task: the detection task of the boxes. categories: name in the file -> class of that task, None
    for what is to be left out; for BDD100K's `detection` also `other vehicle`, `other person` and
    `trailer`, regions that are neither right nor wrong. A category that is neither listed nor a
    class is an error. annotations may be empty where there are masks only; boxes False says that
    the file tells image attributes only. maps: task of kind depth or normals -> folder of 16-bit
    PNGs as in `map_files.py`.
    """

    images: str = 'images/{split}'
    annotations: str = 'annotations/instances_{split}.json'
    boxes: bool = True
    task: str = DETECTION.name
    categories: dict[str, str | None] = field(default_factory=dict)
    masks: dict[str, MaskConfig] = field(default_factory=dict)
    maps: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LayoutConfig:
    """Where a data set lies and what its labels mean.

    kind: a name of `layout.LAYOUTS`. pattern picks image names; labelled keeps images that have a
    label of one of these tasks. weight is the share of training draws. repeat_threshold: t of
    repeat-factor sampling over the classes of repeat_tasks (`sampling.py`), 0 draws uniformly. An
    optional data set that is not there is left out, with a log line.

    box_classes: the classes that people drew boxes of; by default all. train_only: the source has
    no validation split and takes no part in validation. teachers: task -> the folder, below
    `labels/` or absolute, with labels of a model for what people did not label in the training
    images; teacher_classes: the classes that its boxes cover (`teacher_labels.py`). terms,
    teacher_terms: what images and labels of people, and those of teachers, may be used for.

    For `bdd100k`: boxes is the folder of the box labels below `labels/`; semantic_masks that of the
    semantic labels, for `coarse7` its ids are class sets; drivable_split False says that the masks
    know road and background only, so that road means direct or alternative. For `coco`: see
    `CocoConfig`. definitions: tasks of the run's own, filled in from `RunConfig`.
    """

    name: str
    root: str
    kind: str = 'bdd100k'
    pattern: str = '*'
    labelled: list[str] = field(default_factory=list)
    weight: float = 1.0
    repeat_threshold: float = 0.0
    repeat_tasks: list[str] = field(default_factory=lambda: ['detection'])
    boxes: str = 'det_20'
    semantic_masks: str = 'sem_seg'
    drivable_split: bool = True
    box_classes: list[str] = field(default_factory=list)
    teachers: dict[str, str] = field(default_factory=dict)
    teacher_classes: list[str] = field(default_factory=list)
    terms: str = ''
    teacher_terms: str = ''
    train_only: bool = False
    optional: bool = False
    coco: CocoConfig = field(default_factory=CocoConfig)
    definitions: dict[str, TaskDefinition] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check ranges; raises ValueError."""
        if self.weight <= 0 or self.repeat_threshold < 0:
            raise ValueError(
                f'data set {self.name!r}: weight {self.weight}, repeat_threshold '
                f'{self.repeat_threshold}; expected above 0, and 0 or above'
            )

    @property
    def folder(self) -> Path:
        """The root as a path."""
        return Path(self.root).expanduser()

    @cached_property
    def known(self) -> dict[str, Task]:
        """Every task that the labels may be of, by name; raises DatasetError."""
        try:
            return with_known(self.definitions)
        except ValueError as error:
            raise DatasetError(f'data set {self.name!r}: {error}') from error

    def task(self, name: str, kinds: Collection[str], where: str) -> Task:
        """A task of one of some kinds; raises DatasetError at `where`, naming those there are."""
        found = self.known.get(name)
        if found is None or found.kind not in kinds:
            known = [task.name for task in self.known.values() if task.kind in kinds]
            raise DatasetError(
                f'data set {self.name!r}: {where}: {name!r} is not a {" or ".join(kinds)} task, '
                f'expected one of {known}, or one that `tasks` defines'
            )
        return found

    @property
    def generated(self) -> bool:
        """Whether the images are drawn (`python -m training.data.scenes`), not photographed."""
        return (self.folder / GENERATED).is_file()


@dataclass(frozen=True)
class MaskFiles:
    """Masks of one task: image name -> file, and a table uint8 [256] from file ids to ours.

    Ours are class ids, 255, class sets as in `training.tasks.segmentation`, or UNKNOWN. taught: the
    masks of a teacher, by which the class sets of an image's own mask are told apart, or which are
    its only ones. confidence: 8-bit maps of some images, 255 = certain.
    """

    paths: Mapping[str, Path]
    table: NDArray[np.uint8]
    read: Callable[[Path], NDArray[np.uint8]] = read_mask
    taught: MaskFiles | None = None
    confidence: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Pictures:
    """How a data set's images are read, as by the functions of `pictures.py`."""

    size: Callable[[Path], tuple[int, int]] = picture_size
    read: Callable[[Path, int], NDArray[np.uint8]] = read_picture


@dataclass(frozen=True)
class MapFiles:
    """Depth or normals: image name -> file, and what reads one.

    read gives float32, metres [H, W] or vectors [H, W, 3], zeros where unknown; it raises
    DatasetError (`map_files.py` has the usual forms).
    """

    paths: Mapping[str, Path]
    read: Callable[[Path], NDArray[np.float32]]


@dataclass(frozen=True)
class Index:
    """One split by image name. A frame or mask may lack its image, an image its labels.

    maps: depth and normals by task. labels: by task what else images are labelled with, class ids
    or of kinds that plug-ins add. detection: the
    task of the boxes. box_file is where the frames stand, for messages. folders are
    where images were looked for. boxed: the frames tell boxes, so that one without any is empty,
    not unlabelled. covered: image -> classes that its boxes cover, none where it is not labelled
    for detection; all of them where it is not listed. taught: task -> the images that have labels
    of a model, not only of people. hints: by task why
    it has no labels here although there seem to be some.
    """

    images: Mapping[str, Path]
    frames: Mapping[str, Frame]
    masks: Mapping[str, MaskFiles]
    box_file: Path | None
    folders: str
    boxed: bool = True
    maps: Mapping[str, MapFiles] = field(default_factory=dict)
    pictures: Pictures = field(default_factory=Pictures)
    labels: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    detection: Task = DETECTION
    covered: Mapping[str, Collection[str]] = field(default_factory=dict)
    taught: Mapping[str, Collection[str]] = field(default_factory=dict)
    hints: Mapping[str, str] = field(default_factory=dict)

    def covers(self, name: str) -> Collection[str]:
        """Classes that the boxes of an image cover; none where it is unlabelled for detection."""
        if not self.boxed or name not in self.frames:
            return ()
        return self.covered.get(name, self.detection.classes)


def image_attributes(frame: Frame, where: str) -> Mapping[str, Any]:
    """What a frame says of its whole image; raises DatasetError, naming `where`, if malformed."""
    given = frame.get('attributes') or {}
    if not isinstance(given, Mapping):
        raise DatasetError(
            f'{where}: `attributes` is {given!r}, expected a mapping such as {{"weather": "clear"}}'
        )
    return given


def by_name(found: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """(name, file) pairs as a table; copies of one file count once.

    Raises DatasetError for two files of one name: a label could be of either.
    """
    files: dict[str, Path] = {}
    copies = []
    for name, path in found:
        other = files.setdefault(name, path)
        if other == path:
            continue
        if not filecmp.cmp(path, other, shallow=False):
            raise DatasetError(
                f'{path} and {other} have the same name, by which labels find their image here: '
                f'expected each name once. Rename one, or take `kind: coco`, which goes by path'
            )
        copies.append(path)
    if copies:
        log.warning(
            '%d files are copies of others of the same name and count once: %s, ...',
            len(copies), copies[0],
        )  # fmt: skip
    return files


def unpaired(files: MaskFiles, images: Mapping[str, Path]) -> str:
    """Says so when masks are there and none belongs to an image; empty otherwise."""
    if not files.paths or not images or not files.paths.keys().isdisjoint(images):
        return ''
    return (
        f'{len(files.paths)} masks are there and none is named as an image; the first mask is '
        f'{min(files.paths.values())}, the first image {min(images.values())}'
    )


def unlisted(frames: Mapping[str, Frame], images: Mapping[str, Path]) -> str:
    """Says so when frames are there and none is of an image; empty otherwise."""
    if not frames or not images or not frames.keys().isdisjoint(images):
        return ''
    return (
        f'{len(frames)} images are in the label file and none is there; the first that it lists '
        f'is {min(frames)}, the first image {min(images)}'
    )


def id_table(codes: int) -> NDArray[np.uint8]:
    """Table of masks whose ids are ours already: 0 to codes - 1, and 255."""
    table = np.full(256, UNKNOWN, np.uint8)
    table[:codes] = np.arange(codes)
    table[UNLABELLED] = UNLABELLED
    return table


def mask_code(task: Task, meaning: str | Sequence[str], where: str) -> int:
    """Class name, class names or `unlabelled` -> mask value; raises DatasetError at `where`."""
    if meaning == NOTHING:
        return UNLABELLED
    names = [meaning] if isinstance(meaning, str) else list(meaning)
    unknown = [name for name in names if name not in task.classes]
    if unknown:
        raise DatasetError(
            f'{where}: {task.name} has no class {unknown}, expected {NOTHING!r} or some of '
            f'{list(task.classes)}'
        )
    members = tuple(sorted(task.classes.index(name) for name in names))
    if len(members) == 1:
        return members[0]
    sets = GROUPS.get(task.name, ())
    if members not in sets:
        known = [[task.classes[i] for i in group] for group in sets]
        raise DatasetError(f'{where}: class set {names} is not one of {known} of {task.name}')
    return len(task.classes) + sets.index(members)


@contextmanager
def as_dataset_error() -> Iterator[None]:
    """Errors of label files, which replay shares, are data set errors here."""
    try:
        yield
    except LabelError as error:
        raise DatasetError(str(error)) from error
