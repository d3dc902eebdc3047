"""Which frames are worth looking at: how wrong each frame is by task, and the worst of a run.

How wrong: of detections the number of missed objects and false boxes (IoU 0.5, score at least what
pictures show), of a mask 1 - mIoU over the classes labelled in the frame, of a scene label 1 when
it is wrong. Of frames within a second of each other in one camera only the worst is kept: a drive's
neighbouring frames go wrong together.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from functools import singledispatch

from mtl_perception.replay.pages.pictures import SHOWN_SCORE, at_iou_50
from mtl_perception.replay.runs.run import FrameRecord
from mtl_perception.replay.scoring.average_precision import match
from mtl_perception.replay.scoring.classification import ClassificationMetric
from mtl_perception.replay.scoring.metrics import DetectionMetric, SegmentationMetric
from mtl_perception.tasks import Task

FRAMES = 6
"""Frames a gallery."""

APART_NS = 1_000_000_000

RULES = {
    'detection': f'most missed objects and false boxes (IoU 0.5, score at least {SHOWN_SCORE:g})',
    'segmentation': 'lowest mean IoU over the classes labelled in the frame',
    'classification': 'wrong labels, spread over the run',
}
"""By task kind, what makes a frame one of the worst."""


@dataclass(frozen=True)
class Flaw:
    """How wrong a frame is at one task: 0 is right, more is worse; and the same in words."""

    badness: float
    text: str


@singledispatch
def flaw(piece: object) -> Flaw:
    """How wrong the one frame is that a metric piece holds."""
    raise TypeError(f'no rule says how wrong a {type(piece).__name__} is')


@flaw.register
def _(piece: DetectionMetric) -> Flaw:
    missed = false = objects = 0
    for image in piece.images.values():
        matches = match(image, len(piece.task.classes))
        shown = matches.scores >= SHOWN_SCORE
        right, passed = at_iou_50(matches.right[shown]), at_iou_50(matches.ignored[shown])
        objects += int(matches.truth[:, 0].sum())
        missed += int(matches.truth[:, 0].sum() - right.sum())
        false += int((~right & ~passed).sum())
    return Flaw(missed + false, f'{missed} of {objects} objects missed, {false} false')


@flaw.register
def _(piece: SegmentationMetric) -> Flaw:
    result = piece.result()
    if result['miou'] is None:
        return Flaw(0.0, 'nothing labelled')
    present = {name: iou for name, iou in result['iou'].items() if iou is not None}
    lowest = sorted(present, key=lambda name: present[name])[:2]
    named = ', '.join(f'{name} {100 * present[name]:.0f}' for name in lowest)
    return Flaw(1 - result['miou'], f'mIoU {100 * result["miou"]:.0f} (lowest: {named})')


@flaw.register
def _(piece: ClassificationMetric) -> Flaw:
    classes = piece.task.classes
    truth, found = (int(piece.confusion.sum(axis).argmax()) for axis in (1, 0))
    if truth == found:
        return Flaw(0.0, f'{classes[truth]}, rightly')
    return Flaw(1.0, f'called {classes[found]}, is {classes[truth]}')


class Worst:
    """The worst frames of a run at one task, found while its records pass by."""

    def __init__(self, task: Task) -> None:
        """Start from no frame."""
        self._kind = task.kind
        self._by_moment: dict[tuple[str, str, int], tuple[Flaw, str]] = {}

    def add(self, record: FrameRecord, found: Flaw) -> None:
        """Add a frame; right ones are never among the worst."""
        # Images without stamps are not neighbours of each other.
        moment = record.stamp_ns // APART_NS if record.stamp_ns else record.index
        place = (record.bag, record.camera, moment)
        before = self._by_moment.get(place)
        if found.badness > (before[0].badness if before else 0):
            self._by_moment[place] = found, record.key

    def frames(self, count: int = FRAMES) -> list[tuple[str, Flaw]]:
        """Keys of up to `count` frames with their flaws, the worst first."""
        flaws = [(key, found) for found, key in self._by_moment.values()]
        if self._kind == 'classification':
            step = len(flaws) / count
            return flaws if step <= 1 else [flaws[int((i + 0.5) * step)] for i in range(count)]
        return heapq.nlargest(count, flaws, key=lambda item: (item[1].badness, item[0]))
