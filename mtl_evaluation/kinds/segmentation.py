# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Segmentation: mean IoU by pixels, flicker, masks side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.kinds.base import Figure, Flaw, Image, Kind, Panel, Parts
from mtl_evaluation.messages.cdr import image_message, mask_of
from mtl_evaluation.metrics.segmentation import SegmentationMetric
from mtl_evaluation.metrics.temporal import MASK_COUNTS, Stability
from mtl_evaluation.truth.truth import Truth, same_size
from mtl_perception import overlay
from mtl_perception.frame import Result
from mtl_perception.tasks import UNLABELLED, Task


class SegmentationKind(Kind):
    """The truth is a mask of class ids, 255 where a pixel is unlabelled."""

    name = 'segmentation'
    metric = SegmentationMetric
    figures: ClassVar[Mapping[str, Figure]] = {
        'miou': Figure('mIoU'),
        'official_miou': Figure('mIoU as BDD100K counts it'),
        'two_class_miou': Figure('mIoU drivable / not'),
        'pixel_accuracy': Figure('pixel accuracy'),
        'iou': Figure('IoU'),
        'flicker': Figure('flicker', lower_is_better=True),
        'blink': Figure('blink', lower_is_better=True),
    }
    headlines = ('miou', 'official_miou', 'two_class_miou')
    class_figure = 'iou'
    checked = 'miou'
    flaw_title = '1 - mIoU'
    worst_rule = 'lowest mean IoU over the classes labelled in the frame'
    counted = 'pixels'
    named = True

    def truth(self, truth: Truth, task: Task) -> NDArray[np.uint8] | None:
        """Its mask."""
        return truth.masks.get(task.name)

    def truth_from(self, message: Any, name: str) -> Truth:
        """Of a mono8 image."""
        return Truth(masks={name: mask_of(message)})

    def to_message(self, header: Any, answer: NDArray[np.uint8], task: Task) -> Any:
        """A mono8 image."""
        return image_message(header, answer, 'mono8')

    def from_message(self, message: Any, task: Task) -> NDArray[np.uint8]:
        """Of a mono8 image."""
        return mask_of(message)

    def rerun(self, rr: Any, answer: NDArray[np.uint8], task: Task, labels: Sequence[str]) -> Any:
        """Half transparent."""
        return rr.SegmentationImage(answer, opacity=0.5)

    def measure(
        self, metric: SegmentationMetric, key: str, answer: NDArray[np.uint8],
        truth: NDArray[np.uint8], size: tuple[int, int],
    ) -> None:  # fmt: skip
        """At the size of the answer."""
        metric.update(answer, same_size(truth, answer))

    def fingerprint(self, piece: SegmentationMetric) -> int:
        """Of the labelled pixels of each class."""
        return hash((piece.confusion.sum(1) + piece.unanswered).tobytes())

    def flaw(self, piece: SegmentationMetric) -> Flaw:
        """1 - mIoU over the classes labelled in the frame."""
        result = piece.result()
        if result['miou'] is None:
            return Flaw(0.0, 'nothing labelled')
        present = {name: iou for name, iou in result['iou'].items() if iou is not None}
        lowest = sorted(present, key=lambda name: present[name])[:2]
        named = ', '.join(f'{name} {100 * present[name]:.0f}' for name in lowest)
        return Flaw(1 - result['miou'], f'mIoU {100 * result["miou"]:.0f} (lowest: {named})')

    def ratio_names(self, task: Task) -> list[str]:
        """Steadiness."""
        return ['flicker', 'blink']

    def ratios(
        self, task: Task, piece: SegmentationMetric | None, stability: Stability | None
    ) -> Parts:
        """Of one frame."""
        masks = None if stability is None else stability.masks.get(task.name)
        if masks is None:
            return {}
        n = dict(zip(MASK_COUNTS, masks.tolist(), strict=True))
        return {
            'flicker': (n['flickered'], n['labelled'] - n['truth_changed']),
            'blink': (n['blinked'], n['triples']),
        }

    def rows(self, result: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Of a drivable area all three ways to count it, where they differ."""
        # With one class beside the background all three figures are nearly one.
        if 'official_miou' in result and len(result['iou']) > 2:
            rest = [(key, self.figures[key].title) for key in self.headlines[1:]]
            return [('miou', 'mIoU strict'), *rest]
        return [('miou', 'mIoU'), ('pixel_accuracy', 'pixel accuracy')]

    def confusion(self, piece: SegmentationMetric) -> NDArray[np.int64]:
        """Of pixels."""
        return piece.confusion

    def panels(
        self, image: Image, answer: NDArray[np.uint8] | None, truth: NDArray[np.uint8] | None,
        task: Task,
    ) -> Iterator[Panel]:  # fmt: skip
        """Strongly painted; the wrong pixels red."""
        if answer is None:
            yield from super().panels(image, answer, truth, task)
            return
        yield Panel('predicted', _painted(image, answer, task))
        if truth is not None:
            expected = same_size(truth, answer)
            yield Panel('truth', _painted(image, expected, task))
            yield Panel('wrong pixels in red', errors(image, answer, expected))


def _painted(image: Image, mask: NDArray[np.uint8], task: Task) -> Image:
    """The mask on the picture; strongly, unless its table leaves classes unpainted."""
    if all(any(colour) for colour in task.colours):
        return tinted(image, mask, task)
    return overlay.draw(image, Result({task.name: mask}), [task], task.name)


def tinted(image: Image, mask: NDArray[np.uint8], task: Task) -> Image:
    """The picture under the colours of the classes."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(task.colours)] = task.colours
    return np.asarray(cv2.addWeighted(image, 0.35, table[mask], 0.65, 0), np.uint8)


def errors(image: Image, mask: NDArray[np.uint8], truth: NDArray[np.uint8]) -> Image:
    """Wrong pixels red, unlabelled ones dark, right ones as grey as the picture."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    painted = np.repeat(grey[..., None], 3, 2)
    painted[truth == UNLABELLED] //= 4
    wrong = (mask != truth) & (truth != UNLABELLED)
    red = np.array([235, 45, 60], np.float32)
    painted[wrong] = (0.35 * painted[wrong] + 0.65 * red).astype(np.uint8)
    return np.asarray(painted, np.uint8)


KIND = SegmentationKind()
