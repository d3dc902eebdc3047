# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What a teacher is, and what it knows about one image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mtl_perception.frame import Detections
from mtl_perception.schema import did_you_mean
from mtl_perception.tasks import ALL_TASKS, Task


class TeachError(Exception):
    """Teachers, rules or data that do not go together: what, where, expected, found, next step."""


@dataclass
class Knowledge:
    """What a teacher knows about one image, by task.

    boxes: in pixels of the image. masks: probabilities float32 [C, H, W], which sum to 0 where the
    teacher says nothing. classes: probabilities float32 [C].
    """

    boxes: dict[str, Detections] = field(default_factory=dict)
    masks: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    classes: dict[str, NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Where an image comes from: root of its data set, split, name."""

    root: Path
    split: str
    name: str


class Teacher(Protocol):
    """name: in reports. tasks: what it knows. identity: what its answers depend on."""

    name: str
    tasks: tuple[str, ...]
    identity: dict[str, Any]

    def __call__(self, place: Place, image: NDArray[np.uint8]) -> Knowledge:
        """What it knows about uint8 [H, W, 3] RGB; raises TeachError."""
        ...


def checked_tasks(
    name: str, path: str, tasks: Sequence[str], known: Mapping[str, Task]
) -> tuple[str, ...]:
    """The tasks asked for, all there are by default, with classes as they are here."""
    if not known:
        raise TeachError(
            f'teacher {name!r}: {path} has no task that can be taught, expected one of boxes, '
            f'masks or attributes'
        )
    for task in tasks:
        if task not in known:
            raise TeachError(
                f'teacher {name!r}: {path} has no task {task!r}, it has {list(known)}'
                f'{did_you_mean(task, known)}'
            )
    chosen = tuple(tasks) or tuple(task for task in known if task in ALL_TASKS)
    for task in chosen:
        ours = ALL_TASKS.get(task)
        if ours is None or ours.classes != known[task].classes:
            raise TeachError(
                f'teacher {name!r}: {path} has the classes {list(known[task].classes)} for '
                f'{task!r}, training has {list(ours.classes) if ours else "no such task"}'
            )
    return chosen
