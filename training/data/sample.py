# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What a data set yields and what a batch is.

Nothing here is framework code but the final stacking: samples are numpy, batches are torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.tasks.targets import BoxTarget, Counting, Targets


class DatasetError(Exception):
    """A data set that cannot be read: what, where, expected, found, next step."""


@dataclass(frozen=True)
class Boxes:
    """Truth boxes of one image: xyxy float32 [N, 4], labels int64 [N], ignored bool [N].

    labels, covered (bool [C]) and complete as in `training.tasks.targets.BoxTarget`.
    """

    xyxy: NDArray[np.float32]
    labels: NDArray[np.int64]
    ignored: NDArray[np.bool_]
    covered: NDArray[np.bool_] | None = None
    complete: bool = True


@dataclass(frozen=True)
class Sample:
    """One image and the labels it has; a task that is absent is unlabelled, not empty.

    image: uint8 [H, W, 3] RGB. boxes: task -> Boxes in pixels of this image. masks: task -> uint8
    [H, W], coded as in `training.tasks.segmentation`. classes: task -> class id. maps: task ->
    float32, depth [H, W] in metres and normals [H, W, 3] as in `training.tasks`, zeros where
    unknown. shrink: boxes, masks and maps count pixels of an image this many times as large.
    broken: what was to be drawn instead and could not be read. others: of kinds that plug-ins add,
    by kind and then by task.
    """

    name: str
    source: str
    image: NDArray[np.uint8]
    boxes: Mapping[str, Boxes] = field(default_factory=dict)
    masks: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    classes: Mapping[str, int] = field(default_factory=dict)
    maps: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    shrink: int = 1
    broken: tuple[str, ...] = ()
    others: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def labelled(self) -> set[str]:
        """Names of the tasks with a label."""
        of_others = {task for by_task in self.others.values() for task in by_task}
        return {*self.boxes, *self.masks, *self.classes, *self.maps} | of_others


@dataclass(frozen=True)
class Batch:
    """image: uint8 [B, 3, H, W], channels last in memory; targets: by task.

    broken: one message for each draw that was replaced because a file could not be read.
    """

    image: Tensor
    targets: Mapping[str, Targets]
    broken: tuple[str, ...] = ()

    def pin_memory(self) -> Batch:
        """In page-locked memory; torch's DataLoader calls it."""
        targets = {task: values.pin_memory() for task, values in self.targets.items()}
        return Batch(self.image.pin_memory(), targets, self.broken)


def collate(
    samples: Sequence[Sample], tasks: Sequence[str], counting: Mapping[str, Counting] | None = None
) -> Batch:
    """Stack samples of equal size; targets become what the heads' losses take.

    counting: of the heads, by task, so that the divisors of the losses are known in time.
    """
    image = np.stack([sample.image for sample in samples])
    counting = counting or {}
    targets = {
        task: Targets.pack([_target(sample, task) for sample in samples], counting.get(task))
        for task in tasks
    }
    broken = tuple(message for sample in samples for message in sample.broken)
    return Batch(torch.from_numpy(image).permute(0, 3, 1, 2), targets, broken)


def _target(sample: Sample, task: str) -> Any:
    if task in sample.masks:
        return torch.from_numpy(sample.masks[task])
    if task in sample.maps:
        return torch.from_numpy(sample.maps[task])
    if task in sample.classes:
        return sample.classes[task]
    if task in sample.boxes:
        boxes = sample.boxes[task]
        kept = ~boxes.ignored
        return BoxTarget(
            torch.from_numpy(boxes.xyxy[kept]),
            torch.from_numpy(boxes.labels[kept]),
            torch.from_numpy(boxes.xyxy[boxes.ignored]),
            None if boxes.covered is None else torch.from_numpy(boxes.covered),
            boxes.complete,
        )
    return next((by_task[task] for by_task in sample.others.values() if task in by_task), None)
