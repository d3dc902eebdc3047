# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Which classes the boxes of a source cover: `box_classes`, all of the task's by default.

A source that labels traffic lights only says nothing about the cars in its images. Boxes of other
classes are left out, and `Index.covered` tells for each image which classes are labelled.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mtl_evaluation.truth.label_files import Frame
from mtl_evaluation.truth.labels import NOT_SCORED, RENAMED
from mtl_perception.schema import did_you_mean
from mtl_perception.tasks import DETECTION, Task
from training.data.index import Index, LayoutConfig
from training.data.sample import DatasetError


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
    """Labels of a frame whose class, or the class that an ignored region forgives, is listed."""
    labels = frame.get('labels') or []
    return [label for label in labels if class_of(label, task) in classes]


def class_of(label: Mapping[str, Any], task: Task) -> str | None:
    """The class of a label, by its old and unscored names too; None for a malformed one."""
    category = label.get('category')
    if task != DETECTION or not isinstance(category, str):
        return category
    return RENAMED.get(category) or NOT_SCORED.get(category) or category
