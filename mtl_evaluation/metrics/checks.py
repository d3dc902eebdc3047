# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What metrics refuse."""

from __future__ import annotations

from mtl_perception.tasks import Task


def check_kind(task: Task, kind: str) -> None:
    """Raise ValueError unless the task is of this kind."""
    if task.kind != kind:
        raise ValueError(f'task {task.name!r} is of kind {task.kind}, expected {kind}')


def check_same_task(ours: Task, theirs: Task) -> None:
    """Raise ValueError unless both tasks have one name and one class table."""
    if (ours.name, ours.classes) != (theirs.name, theirs.classes):
        raise ValueError(
            f'metrics of different class tables cannot be merged: {ours.name} {ours.classes} '
            f'and {theirs.name} {theirs.classes}'
        )


def check_shapes(task: Task, prediction: tuple[int, ...], truth: tuple[int, ...]) -> None:
    """Raise ValueError unless prediction and truth have one shape."""
    if prediction != truth:
        raise ValueError(f'{task.name} prediction is {prediction}, truth is {truth}')
