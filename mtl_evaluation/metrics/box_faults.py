# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What is wrong with the boxes that a planner gets: second, loose, of a wrong class, false, missed.

The error types of TIDE (Bolya et al., ECCV 2020, section 2.2), counted instead of weighed by AP, at
the score threshold that the node publishes with. Changed: a second box is second whatever its
class, since a planner sees one thing twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.metrics.average_precision import ScoredImage
from mtl_perception.decode import Thresholds, suppress_across
from mtl_perception.frame import Detections
from mtl_perception.tasks import Task

FOREGROUND = 0.5
"""IoU from which a box is on a thing."""
BACKGROUND = 0.1
"""IoU below which a box has nothing to do with a thing."""
INSIDE = 0.5
"""Share of a box in an ignored region from which it is not judged."""

PUBLISHED = Thresholds()
"""What the node publishes unless its parameters say otherwise."""

KINDS = ('right', 'second', 'loose', 'wrong_class', 'false', 'missed', 'not_judged')


def box_faults(
    found: Detections,
    truth: NDArray[np.float32],
    labels: NDArray[np.int64],
    ignored: NDArray[np.bool_],
    covered: NDArray[np.bool_] | None = None,
) -> Counter[str]:
    """Counts by kind of fault, of one image.

    found: what is published, best first. truth: xyxy float32 [M, 4] in the same pixels, with class
    ids int64 [M] and ignored regions bool [M]. covered: bool [C], classes that are labelled; boxes
    of the others are not judged.

    A box is `right` on an unclaimed thing of its class (IoU 0.5 or more, best score first). Of the
    others one is `second` on a thing that a right box has, `wrong_class` on one that none has,
    `not_judged` with half its area in an ignored region, `loose` where it overlaps a thing by 0.1
    to 0.5, else `false`. Things without a right box are `missed`.
    """
    boxes, classes = found.boxes, found.labels
    if covered is not None:
        known = covered[classes]
        boxes, classes = boxes[known], classes[known]
    counts = Counter(dict.fromkeys(KINDS, 0))
    counts['not_judged'] = len(found) - len(boxes)
    things, names = truth[~ignored], labels[~ignored]
    iou, _ = _overlaps(boxes, things)
    claimed = np.zeros(len(things), bool)
    right = np.zeros(len(boxes), bool)
    for row, label in enumerate(classes):
        candidates = np.where((names == label) & ~claimed, iou[row], 0)
        if len(candidates) and candidates.max() >= FOREGROUND:
            claimed[candidates.argmax()] = right[row] = True
    _, inside = _overlaps(boxes, truth[ignored])
    for row in np.flatnonzero(~right).tolist():
        on = iou[row] >= FOREGROUND
        if (on & claimed).any():
            counts['second'] += 1
        elif on.any():
            counts['wrong_class'] += 1
        elif (inside[row] >= INSIDE).any():
            counts['not_judged'] += 1
        else:
            counts['loose' if (iou[row] >= BACKGROUND).any() else 'false'] += 1
    counts['right'] = int(right.sum())
    counts['missed'] = int((~claimed).sum())
    return counts


def published(image: ScoredImage, task: Task) -> Detections:
    """What the node would publish of a frame's full list, best score first.

    The list is already suppressed within each class; what is left to do is the score threshold,
    suppression across exclusive classes and the number of detections of `PUBLISHED`.
    """
    rows = np.argsort(-image.scores, kind='stable')
    rows = rows[image.scores[rows] >= PUBLISHED.score]
    boxes, labels = image.predicted[rows].astype(np.float32), image.predicted_labels[rows]
    kept = suppress_across(boxes, labels, task, PUBLISHED.across_iou)[: PUBLISHED.max_detections]
    return Detections(boxes[kept], image.scores[rows][kept].astype(np.float32), labels[kept])


class PublishedBoxes:
    """Faults of what is published of each frame; a sum over frames."""

    def __init__(self, task: Task) -> None:
        """Start from no frame of a detection task."""
        self.task = task
        self.frames = 0
        self.counts: Counter[str] = Counter(dict.fromkeys(KINDS, 0))

    def add(self, image: ScoredImage) -> None:
        """Add one frame."""
        self.frames += 1
        self.counts.update(
            box_faults(
                published(image, self.task),
                image.truth.astype(np.float32),
                image.truth_labels,
                image.ignore,
            )
        )

    def result(self) -> Mapping[str, float | int]:
        """`score` from which boxes are published, `frames`, and the counts by kind of fault."""
        return {'score': PUBLISHED.score, 'frames': self.frames, **self.counts}


def _overlaps(
    boxes: NDArray[np.float32], others: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """IoU, and the share of each box that lies in each of the others: float64 [N, M]."""
    a, b = boxes[:, None].astype(np.float64), others[None].astype(np.float64)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = sides.clip(0).prod(-1)
    area_a, area_b = ((x[..., 2:] - x[..., :2]).clip(0).prod(-1) for x in (a, b))
    union = area_a + area_b - shared
    return shared / np.maximum(union, 1e-9), shared / np.maximum(area_a, 1e-9)
