# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Task kinds: each file holds a kind's head, target, loss and deployed form together, and a `KIND`.

A plug-in names further files in the group `training.tasks` of entry points (docs/kinds.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mtl_perception.extensions import kinds_in
from mtl_perception.tasks import Task
from training.tasks.base import Features, Head
from training.tasks.depth import DepthConfig
from training.tasks.detection import DetectionConfig
from training.tasks.kind import TaskKind
from training.tasks.normals import NormalsConfig
from training.tasks.segmentation import SegmentationConfig

KINDS: dict[str, TaskKind] = kinds_in(__name__, __path__)
"""By name."""

__all__ = ['KINDS', 'Features', 'Head', 'HeadOptions', 'TaskKind', 'make_head', 'of']


class HeadOptions(Protocol):
    """Options of the heads, by kind; those of plug-ins have none."""

    detection: DetectionConfig
    segmentation: SegmentationConfig
    depth: DepthConfig
    normals: NormalsConfig


def of(task: Task) -> TaskKind:
    """The kind of a task; raises ValueError for one that cannot be trained."""
    if task.kind not in KINDS:
        raise ValueError(
            f'task {task.name!r}: no head for kind {task.kind!r}, only {[*KINDS]}, nor does a '
            f'package that is installed bring one'
        )
    return KINDS[task.kind]


def make_head(
    task: Task,
    trunk_channels: Sequence[int],
    neck_channels: int,
    options: HeadOptions | None = None,
) -> Head:
    """The head for a task's kind; raises ValueError for a kind without one."""
    chosen = getattr(options, task.kind, None)
    further = () if chosen is None else (chosen,)
    return of(task).head(task, trunk_channels, neck_channels, *further)
