"""What metrics share: what they refuse, and the mean over the classes that there are."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

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


def mean_of_known(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are not None; None where there is none."""
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None
