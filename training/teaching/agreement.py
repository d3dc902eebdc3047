# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""How often teachers say what people said, where both labelled an image: what to trust them for."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np

from mtl_perception.tasks import UNLABELLED, Task
from training.data.sample import Boxes, Sample
from training.tasks.segmentation import GROUPS
from training.teaching.boxes import overlaps
from training.teaching.rules import SoftMask
from training.teaching.written import Label

LIKELY = 128
"""Confidence from which a pixel of a soft mask is compared."""
SAME = 0.5
"""IoU from which a teacher's box is that of a person."""


class Agreement:
    """Counts by task and class of the teachers' label, over images that people labelled.

    said: labels that the teachers are sure of, boxes, pixels or images; right: people say the same.
    of boxes also people: those that people drew, and found: of them by the teachers.
    """

    def __init__(self) -> None:
        """Nothing compared yet."""
        self._counts: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))

    def add(self, task: Task, label: Label, sample: Sample) -> None:
        """One image; a label of None counts for nothing."""
        counts = self._counts[task.name]
        if isinstance(label, SoftMask):
            likely = np.where(label.confidence >= LIKELY, label.mask, UNLABELLED)
            _add_mask(counts, task, likely, sample.masks[task.name])
        elif isinstance(label, np.ndarray):
            _add_mask(counts, task, label, sample.masks[task.name])
        elif isinstance(label, tuple):
            counts[label[0]].update(
                said=1, right=task.classes[sample.classes[task.name]] == label[0]
            )
        elif label is not None:
            _add_boxes(counts, task, label, sample.boxes[task.name])

    def results(self) -> dict[str, Any]:
        """By task and class: the counts, and precision right / said."""
        return {
            task: {
                name: {**count, 'precision': round(count['right'] / max(count['said'], 1), 4)}
                for name, count in sorted(classes.items())
                if any(count.values())
            }
            for task, classes in self._counts.items()
        }


def _add_mask(
    counts: dict[str, Counter[str]], task: Task, label: np.ndarray, human: np.ndarray
) -> None:
    groups = GROUPS.get(task.name, ())
    sets = np.zeros((256, len(task.classes)), bool)
    sets[: len(task.classes)] = np.eye(len(task.classes), dtype=bool)
    for code, members in enumerate(groups, len(task.classes)):
        sets[code, list(members)] = True
    for index, name in enumerate(task.classes):
        said = (label == index) & (human != UNLABELLED)
        counts[name].update(said=int(said.sum()), right=int(sets[human[said], index].sum()))


def _add_boxes(
    counts: dict[str, Counter[str]], task: Task, label: list[dict[str, Any]], human: Boxes
) -> None:
    for index, name in enumerate(task.classes):
        drawn = human.xyxy[~human.ignored & (human.labels == index)]
        said = [
            [box['box2d'][key] for key in ('x1', 'y1', 'x2', 'y2')]
            for box in label
            if box['category'] == name and not box['attributes']['crowd']
        ]
        boxes = np.array(said, np.float32).reshape(-1, 4)
        iou = overlaps(boxes, drawn)
        forgiven = (overlaps(boxes, human.xyxy[human.ignored]) > SAME).any(1)
        right = (iou > SAME).any(1)
        counts[name].update(
            said=int((right | ~forgiven).sum()), right=int(right.sum()),
            people=len(drawn), found=int((iou > SAME).any(0).sum()),
        )  # fmt: skip
