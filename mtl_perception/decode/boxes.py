# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Detection: score threshold, suppression within and across classes, inverse letterbox."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mtl_perception.decode.contract import Outputs, Thresholds
from mtl_perception.engine_error import EngineError
from mtl_perception.frame import Detections
from mtl_perception.letterbox import Letterbox
from mtl_perception.tasks import EXCLUSIVE, Task

if TYPE_CHECKING:
    from mtl_perception.manifest import OutputSpec


def detection(
    task: Task,
    specs: Mapping[str, OutputSpec],
    outputs: Outputs,
    letterbox: Letterbox,
    thresholds: Thresholds,
) -> Detections:
    """Boxes above the score threshold that survive suppression, in source pixels.

    Within a class boxes are suppressed at `nms_iou`, but not `unique_boxes`, of which training
    leaves one per object. Then across the classes of a set of `EXCLUSIVE` at `across_iou`, so that
    whoever plans by the boxes sees each thing once.

    Boxes that lie in the padding only are dropped. Raises EngineError on values that are not finite
    and on class ids that the task does not have.
    """
    kind = 'unique_boxes' if 'unique_boxes' in outputs else 'boxes'
    boxes, scores, labels = outputs[kind], outputs['scores'], outputs['labels']
    if not (np.isfinite(scores).all() and np.isfinite(boxes).all()):
        raise EngineError(
            f'task {task.name!r}: {specs[kind].name!r} or {specs["scores"].name!r} holds NaN or '
            f'infinity. Run it at fp32 to see whether the precision is to blame.'
        )
    wanted = np.flatnonzero(scores >= thresholds.score)
    wanted = wanted[np.argsort(-scores[wanted], kind='stable')]
    boxes, scores = boxes[wanted], scores[wanted]
    labels = labels[wanted].astype(np.int64)
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(task.classes):
        raise EngineError(
            f'task {task.name!r}: output {specs["labels"].name!r} holds class ids {labels.min()} '
            f'to {labels.max()}, expected 0 to {len(task.classes) - 1}. Export the bundle again.'
        )
    kept = np.arange(len(boxes))
    if kind == 'boxes':
        kept = suppress(boxes, labels, thresholds.nms_iou)
    if thresholds.across_iou < 1:
        kept = kept[suppress_across(boxes[kept], labels[kept], task, thresholds.across_iou)]
    source = letterbox.boxes_to_source(boxes[kept])
    visible = (source[:, 2] > source[:, 0]) & (source[:, 3] > source[:, 1])
    kept, source = kept[visible], source[visible]
    most = thresholds.max_detections
    return Detections(source[:most], scores[kept[:most]].astype(np.float32), labels[kept[:most]])


def suppress(
    boxes: NDArray[np.float32], labels: NDArray[np.int64], iou: float
) -> NDArray[np.int64]:
    """Greedy class-aware non-maximum suppression.

    boxes [N, 4] xyxy, best score first. Returns the indices kept, in order: a box goes when a kept
    one of its class overlaps it by more than `iou` (the rule of `torchvision.ops.batched_nms`).
    """
    kept = [np.zeros(0, np.intp)]
    for label in np.unique(labels):
        same = np.flatnonzero(labels == label)
        kept.append(same[_unrivalled(_overlapping(boxes[same].astype(np.float32), iou))])
    return np.sort(np.concatenate(kept))


def suppress_across(
    boxes: NDArray[np.float32], labels: NDArray[np.int64], task: Task, iou: float
) -> NDArray[np.int64]:
    """Greedy suppression between the classes of each set of `tasks.EXCLUSIVE`.

    boxes [N, 4] xyxy, best score first; labels [N]. Returns the indices kept, in order: a box goes
    when a kept one of another class of its set overlaps it by more than `iou`.
    """
    sets = exclusive_sets(task)[labels]
    rivals = _overlapping(boxes.astype(np.float32), iou)
    rivals &= (sets[:, None] == sets) & (labels[:, None] != labels)
    return np.flatnonzero(_unrivalled(rivals))


def exclusive_sets(task: Task) -> NDArray[np.int64]:
    """Int64 [C]: classes of one set of `EXCLUSIVE` have one number, every other class its own."""
    sets = np.arange(len(task.classes))
    for names in EXCLUSIVE:
        members = [i for i, name in enumerate(task.classes) if name in names]
        sets[members] = min(members, default=0)
    return sets


def _overlapping(boxes: NDArray[np.float32], iou: float) -> NDArray[np.bool_]:
    """[N, N]: which pairs overlap by more than `iou`."""
    x1, y1, x2, y2 = np.ascontiguousarray(boxes.T)
    area = (x2 - x1) * (y2 - y1)
    width = np.minimum(x2[:, None], x2) - np.maximum(x1[:, None], x1)
    height = np.minimum(y2[:, None], y2) - np.maximum(y1[:, None], y1)
    overlap = np.maximum(width, 0) * np.maximum(height, 0)
    union = area[:, None] + area - overlap
    # Not a quotient: empty boxes have union 0. IoU > iou is the same as overlap > iou * union.
    return np.asarray(overlap > iou * union)


def _unrivalled(rivals: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which boxes stay [N]: those without an earlier rival that stays."""
    rivals = np.triu(rivals, 1)
    alive = np.ones(len(rivals), bool)
    for i in np.flatnonzero(rivals.any(axis=1)):
        if alive[i]:
            alive &= ~rivals[i]
    return alive
