# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Ground truth that is not in the bag: labels of many frames, read from files and folders.

| `--truth PATH` | |
|---|---|
| a JSON file | Scalabel frames, BDD100K of 2018, or COCO detections (`label_files.py`) |
| a folder of JSON files, one per image | BDD100K of 2018 |
| a folder with `labels/`, or that folder | BDD100K layout: boxes, attributes, masks (`labels.py`) |
| a folder with `drivable/`, `semantic/` | PNG masks of class ids, 255 = unlabelled |
| a folder with `depth/`, `normals/` | PNGs of 16 bits, 0 = unknown (`map_files.py`) |

Several paths complete each other. A frame's time is its `timestamp` (milliseconds, as Scalabel has
it), or its name where that is a time: nanoseconds, or `seconds.fraction`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtl_evaluation.truth.label_files import LabelError, scalabel_frames
from mtl_evaluation.truth.labels import (
    NOT_SCORED,
    RENAMED,
    box_files,
    detection_of,
    mask_files,
    readers,
    truth_of,
)
from mtl_evaluation.truth.mot import is_mot_sequence
from mtl_evaluation.truth.truth import Truth
from mtl_perception.tasks import DETECTION, Task

NANOSECONDS = re.compile(r'\d{15,19}')
SECONDS = re.compile(r'(\d{1,10})\.(\d{1,9})')


@dataclass
class Entry:
    """What the files say about one frame. name: without folder and suffix."""

    name: str
    stamp_ns: int | None = None
    frame: Mapping[str, Any] | None = None
    masks: dict[str, Path] = field(default_factory=dict)
    tasks: Sequence[Task] = ()

    def truth(self) -> Truth:
        """Read it; raises LabelError."""
        return truth_of(self.frame, self.masks, self.tasks)


class TruthFiles:
    """Labels by frame name, `entries` in the order of the files.

    Raises LabelError when a path holds no labels, a file is broken, or a class table has nothing in
    common with ours.
    """

    def __init__(self, paths: Iterable[str | Path], tasks: Sequence[Task] = ()) -> None:
        """Read the JSON files, and list the masks; tasks: of a model, beside the package's own."""
        self._tasks = tasks
        self.paths = [Path(path).expanduser() for path in paths]
        self._entries: dict[str, Entry] = {}
        for path in self.paths:
            before = len(self._entries)
            masks = self._add(path)
            if len(self._entries) == before and not masks:
                raise LabelError(
                    f'{path}: no labels found; expected a JSON file, a gt.txt of MOTChallenge, or '
                    f'a folder with gt/, labels/, drivable/ or semantic/, or with one JSON file an '
                    f'image'
                )

    @property
    def entries(self) -> list[Entry]:
        """All frames that have labels."""
        return list(self._entries.values())

    def _add(self, path: Path) -> int:
        """Add what a path holds; returns the number of masks."""
        if not path.exists():
            raise LabelError(f'{path}: nothing is there')
        if path.is_file():
            self._add_frames(path)
            return 0
        if is_mot_sequence(path):
            self._add_frames(path / 'gt' / 'gt.txt')
            return 0
        root = path / 'labels' if (path / 'labels').is_dir() else path
        for file in box_files(root) or sorted(path.glob('*.json')):
            self._add_frames(file)
        count = 0
        for task in readers(self._tasks):
            for file in mask_files(root, task):
                masks = self._entry(file.stem).masks
                if task in masks:
                    raise LabelError(
                        f'{file} and {masks[task]} are both masks of a frame {file.stem!r}: '
                        f'expected one per frame name; give the folders to bags of their own'
                    )
                masks[task] = file
                count += 1
        return count

    def _add_frames(self, path: Path) -> None:
        frames = scalabel_frames(path)
        try:
            _check_classes(path, frames, detection_of(self._tasks))
            for frame in frames:
                self._add_frame(path, frame)
        except (AttributeError, TypeError, ValueError, OverflowError) as error:
            raise LabelError(f'{path}: malformed labels: {error!r}') from error

    def _add_frame(self, path: Path, frame: Mapping[str, Any]) -> None:
        entry = self._entry(stem_of(frame['name']))
        if entry.frame is not None:
            raise LabelError(f'{path}: frame {frame["name"]} has labels already')
        entry.frame = frame
        timestamp = frame.get('timestamp')
        if isinstance(timestamp, int | float):
            entry.stamp_ns = round(timestamp * 1_000_000)

    def _entry(self, name: str) -> Entry:
        return self._entries.setdefault(name, Entry(name, stamp_in(name), tasks=self._tasks))


def stamp_in(name: str) -> int | None:
    """Nanoseconds of a file name without suffix that is a time; None of another."""
    if NANOSECONDS.fullmatch(name):
        return int(name)
    match = SECONDS.fullmatch(name)
    if match is None:
        return None
    return int(match[1]) * 1_000_000_000 + int(match[2].ljust(9, '0'))


def stem_of(name: str) -> str:
    """Name without folder and image suffix; a `.` in a time is not one."""
    last = name.rpartition('/')[2]
    return last if SECONDS.fullmatch(last) else Path(last).stem


def _check_classes(path: Path, frames: Iterable[Mapping[str, Any]], task: Task) -> None:
    """Raise LabelError when none of the boxes' classes is one of ours."""
    found = {
        str(label.get('category'))
        for frame in frames
        for label in frame.get('labels') or []
        if isinstance(label, dict) and label.get('box2d')
    }
    known = {*task.classes, *RENAMED, *NOT_SCORED} if task == DETECTION else {*task.classes}
    if found and not found & known:
        raise LabelError(
            f'{path} names classes {", ".join(sorted(found))}; {task.name} has '
            f'{", ".join(task.classes)}, and nothing of it is there'
        )
