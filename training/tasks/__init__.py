# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Task kinds: each file holds a kind's head, target, loss and deployed form together.

A new kind is one file here, one entry in `HEADS`, one decode function and one message conversion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mtl_perception.tasks import Task
from training.tasks.base import Features, Head
from training.tasks.classification import ClassificationHead
from training.tasks.depth import DepthConfig, DepthHead
from training.tasks.detection import DetectionConfig, DetectionHead
from training.tasks.normals import NormalsConfig, NormalsHead
from training.tasks.segmentation import SegmentationConfig, SegmentationHead

HEADS: dict[str, type[Head]] = {
    'detection': DetectionHead,
    'segmentation': SegmentationHead,
    'classification': ClassificationHead,
    'depth': DepthHead,
    'normals': NormalsHead,
}

__all__ = ['HEADS', 'Features', 'Head', 'HeadOptions', 'make_head']


class HeadOptions(Protocol):
    """Options of the heads, by kind."""

    detection: DetectionConfig
    segmentation: SegmentationConfig
    depth: DepthConfig
    normals: NormalsConfig


def make_head(
    task: Task,
    trunk_channels: Sequence[int],
    neck_channels: int,
    options: HeadOptions | None = None,
) -> Head:
    """The head for a task's kind; raises ValueError for a kind without one."""
    if task.kind not in HEADS:
        raise ValueError(f'task {task.name!r}: no head for kind {task.kind!r}, only {list(HEADS)}')
    chosen = getattr(options, task.kind, None)
    further = () if chosen is None else (chosen,)
    return HEADS[task.kind](task, trunk_channels, neck_channels, *further)
