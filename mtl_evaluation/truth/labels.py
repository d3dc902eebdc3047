# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Labels in the BDD100K layout -> Truth, by image name.

    images/.../NAME.jpg
    labels/det_20/det_*.json            Scalabel frames: boxes, and attributes of the whole image
    labels/*_track_20/**/*.json         Scalabel frames of clips
    labels/bdd100k_labels_images_*.json, labels/100k/*/NAME.json    the same, of 2018
    labels/{drivable,sem_seg}/masks/**/NAME.png     index = class id, 255 = unlabelled
    labels/{depth,normals}/**/NAME.png              16 bits, see `map_files.py`

or of a MOTChallenge sequence, SEQUENCE/img1/NAME.jpg and SEQUENCE/gt/gt.txt.

A frame that a box file lists is labelled for detection even when it has no box; an attribute
`undefined`, a missing mask and a frame that no file lists are unlabelled.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mtl_evaluation.truth.label_files import LabelError, flag, number, scalabel_frames
from mtl_evaluation.truth.map_files import MAP_READERS
from mtl_evaluation.truth.mot import is_mot_sequence
from mtl_evaluation.truth.truth import Truth, TruthBoxes
from mtl_perception import kinds
from mtl_perception.tasks import DEPTH, DETECTION, DRIVABLE, NORMALS, SEMANTIC, TASKS, Task

PARENTS = 5
"""How many folders above the images are searched for `labels/`."""

MASK_FOLDERS = {DRIVABLE.name: 'drivable', SEMANTIC.name: 'sem_seg'}
"""By task, where its files are unless its folder has the name of the task."""

RENAMED = {
    'bike': 'bicycle',
    'caravan': 'car',
    'motor': 'motorcycle',
    'person': 'pedestrian',
    'van': 'car',
}
"""`name_mapping` of the BDD100K toolkit's `configs/det.toml`."""

NOT_SCORED = {'other person': 'pedestrian', 'other vehicle': 'car', 'trailer': 'truck'}
"""`ignore_mapping` of the same file: the class whose detections on such a box are forgiven."""


class FolderLabels:
    """The labels beside some images; `truth(name)` of an image without any is empty."""

    def __init__(self, images: Sequence[Path], tasks: Sequence[Task] = ()) -> None:
        """Look for `labels/` beside and above the first; raises LabelError on unreadable files.

        tasks: what may be labelled beside the package's own.
        """
        self.root = find_labels(images[0].parent)
        self._tasks = tasks
        self._frames: dict[str, Mapping[str, Any]] = {}
        self._masks: dict[str, dict[str, Path]] = {name: {} for name in readers(tasks)}
        sequence = images[0].parent.parent
        if is_mot_sequence(sequence):
            for frame in scalabel_frames(sequence / 'gt' / 'gt.txt'):
                self._frames[frame['name']] = frame
            return
        if self.root is None:
            return
        names = {path.name for path in images}
        parts = {part for path in images for part in path.parent.parts}
        for path in box_files(self.root, parts):
            for frame in scalabel_frames(path):
                if frame['name'] in names:
                    self._frames[frame['name']] = frame
        stems = {Path(name).stem for name in names}
        for task in self._masks:
            for path in mask_files(self.root, task):
                if path.stem in stems:
                    self._add_mask(task, path, parts)
        self._check_names(images)

    def _check_names(self, images: Sequence[Path]) -> None:
        """Raise LabelError for labels that could be of either of two images of one name."""
        known: dict[str, Path] = {}
        for path in images:
            other = known.setdefault(path.name, path)
            if other == path or not (
                path.name in self._frames
                or any(path.stem in masks for masks in self._masks.values())
            ):
                continue
            raise LabelError(
                f'{path} and {other} have the same name, by which labels find their image here: '
                f'expected each name once. Rename one, or give each folder by itself'
            )

    def _add_mask(self, task: str, path: Path, parts: Collection[str]) -> None:
        """Of two masks of one name the one in a folder that the images have too, as `val`."""
        masks = self._masks[task]
        known = masks.setdefault(path.stem, path)
        if path.parent.name in parts and known.parent.name not in parts:
            masks[path.stem] = path
        elif known != path and (path.parent.name in parts) == (known.parent.name in parts):
            raise LabelError(
                f'{path} and {known} are both masks of an image {path.stem!r}: expected one an '
                f'image, or each in a folder named as that of its images'
            )

    def truth(self, name: str) -> Truth:
        """What is known about the image of that file name; raises LabelError."""
        stem = Path(name).stem
        files = {task: paths[stem] for task, paths in self._masks.items() if stem in paths}
        return truth_of(self._frames.get(name), files, self._tasks)


def known(tasks: Sequence[Task]) -> list[Task]:
    """The tasks, and those of the package that none of them is."""
    return [*tasks, *(task for name, task in TASKS.items() if name not in {t.name for t in tasks})]


def readers(tasks: Sequence[Task]) -> dict[str, Callable[[Path], NDArray[Any]]]:
    """By name of the tasks, and of the package's own, whose labels are files: what reads one."""
    found: dict[str, Callable[[Path], NDArray[Any]]] = {}
    of_package = (*MASK_FOLDERS, DEPTH.name, NORMALS.name)
    for task in known(tasks):
        if task.name in TASKS and task.name not in of_package:
            continue  # lanes are coded otherwise in BDD100K's files
        if kinds.of(task).is_mask:
            found[task.name] = read_mask
        elif task.kind in MAP_READERS:
            found[task.name] = MAP_READERS[task.kind]
    return found


