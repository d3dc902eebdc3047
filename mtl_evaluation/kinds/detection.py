# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Detection: average precision, missed objects and false boxes, recall by height, steadiness."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.kinds.base import Curve, Figure, Flaw, Image, Kind, Panel, Parts
from mtl_evaluation.messages.cdr import (
    DETECTIONS,
    boxes_of,
    detection_message,
    truth_boxes_of,
    typestore,
)
from mtl_evaluation.metrics.average_precision import ScoredImage, at_iou_50
from mtl_evaluation.metrics.curves import detection_confusion, precision_recall
from mtl_evaluation.metrics.detection import DetectionMetric, DetectionTable
from mtl_evaluation.metrics.gathered import Ranked
from mtl_evaluation.metrics.road import HEIGHTS_PX, RoadRecall, band_names
from mtl_evaluation.metrics.temporal import BOX_COUNTS, Stability
from mtl_evaluation.truth.truth import Truth, TruthBoxes, class_ids
from mtl_perception.frame import Detections
from mtl_perception.tasks import Task

SHOWN_SCORE = 0.3
"""Detections below this score are measured but not painted."""

RECALLS = [f'recall/{name}' for name in band_names(HEIGHTS_PX, 'px')]


class DetectionKind(Kind):
    """The truth is `TruthBoxes`, whose classes have to be the task's."""

    name = 'detection'
    metric = DetectionMetric
    figures: ClassVar[Mapping[str, Figure]] = {
        'AP50': Figure('AP50'),
        'AP': Figure('AP'),
        'AP75': Figure('AP75'),
        'recall': Figure('recall of objects'),
        'vanished': Figure('boxes that vanish for a frame', lower_is_better=True),
        'score_jitter': Figure('score jitter', lower_is_better=True),
        'id_switch_rate': Figure('id switches for each object in a frame', lower_is_better=True),
    }
    headlines = ('AP50', 'AP', 'HOTA')
    in_slices = ('AP50',)  # AP takes ten times the work
    class_figure = 'AP50'
    checked = 'AP'
    flaw_title = 'mistakes'
    worst_rule = f'most missed objects and false boxes (IoU 0.5, score at least {SHOWN_SCORE:g})'
    counted = 'objects'
    background = True
    named = True

    def truth(self, truth: Truth, task: Task) -> TruthBoxes | None:
        """Of whatever detection task: a frame has one list of boxes."""
        return truth.boxes

    def truth_from(self, message: Any, name: str) -> Truth:
        """Of a Detection2DArray."""
        return Truth(truth_boxes_of(message))

    def as_answer(self, truth: TruthBoxes, task: Task) -> Detections:
        """Without ignored boxes, and without scores."""
        kept = ~truth.ignore
        labels = np.array(class_ids(task, truth.classes), np.int64)[kept]
        boxes = truth.boxes[kept]
        return Detections(boxes, np.full(len(boxes), np.nan, np.float32), labels)

    def to_message(self, header: Any, answer: Detections, task: Task) -> Any:
        """A Detection2DArray."""
        items = [
            detection_message(header, box, task.classes[label], score)
            for box, score, label in zip(
                answer.boxes.tolist(), answer.scores.tolist(), answer.labels.tolist(), strict=True
            )
        ]
        return typestore().types[DETECTIONS](header, items)

    def from_message(self, message: Any, task: Task) -> Detections:
        """Of a Detection2DArray."""
        boxes, names = boxes_of(message)
        scores = [item.results[0].hypothesis.score for item in message.detections if item.results]
        return Detections(
            boxes, np.array(scores, np.float32), np.array(class_ids(task, names), np.int64)
        )

    def rerun(self, rr: Any, answer: Detections, task: Task, labels: Sequence[str]) -> Any:
        """Boxes with their texts."""
        return rr.Boxes2D(
            array=answer.boxes, array_format=rr.Box2DFormat.XYXY, class_ids=answer.labels,
            labels=labels,
        )  # fmt: skip

    def measure(
        self, metric: DetectionMetric, key: str, answer: Detections, truth: TruthBoxes,
        size: tuple[int, int],
    ) -> None:  # fmt: skip
        """As the metric's `update`."""
        labels = class_ids(metric.task, truth.classes)
        metric.update(key, answer, truth.boxes, labels, truth.ignore, width=size[0], height=size[1])

    def gathered(self, task: Task) -> Ranked:
        """Detections are ranked over all frames."""
        return Ranked(task)

    def table(self, task: Task) -> DetectionTable:
        """Likewise."""
        return DetectionTable(task)

    def fingerprint(self, piece: DetectionMetric) -> int:
        """Of boxes, classes and ignored regions."""
        return hash(
            tuple(
                (image.truth.tobytes(), image.truth_labels.tobytes(), image.ignore.tobytes())
                for image in piece.images.values()
            )
        )

    def flaw(self, piece: DetectionMetric) -> Flaw:
        """Missed objects and false boxes (IoU 0.5, score at least what pictures show)."""
        missed = false = objects = 0
        for image in piece.images.values():
            shown = image.scores >= SHOWN_SCORE
            right = at_iou_50(image.matches.right[shown])
            passed = at_iou_50(image.matches.ignored[shown])
            scored = int((~image.unscored[:, 0]).sum())
            objects += scored
            missed += scored - int(right.sum())
            false += int((~right & ~passed).sum())
        return Flaw(missed + false, f'{missed} of {objects} objects missed, {false} false')

    def ratio_names(self, task: Task) -> list[str]:
        """Recall by box height, and steadiness."""
        return [*RECALLS, 'vanished', 'score_jitter']

    def ratios(
        self, task: Task, piece: DetectionMetric | None, stability: Stability | None
    ) -> Parts:
        """Of one frame."""
        found: Parts = {}
        if piece is not None:
            road = RoadRecall(task.classes)
            for image in piece.images.values():
                road.add(image, '')
            for name, (objects, hits) in zip(RECALLS, road.by_height.sum(0), strict=True):
                found[name] = float(hits), float(objects)
        boxes = None if stability is None else stability.boxes.get(task.name)
        if boxes is not None:
            n = dict(zip(BOX_COUNTS, boxes.tolist(), strict=True))
            found['vanished'] = n['vanished'], n['found_again']
            # Kept as millionths.
            found['score_jitter'] = n['jitter'] / 1e6, n['linked']
        return found

    def rows(self, result: Mapping[str, Any]) -> list[tuple[str, str]]:
        """AP50 and AP; tracks are measured elsewhere."""
        return [('AP50', 'AP50'), ('AP', 'AP (0.50:0.95)')]

    def by_class(self, result: Mapping[str, Any]) -> dict[str, float | None]:
        """AP50."""
        return {label: value['AP50'] for label, value in result['per_class'].items()}

    def confusion(self, piece: DetectionMetric) -> NDArray[np.int64]:
        """Of objects; the last row and column are background."""
        return detection_confusion(piece)

    def curves(self, table: DetectionTable) -> dict[str, Curve]:
        """At IoU 0.5."""
        return precision_recall(table.ranking) if table.ranking.keys else {}

    def panels(
        self, image: Image, answer: Detections | None, truth: TruthBoxes | None, task: Task
    ) -> Iterator[Panel]:
        """With what became of every box."""
        yield from super().panels(image, answer, truth, task)
        if answer is not None and truth is not None:
            title = 'missed red, false orange, found green'
            yield Panel(title, _box_errors(image, answer, truth, task))


