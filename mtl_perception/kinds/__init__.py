# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The kinds of tasks that the vehicle knows: one file of this folder for each, with a `KIND`.

A plug-in names further files in the group `mtl_perception.kinds` of entry points. Everything else
asks `of(task)`. What scores a kind is in `mtl_evaluation`, what trains it in `training`.
"""

from __future__ import annotations

from mtl_perception.extensions import kinds_in
from mtl_perception.kinds.base import Kind
from mtl_perception.tasks import Task

__all__ = ['KINDS', 'Kind', 'check', 'grids', 'meanings', 'of']

KINDS: dict[str, Kind] = kinds_in(__name__, __path__)
"""By name."""


def of(task: Task) -> Kind:
    """The kind of a task; raises ValueError for one that there is not."""
    if task.kind not in KINDS:
        raise ValueError(
            f'task {task.name!r}: kind {task.kind!r} is not one of {[*KINDS]}, nor does a package '
            f'that is installed bring it'
        )
    return KINDS[task.kind]


def check(task: Task) -> Task:
    """The task; raises ValueError for an unknown kind and where class names are missing."""
    if of(task).has_classes and not task.classes:
        raise ValueError(f'task {task.name!r}: a {task.kind} task needs class names')
    return task


def meanings() -> frozenset[str]:
    """Everything that an output tensor of a bundle may hold: the graph contract.

    boxes float32 [K, 4] xyxy input pixels, unique_boxes the same but one per object, so that they
    are not suppressed; scores float32 [K], labels integer [K]; class_map uint8 [H, W] and logits
    float32 [C, H, W], both at `stride`; probabilities float32 [C]; depth float32 [H, W] metres;
    normals float32 [3, H, W]. The batch axis comes first and is not part of the shape.
    """
    return frozenset().union(*(kind.meanings for kind in KINDS.values()))


def grids() -> frozenset[str]:
    """Those whose last two axes are a grid over the input."""
    return frozenset().union(*(kind.grids for kind in KINDS.values()))