def detection_of(tasks: Sequence[Task]) -> Task:
    """Whose classes the boxes have: the first detection task, BDD100K's where there is none."""
    return next(task for task in known(tasks) if kinds.of(task).has_boxes)


def truth_of(
    frame: Mapping[str, Any] | None, files: Mapping[str, Path], tasks: Sequence[Task] = ()
) -> Truth:
    """A Scalabel frame, None where no file lists it, and files by task (masks, depth, normals).

    tasks: those of a model, beside the package's own. Raises LabelError on a malformed label or a
    broken file.
    """
    read = readers(tasks)
    images = {task: read[task](path) for task, path in files.items()}
    found = {task: values for task, values in images.items() if values.dtype == np.uint8}
    maps = {task: values for task, values in images.items() if task not in found}
    if frame is None:
        return Truth(None, found, maps=maps)
    try:
        attributes = frame.get('attributes') or {}
        labels = {
            task.name: attributes[task.name]
            for task in known(tasks)
            if kinds.of(task).is_label and attributes.get(task.name) in task.classes
        }
        clip = str(frame.get('videoName') or '')
        boxes = truth_boxes(frame.get('labels') or [], clip, detection_of(tasks))
        return Truth(boxes, found, labels, maps=maps)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise LabelError(f'malformed label of {frame["name"]}: {error!r}') from error


def find_labels(folder: Path) -> Path | None:
    """The nearest `labels` folder beside or above the images, or None."""
    absolute = folder.resolve()
    for parent in (absolute, *absolute.parents)[: PARENTS + 1]:
        if (parent / 'labels').is_dir():
            return parent / 'labels'
    return None


def truth_boxes(
    labels: Iterable[Mapping[str, Any]], clip: str = '', task: Task = DETECTION
) -> TruthBoxes:
    """Scalabel labels of one frame -> boxes; those without `box2d` (lanes, areas) are left out.

    clip: the frame's `videoName`; only with it is a label's `id` an identity, elsewhere it is new
    in every image.

    Crowds, boxes that are likely several objects (`suspectMerged`) and categories outside BDD100K's
    ten are ignored regions; categories of another task are as the file has them.
    """
    rows, classes, ignore, ids = [], [], [], []
    for label in labels:
        box = label.get('box2d')
        if not box:
            continue
        category = label['category']
        is_class = True
        if task == DETECTION:
            category = RENAMED.get(category, category)
            is_class = category in task.classes
        attributes = label.get('attributes') or {}
        rows.append([number(box[key]) for key in ('x1', 'y1', 'x2', 'y2')])
        classes.append(category if is_class else NOT_SCORED.get(category, DETECTION.classes[0]))
        ignore.append(
            not is_class or flag(attributes.get('crowd')) or flag(attributes.get('suspectMerged'))
        )
        ids.append(f'{clip}/{label["id"]}' if clip and label.get('id') else '')
    return TruthBoxes(
        np.array(rows, np.float32).reshape(-1, 4), tuple(classes), np.array(ignore, bool),
        tuple(ids) if clip else (),
    )  # fmt: skip


def read_mask(path: Path) -> NDArray[np.uint8]:
    """Palette or grey PNG of 1 to 8 bits -> uint8 [H, W] ids; raises LabelError.

    OpenCV would paint the palette, Pillow does not; but it spreads grey of few bits over 0 to 255.
    """
    try:
        with Image.open(path) as file:
            if file.mode not in ('P', 'L', '1'):
                raise LabelError(
                    f'{path}: mode {file.mode}, expected a palette or grey PNG of class ids'
                )
            mask = np.array(file, np.uint8)
        bits = grey_bits(path) if file.mode == 'L' else 8
        return mask // (255 // (2**bits - 1)) if bits < 8 else mask
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise LabelError(f'{path} is not a readable PNG: {error}') from error


def grey_bits(path: Path) -> int:
    """Bits per sample in the header of a PNG; 8 for other files. Raises OSError."""
    with path.open('rb') as file:
        header = file.read(26)
    return header[24] if header.startswith(b'\x89PNG') and len(header) == 26 else 8


def box_files(root: Path, parts: Collection[str] = ()) -> list[Path]:
    """Label files below a `labels` folder, and folders of files that hold one image each.

    `parts` of the images' path choose the split or the clip, where a name says it.
    """
    found = [
        *root.glob('det_20/det_*.json'), *root.glob('*_track_20/**/*.json'),
        *root.glob('bdd100k_labels_images_*.json'),
        *(path for path in root.glob('100k/*') if path.is_dir()),
    ]  # fmt: skip
    of_split = [path for path in found if path.stem.rpartition('_')[2] in parts]
    clips = [path for path in found if path.stem in parts and path.suffix]
    return sorted(clips or of_split or found)


def mask_files(root: Path, task: str) -> list[Path]:
    """PNG files of a task below a folder: of the BDD100K layout, or named as the task is."""
    for name in dict.fromkeys((MASK_FOLDERS.get(task, task), task)):
        for folder in (root / name / 'masks', root / name):
            if folder.is_dir():
                return sorted(folder.rglob('*.png'))
    return []
