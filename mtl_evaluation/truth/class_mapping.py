# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Class names or ids of somebody else's labels -> ours: `--classes` of `mtl-perception replay`.

    --classes person=pedestrian,motor=motorcycle,3=car,cone=
    --classes mapping.yaml          person: pedestrian, and so on

The left side is a class name or id of boxes and scene labels, or TASK:ID of a mask's value
(`semantic:7=road`). An empty right side is not scored: such boxes are ignored regions, such pixels
unlabelled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.truth.truth import Truth, TruthBoxes
from mtl_perception.plain_yaml import PlainYamlError, read_plain_yaml
from mtl_perception.tasks import DETECTION, TASKS, UNLABELLED
from mtl_perception.text import quoted

MASK_VALUE = re.compile(r'([A-Za-z]\w*):(\d{1,3})')


class MappingError(Exception):
    """A class mapping that is none: what, expected, found."""


@dataclass(frozen=True)
class ClassMapping:
    """names: their class name or id -> ours, '' for what is not scored. Empty: labels stay."""

    names: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str) -> ClassMapping:
        """From `THEIRS=OURS,...` or the name of a YAML file; raises MappingError."""
        if not text:
            return cls()
        if '=' not in text or Path(text).expanduser().is_file():
            path = Path(text).expanduser()
            try:
                data = read_plain_yaml(path)
            except (OSError, PlainYamlError) as error:
                raise MappingError(
                    f'--classes {path}: {error}. Expected THEIRS=OURS,... or a YAML file of such '
                    f'pairs'
                ) from error
            if not isinstance(data, dict):
                raise MappingError(f'--classes {path}: expected `theirs: ours` lines')
            pairs = [(str(key), '' if value is None else str(value)) for key, value in data.items()]
        else:
            pairs = [
                (theirs.strip(), ours.strip())
                for theirs, _, ours in (item.partition('=') for item in text.split(',') if item)
            ]
        names = dict(pairs)
        if '' in names or len(names) < len(pairs):
            raise MappingError(f'--classes {quoted(text)}: a class without a name, or one twice')
        for theirs, ours in names.items():
            if MASK_VALUE.fullmatch(theirs) and ours and not ours.isdecimal():
                _id_of(theirs, ours)
        return cls(names)

    def tasks(self) -> set[str]:
        """Tasks whose mask values are mapped."""
        return {match[1] for name in self.names if (match := MASK_VALUE.fullmatch(name))}

    def __call__(self, truth: Truth) -> Truth:
        """The truth with our classes; what the mapping does not name stays as it is."""
        if not self.names:
            return truth
        boxes = None if truth.boxes is None else self._boxes(truth.boxes)
        masks = {task: self._mask(task, mask) for task, mask in truth.masks.items()}
        labels = {task: self.names.get(name, name) for task, name in truth.labels.items()}
        labels = {task: name for task, name in labels.items() if name}
        return replace(truth, boxes=boxes, masks=masks, labels=labels)

    def _boxes(self, boxes: TruthBoxes) -> TruthBoxes:
        found = [self.names.get(name, name) for name in boxes.classes]
        left_out = np.array([not name for name in found], bool)
        some = next((name for name in found if name), DETECTION.classes[0])
        classes = tuple(name or some for name in found)
        return replace(boxes, classes=classes, ignore=boxes.ignore | left_out)

    def _mask(self, task: str, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        table = np.arange(256, dtype=np.uint8)
        for theirs, ours in self.names.items():
            match = MASK_VALUE.fullmatch(theirs)
            if match and match[1] == task and int(match[2]) < 256:
                table[int(match[2])] = _id_of(theirs, ours)
        return table[mask]


def _id_of(theirs: str, ours: str) -> int:
    """The value of our mask; raises MappingError on a name that its task has not."""
    if not ours:
        return UNLABELLED
    if ours.isdecimal() and int(ours) < 256:
        return int(ours)
    task = TASKS.get(theirs.partition(':')[0])
    if task is None or ours not in task.classes:
        known = 'a number, since the task is not one of ours' if task is None else task.classes
        raise MappingError(f'--classes {theirs}={ours}: expected {quoted(known)}')
    return task.classes.index(ours)


NO_MAPPING = ClassMapping()
