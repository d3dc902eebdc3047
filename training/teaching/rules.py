# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Which of a teacher's knowledge becomes a label: thresholds by class, and agreement.

A label is sure where the mean probability of the teachers reaches `sure` (or the class's own
threshold) and at least `agree` of them say the same. Boxes below that and above `unsure` become
ignored regions; pixels become one of the task's class sets where that is sure, else unlabelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_perception.frame import Detections
from mtl_perception.tasks import UNLABELLED, Task
from training.tasks.segmentation import GROUPS
from training.teaching.boxes import fused, overlaps

SURE = {'detection': 0.5, 'segmentation': 0.8, 'classification': 0.9}
"""Probability from which a label is sure, by kind, unless the configuration says otherwise."""
ONE_THING = 0.7
"""IoU from which boxes of two classes are one thing whose class is a guess."""
RIVAL = 0.6
"""Share of the better box's score from which the class of the other is a real alternative."""


@dataclass
class Rule:
    """sure: 0 to 1, None for the kind's own. classes: the same for some classes.

    unsure: of boxes only. agree: teachers that must say the same. soft: every pixel has its
    likeliest class, and a map of confidences beside it; every box above `unsure` that enough
    teachers found is a label, which counts by its score. Raises ValueError on values out of range.
    """

    sure: float | None = None
    classes: dict[str, float] = field(default_factory=dict)
    unsure: float = 0.25
    agree: int = 1
    soft: bool = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        shares = [self.unsure, *self.classes.values()]
        shares += [] if self.sure is None else [self.sure]
        if not all(0 < share <= 1 for share in shares) or self.agree < 1:
            raise ValueError(
                f'rule {self}: expected probabilities above 0 up to 1, and agree of 1 or more'
            )

    def thresholds(self, task: Task) -> NDArray[np.float32]:
        """What is sure, by class: float32 [C]."""
        general = SURE[task.kind] if self.sure is None else self.sure
        return np.array([self.classes.get(name, general) for name in task.classes], np.float32)


@dataclass(frozen=True)
class SoftMask:
    """Mask uint8 [H, W] of class ids and 255, and the confidence in each pixel, 255 = certain."""

    mask: NDArray[np.uint8]
    confidence: NDArray[np.uint8]


def box_labels(found: Sequence[Detections], task: Task, rule: Rule) -> list[dict[str, Any]]:
    """Scalabel labels of what the teachers found, one list of boxes a teacher."""
    objects = fused(found)
    sure = rule.thresholds(task)
    boxes, scores = objects.found.boxes, objects.found.scores
    classes = objects.found.labels
    labels: list[dict[str, Any]] = []
    kept: list[int] = []
    for row, (box, score, label) in enumerate(zip(boxes, scores, classes, strict=True)):
        if score < rule.unsure:
            break
        rival = next(
            (
                at
                for at, k in enumerate(kept)
                if overlaps(boxes[k : k + 1], box[None])[0, 0] > ONE_THING
            ),
            None,
        )
        if rival is not None and not _go_together(task, classes[kept[rival]], label):
            if score > RIVAL * scores[kept[rival]]:
                labels[rival]['attributes']['classUnsure'] = True
            continue
        agreed = len(objects.sources[row]) >= rule.agree and (rule.soft or score >= sure[label])
        kept.append(row)
        labels.append(
            {
                'id': str(len(labels)),
                'category': task.classes[label],
                'score': round(float(score), 4),
                'box2d': dict(zip(('x1', 'y1', 'x2', 'y2'), map(_tenth, box), strict=True)),
                'attributes': {'crowd': not agreed, 'classUnsure': False, 'soft': rule.soft},
            }
        )
    return labels


def mask_label(
    known: Sequence[NDArray[np.float32]], task: Task, rule: Rule,
    human: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8] | SoftMask:  # fmt: skip
    """Mask uint8 [H, W] of class ids, class sets and 255 from probabilities [C, H, W] a teacher.

    human: the same, by people. Only pixels that they labelled as a class set are told apart then:
    where the teachers' class is in the set, by its probability among the classes of the set.
    """
    shares = np.sum(known, axis=0)
    shares /= np.maximum(shares.sum(0), 1e-6)
    label = shares.argmax(0).astype(np.uint8)
    answers = [(one.argmax(0), one.sum(0) > 0) for one in known]
    groups = [list(group) for group in GROUPS.get(task.name, ())]
    sure = rule.thresholds(task)
    votes = sum((said & (answer == label)).astype(int) for answer, said in answers)
    confidence = np.take_along_axis(shares, label[None].astype(int), 0)[0]
    if human is not None:
        within = np.zeros_like(confidence)
        for code, group in enumerate(groups, len(task.classes)):
            place = (human == code) & np.isin(label, group)
            within[place] = confidence[place] / np.maximum(shares[group].sum(0)[place], 1e-6)
        confidence = within
    mask = np.full(label.shape, UNLABELLED, np.uint8)
    if rule.soft:
        said = (confidence > 0) & (votes >= rule.agree)
        mask[said] = label[said]
        return SoftMask(mask, np.round(255 * confidence * said).astype(np.uint8))
    # The largest sets first, so that the smallest one that is sure is what remains.
    codes = sorted(enumerate(groups, len(task.classes)), key=lambda pair: -len(pair[1]))
    for code, group in codes if human is None else ():
        agreed = sum((said & np.isin(answer, group)).astype(int) for answer, said in answers)
        mask[(shares[group].sum(0) >= sure[group].max()) & (agreed >= rule.agree)] = code
    known_class = (confidence >= sure[label]) & (votes >= rule.agree)
    mask[known_class] = label[known_class]
    return mask


def attribute_label(
    known: Sequence[NDArray[np.float32]], task: Task, rule: Rule
) -> tuple[str, float] | None:
    """Class name and probability of an image attribute; None where the teachers are not sure."""
    shares = np.mean(known, axis=0)
    label = int(shares.argmax())
    votes = sum(int(one.argmax()) == label for one in known)
    if shares[label] < rule.thresholds(task)[label] or votes < rule.agree:
        return None
    return task.classes[label], round(float(shares[label]), 4)


def _go_together(task: Task, first: int, second: int) -> bool:
    """Whether boxes of two classes may lie on each other: a rider and what he rides."""
    names = {task.classes[first], task.classes[second]}
    return bool(names & {'rider', 'pedestrian'}) and bool(names & {'bicycle', 'motorcycle'})


def _tenth(value: np.float32) -> float:
    return round(float(value), 1)
