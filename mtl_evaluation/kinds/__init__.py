# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The kinds of tasks that the evaluation knows: one file of this folder for each, with a `KIND`.

A plug-in names further files in the group `mtl_evaluation.kinds` of entry points. Everything else
asks `of(task)`, or `named(kind)` where a run's results say it.
"""

from __future__ import annotations

from collections.abc import Iterable

from mtl_evaluation.kinds.base import Figure, Flaw, Kind
from mtl_evaluation.metrics.metrics import Metric
from mtl_perception import kinds as vehicle
from mtl_perception.extensions import kinds_in
from mtl_perception.tasks import DEPTH, DETECTION, NORMALS, TASKS, Task

__all__ = [
    'KINDS', 'Figure', 'Flaw', 'Kind', 'figure', 'folder_of', 'named', 'new_metrics', 'of',
    'of_truth',
]  # fmt: skip

KINDS: dict[str, Kind] = kinds_in(__name__, __path__)
"""By name."""


def named(name: str) -> Kind:
    """The kind of that name; raises ValueError for one that there is not."""
    if name not in KINDS:
        raise ValueError(
            f'kind {name!r} of tasks is not one of {[*KINDS]} that can be measured here, nor does '
            f'a package that is installed bring it'
        )
    return KINDS[name]


def of(task: Task) -> Kind:
    """The kind of a task; raises ValueError for one that there is not."""
    return named(task.kind)


def new_metrics(tasks: Iterable[Task]) -> dict[str, Metric]:
    """A metric from no frame for every task."""
    return {task.name: of(task).metric(task) for task in tasks}


def figure(name: str) -> Figure:
    """What is known of a figure, by its name in results and comparisons (`iou`, `iou/road`)."""
    base = name.partition('/')[0]
    for kind in KINDS.values():
        if base in kind.figures:
            return kind.figures[base]
    return Figure(base)


def folder_of(name: str) -> Kind | None:
    """The kind whose topics have a folder of their own that a topic's name begins with."""
    for kind in KINDS.values():
        folder = vehicle.KINDS[kind.name].topic_folder
        if folder and name.startswith(folder):
            return kind
    return None


def of_truth(name: str, encoding: str) -> tuple[Kind, str]:
    """Kind and task of a ground-truth topic, by its name and, of an image, the encoding.

    `detections` holds boxes, `scene/NAME` a label; images hold a mask unless task or encoding say
    otherwise.
    """
    if name == 'detections':
        return KINDS[DETECTION.kind], DETECTION.name
    if (kind := folder_of(name)) is not None:
        return kind, name.removeprefix(vehicle.KINDS[kind.name].topic_folder)
    if name in TASKS:
        return of(TASKS[name]), name
    of_maps = {'32FC1': DEPTH.kind, '16UC1': DEPTH.kind, '32FC3': NORMALS.kind}
    return KINDS[of_maps.get(encoding, 'segmentation')], name