def shown(found: Detections) -> Detections:
    """Those that are painted."""
    kept = found.scores >= SHOWN_SCORE
    return Detections(found.boxes[kept], found.scores[kept], found.labels[kept])


def _box_errors(image: Image, found: Detections, truth: TruthBoxes, task: Task) -> Image:
    """Boxes by what became of them at IoU 0.5: missed red, false orange, found green."""
    labels = np.array(class_ids(task, truth.classes), np.int64)
    height, width = image.shape[:2]
    scored = ScoredImage(
        width, height, found.boxes.astype(np.float64), found.scores.astype(np.float64),
        found.labels.astype(np.int64), truth.boxes.astype(np.float64), labels, truth.ignore,
    )  # fmt: skip
    matches = scored.matches
    wrong = ~at_iou_50(matches.right) & ~at_iou_50(matches.ignored)
    missed = ~truth.ignore & (matches.taken_by < 0)
    got = ~truth.ignore & (matches.taken_by >= 0)
    painted = np.asarray(cv2.addWeighted(image, 0.6, np.zeros_like(image), 0.4, 0), np.uint8)
    line = max(1, round(height / 300))
    for boxes, colour, thick in (
        (truth.boxes[got], (70, 210, 120), line),
        (found.boxes[wrong], (255, 160, 40), line + 1),
        (truth.boxes[missed], (245, 60, 70), line + 1),
    ):
        for left, top, right, bottom in np.round(boxes).astype(int).tolist():
            cv2.rectangle(painted, (left, top), (right, bottom), colour, thick, cv2.LINE_AA)
    return painted


KIND = DetectionKind()
