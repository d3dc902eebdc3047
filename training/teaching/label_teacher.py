# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Labels on disk as a teacher: of a model that is not ours, or of an earlier round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.truth.label_files import LabelError, scalabel_frames
from mtl_evaluation.truth.labels import read_mask
from mtl_perception import kinds
from mtl_perception.frame import Detections
from mtl_perception.tasks import ALL_TASKS, UNLABELLED, Task
from training.data.box_classes import class_of
from training.data.teacher_labels import can_be_taught
from training.tasks.segmentation import GROUPS
from training.teaching.knowledge import Knowledge, Place, TeachError, checked_tasks

UNSURE = 0.3
"""The most that the score of a box counts for that its teacher marked as unsure."""


class LabelTeacher:
    """Labels on disk, as `training.teach` and label files of the BDD100K layout have them.

    path: a folder for one task, in which `{root}` is the root of the image's data set: boxes and
    attributes in `det_{split}.json`, masks of our class ids and class sets in `masks/{split}`. A
    box without a score counts as certain.
    """

    def __init__(self, name: str, path: str, tasks: Sequence[str]) -> None:
        """Raises TeachError unless the labels are of one task."""
        self.name, self.path = name, path
        self.identity = {'labels': path}
        known = {task.name: task for task in ALL_TASKS.values() if can_be_taught(task)}
        if len(tasks) != 1:
            raise TeachError(
                f'teacher {name!r}: labels in {path} are of one task, found tasks {list(tasks)}; '
                f'expected `tasks: [NAME]` with one of {list(known)}'
            )
        self.tasks = checked_tasks(name, path, tasks, known)
        self._frames: dict[Path, dict[str, Mapping[str, Any]]] = {}

    def __call__(self, place: Place, image: NDArray[np.uint8]) -> Knowledge:
        """Empty where the labels do not list the image."""
        folder = Path(self.path.format(root=place.root)).expanduser()
        task = ALL_TASKS[self.tasks[0]]
        height, width = image.shape[:2]
        if kinds.of(task).is_mask:
            file = folder / 'masks' / place.split / Path(place.name).with_suffix('.png')
            return Knowledge(masks=self._mask(task, file, (height, width)))
        frame = self._listed(folder / f'det_{place.split}.json').get(place.name)
        if frame is None:
            return Knowledge()
        if kinds.of(task).is_label:
            value = (frame.get('attributes') or {}).get(task.name)
            if value not in task.classes:
                return Knowledge()
            certain = np.eye(len(task.classes), dtype=np.float32)[task.classes.index(value)]
            return Knowledge(classes={task.name: certain})
        return Knowledge(boxes={task.name: self._boxes(task, frame, place, width, height)})

    def _listed(self, path: Path) -> dict[str, Mapping[str, Any]]:
        if path not in self._frames:
            try:
                self._frames[path] = {frame['name']: frame for frame in scalabel_frames(path)}
            except LabelError as error:
                raise TeachError(f'teacher {self.name!r}: {error}') from error
        return self._frames[path]

    def _boxes(
        self, task: Task, frame: Mapping[str, Any], place: Place, width: int, height: int
    ) -> Detections:
        rows, scores, labels = [], [], []
        for label in frame.get('labels') or []:
            category = class_of(label, task)
            if category not in task.classes:
                raise TeachError(
                    f'teacher {self.name!r}: {self.path}: {place.name} has a box of class '
                    f'{category!r}, expected one of {list(task.classes)} of the task {task.name!r}'
                )
            box = label['box2d']
            row = [box['x1'], box['y1'], box['x2'], box['y2']]
            if row[2] > width + 1 or row[3] > height + 1:
                raise TeachError(
                    f'teacher {self.name!r}: {self.path}: {place.name} has a box {row}, but its '
                    f'image is {width}x{height}; were the labels made for another size?'
                )
            attributes = label.get('attributes') or {}
            unsure = attributes.get('crowd') or attributes.get('classUnsure')
            rows.append(row)
            scores.append(min(float(label.get('score', 1)), UNSURE if unsure else 1))
            labels.append(task.classes.index(category))
        return Detections(
            np.array(rows, np.float32).reshape(-1, 4),
            np.array(scores, np.float32),
            np.array(labels, np.int64),
        )

    def _mask(
        self, task: Task, file: Path, size: tuple[int, int]
    ) -> dict[str, NDArray[np.float32]]:  # fmt: skip
        if not file.is_file():
            return {}
        try:
            mask = read_mask(file)
        except LabelError as error:
            raise TeachError(f'teacher {self.name!r}: {error}') from error
        if mask.shape != size:
            raise TeachError(f'teacher {self.name!r}: {file} is {mask.shape}, its image is {size}')
        groups = GROUPS.get(task.name, ())
        shares = np.zeros((256, len(task.classes)), np.float32)
        shares[: len(task.classes)] = np.eye(len(task.classes))
        for row, members in enumerate(groups, len(task.classes)):
            shares[row, list(members)] = 1 / len(members)
        known = len(task.classes) + len(groups)
        if strange := sorted({*np.unique(mask).tolist()} - {*range(known), UNLABELLED}):
            raise TeachError(
                f'teacher {self.name!r}: {file} has ids {strange}, expected 0 to {known - 1} of '
                f'{task.name!r}, or {UNLABELLED}'
            )
        return {task.name: np.ascontiguousarray(shares[mask].transpose(2, 0, 1))}
