# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Which classes the boxes of a source cover: `box_classes`, all of the task's by default.

A source that labels traffic lights only says nothing about the cars in its images. Boxes of other
classes are left out, and `Index.covered` tells for each image which classes are labelled.

A box may be of a class set (`vehicle`, `two-wheeler`, `human`): one of its classes, the label does
not say which. So is one that is marked `classUnsure`. Such a box is learnt as what the network
takes it for among them, and is an ignored region of each of them when a network is scored.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mtl_evaluation.truth.label_files import Frame
from mtl_evaluation.truth.labels import NOT_SCORED, RENAMED
from mtl_perception.schema import did_you_mean
from mtl_perception.tasks import DETECTION, Task
from training.data.index import Index, LayoutConfig
from training.data.sample import Boxes, DatasetError
from training.tasks.detection import CLASS_SETS, SET_NAMES


def restricted(index: Index, config: LayoutConfig) -> Index:
    """The index with boxes of `box_classes` only; raises DatasetError for unknown names."""
    if not config.box_classes or not index.boxed:
        return index
    where = f'data set {config.name!r}: box_classes'
    classes = checked(config.box_classes, index.detection, where)
    frames = {
        name: {**frame, 'labels': of_classes(frame, classes, index.detection)}
        for name, frame in index.frames.items()
    }
    return replace(index, frames=frames, covered=dict.fromkeys(frames, classes))


def checked(names: Sequence[str], task: Task, where: str) -> frozenset[str]:
    """Names of classes of a task; raises DatasetError for others, with the nearest there is."""
    for name in names:
        if name not in task.classes:
            raise DatasetError(
                f'{where}: {task.name} has no class {name!r}, expected some of '
                f'{list(task.classes)}{did_you_mean(name, task.classes)}'
            )
    return frozenset(names)


def of_classes(frame: Frame, classes: Collection[str], task: Task) -> list[Mapping[str, Any]]:
    """Labels of a frame whose class, or the class that an ignored region forgives, is listed.

    Of a class set all classes must be.
    """
    labels = frame.get('labels') or []
    sets = {
        name: {DETECTION.classes[member] for member in members} <= {*classes}
        for name, members in zip(SET_NAMES, CLASS_SETS, strict=True)
        if task == DETECTION
    }
    return [
        label
        for label in labels
        if sets.get(str(label.get('category')), class_of(label, task) in classes)
    ]


def set_code(label: Mapping[str, Any]) -> int | None:
    """C + g where a label names the class set g, or is unsure of a class in it; else None."""
    category = label['category']
    unsure = (label.get('attributes') or {}).get('classUnsure')
    for number, (name, members) in enumerate(zip(SET_NAMES, CLASS_SETS, strict=True)):
        classes = [DETECTION.classes[member] for member in members]
        if category == name or (unsure and category in classes):
            return len(DETECTION.classes) + number
    return None


def label_names(code: int, task: Task) -> tuple[str, ...]:
    """The class of a label, or the classes of its set."""
    if code < len(task.classes):
        return (task.classes[code],)
    return tuple(task.classes[member] for member in CLASS_SETS[code - len(task.classes)])


def scored(boxes: Boxes, task: Task) -> Boxes:
    """Boxes to score by: those of a class set as ignored regions of each of its classes."""
    sets = boxes.labels >= len(task.classes)
    if not sets.any():
        return boxes
    rows = [
        (box, task.classes.index(name))
        for box, code in zip(boxes.xyxy[sets], boxes.labels[sets].tolist(), strict=True)
        for name in label_names(code, task)
    ]
    return replace(
        boxes,
        xyxy=np.concatenate((boxes.xyxy[~sets], np.array([box for box, _ in rows], np.float32))),
        labels=np.concatenate((boxes.labels[~sets], np.array([label for _, label in rows]))),
        ignored=np.concatenate((boxes.ignored[~sets], np.ones(len(rows), bool))),
    )


def class_of(label: Mapping[str, Any], task: Task) -> str | None:
    """The class of a label, by its old and unscored names too; None for a malformed one."""
    category = label.get('category')
    if task != DETECTION or not isinstance(category, str):
        return category
    return RENAMED.get(category) or NOT_SCORED.get(category) or category
