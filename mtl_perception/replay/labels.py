"""Labels that lie beside images in the BDD100K layout -> Truth, joined by image name.

    images/.../NAME.jpg
    labels/det_20/det_*.json            Scalabel frames: boxes, and attributes of the whole image
    labels/*_track_20/**/*.json         Scalabel frames of clips
    labels/{drivable,sem_seg}/masks/**/NAME.png     index = class id, 255 = unlabelled

A frame that a box file lists is labelled for detection even when it has no box; an attribute
`undefined`, a missing mask and a frame that no file lists are unlabelled.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mtl_perception.replay.truth import Truth, TruthBoxes
from mtl_perception.tasks import DETECTION, DRIVABLE, SCENE, SEMANTIC, TIME_OF_DAY, WEATHER

PARENTS = 5
"""How many folders above the images are searched for `labels/`."""

MASK_FOLDERS = {DRIVABLE.name: 'drivable', SEMANTIC.name: 'sem_seg'}

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


class LabelError(Exception):
    """Labels that were found but cannot be used: which file, what, next step."""


class FolderLabels:
    """The labels of one folder of images; `truth(name)` of an image without any is empty."""

    def __init__(self, folder: Path) -> None:
        """Look for `labels/` beside and above the folder; raises LabelError on unreadable files."""
        self.root = find_labels(folder)
        self._frames: dict[str, Mapping[str, Any]] = {}
        self._masks: dict[str, dict[str, Path]] = {name: {} for name in MASK_FOLDERS}
        if self.root is None:
            return
        names = {path.name for path in folder.iterdir()}
        for path in _box_files(self.root, folder.parts):
            for frame in scalabel_frames(path):
                if frame.get('name') in names:
                    self._frames[str(frame['name'])] = frame
        stems = {Path(name).stem for name in names}
        for task, kind in MASK_FOLDERS.items():
            for path in (self.root / kind / 'masks').rglob('*.png'):
                if path.stem in stems:
                    self._masks[task][path.stem] = path

    def truth(self, name: str) -> Truth:
        """What is known about the image of that file name; raises LabelError on a broken mask."""
        frame = self._frames.get(name)
        masks = {
            task: read_mask(paths[Path(name).stem])
            for task, paths in self._masks.items()
            if Path(name).stem in paths
        }
        if frame is None:
            return Truth(None, masks)
        attributes = frame.get('attributes') or {}
        labels = {
            task.name: attributes[task.name]
            for task in (WEATHER, SCENE, TIME_OF_DAY)
            if attributes.get(task.name) in task.classes
        }
        return Truth(truth_boxes(frame.get('labels') or []), masks, labels)


def find_labels(folder: Path) -> Path | None:
    """The nearest `labels` folder beside or above the images, or None."""
    absolute = folder.resolve()
    for parent in (absolute, *absolute.parents)[: PARENTS + 1]:
        if (parent / 'labels').is_dir():
            return parent / 'labels'
    return None


def truth_boxes(labels: Iterable[Mapping[str, Any]]) -> TruthBoxes:
    """Scalabel labels of one frame -> boxes; those without `box2d` (lanes, areas) are left out.

    Crowds, boxes that are likely several objects (`suspectMerged`) and categories outside the ten
    are ignored regions.
    """
    rows, classes, ignore = [], [], []
    for label in labels:
        box = label.get('box2d')
        if not box:
            continue
        category = RENAMED.get(label['category'], label['category'])
        known = category in DETECTION.classes
        attributes = label.get('attributes') or {}
        rows.append([box['x1'], box['y1'], box['x2'], box['y2']])
        classes.append(category if known else NOT_SCORED.get(category, DETECTION.classes[0]))
        ignore.append(
            not known or bool(attributes.get('crowd')) or bool(attributes.get('suspectMerged'))
        )
    return TruthBoxes(
        np.array(rows, np.float32).reshape(-1, 4), tuple(classes), np.array(ignore, bool)
    )


def read_mask(path: Path) -> NDArray[np.uint8]:
    """Palette or grey PNG -> uint8 [H, W] ids; OpenCV would paint the palette, Pillow does not."""
    try:
        with Image.open(path) as file:
            if file.mode not in ('P', 'L'):
                raise LabelError(
                    f'{path}: mode {file.mode}, expected a palette or grey PNG of class ids'
                )
            return np.array(file, np.uint8)
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise LabelError(f'{path} is not a readable PNG: {error}') from error


def _box_files(root: Path, parts: tuple[str, ...]) -> list[Path]:
    """Scalabel files; those of another split than the images' (by folder name) are not read."""
    found = [*root.glob('det_20/det_*.json'), *root.glob('*_track_20/**/*.json')]
    of_split = [path for path in found if path.stem.removeprefix('det_') in parts]
    clips = [path for path in found if path.stem in parts]
    return sorted(clips or of_split or found)


def scalabel_frames(path: Path) -> list[Mapping[str, Any]]:
    """Frames of a Scalabel file, a list or under `frames`; raises LabelError when it is neither."""
    try:
        data = json.loads(path.read_text('utf-8'))
    except (OSError, ValueError) as error:
        raise LabelError(f'{path} is not readable JSON: {error}') from error
    frames = data.get('frames') if isinstance(data, dict) else data
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise LabelError(f'{path}: expected a list of Scalabel frames')
    return frames
