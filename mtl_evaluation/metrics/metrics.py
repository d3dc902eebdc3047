"""Accuracy metrics with one owner: training validates with them, replay and demo report them.

Each metric is a sum over frames: `update` adds one frame, `merge` adds another metric's frames, and
merging parts gives exactly the result of one pass, in whatever order. All scores are fractions in
[0, 1]; None means that the truth holds nothing to measure, which is not the same as 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mtl_evaluation.metrics.average_precision import (
    MatchTable,
    Ranking,
    ScoredImage,
    best_of_each_class,
    match,
)
from mtl_evaluation.metrics.checks import check_kind, check_same_task, mean_of_known
from mtl_evaluation.metrics.classification import ClassificationMetric
from mtl_evaluation.metrics.depth import DepthMetric
from mtl_evaluation.metrics.normals import NormalsMetric
from mtl_perception.decode import Thresholds
from mtl_perception.tasks import UNLABELLED, Task

THRESHOLDS = Thresholds(score=0.001, max_detections=300, across_iou=1.0)
"""What accuracy is measured with: the node's own score threshold would cut off the curve that
average precision is the area of."""

DRIVABLE_BACKGROUND = 'background'
"""Class whose labelled pixels BDD100K's official drivable mIoU leaves out."""


class Boxes(Protocol):
    """What `DetectionMetric` reads of a prediction: `decode.Detections` has this shape.

    boxes float32 [N, 4] xyxy source pixels, scores float32 [N], labels integer [N].
    """

    @property
    def boxes(self) -> NDArray[Any]: ...  # noqa: D102
    @property
    def scores(self) -> NDArray[Any]: ...  # noqa: D102
    @property
    def labels(self) -> NDArray[Any]: ...  # noqa: D102


class SegmentationMetric:
    """Confusion of one segmentation task over all labelled pixels of all frames.

    A pixel whose truth is 255 is not counted. A labelled pixel predicted as anything outside the
    class table (255, say) is a miss of its class: it lowers that class's IoU and no other's.
    """

    def __init__(self, task: Task) -> None:
        """Start from no frame; raises ValueError when the task is not a segmentation task."""
        check_kind(task, 'segmentation')
        self.task = task
        self.frames = 0
        classes = len(task.classes)
        self.confusion: NDArray[np.int64] = np.zeros((classes, classes), np.int64)
        """Pixels by [truth, prediction]."""
        self.unanswered: NDArray[np.int64] = np.zeros(classes, np.int64)
        """Labelled pixels by truth whose prediction is outside the class table."""

    def update(self, prediction: NDArray[np.uint8], truth: NDArray[np.uint8]) -> None:
        """Add one frame: two uint8 [H, W] class maps of one size.

        Raises ValueError when sizes or types differ, or when the truth holds an id that is neither
        a class of this task nor 255: then the class tables differ and any number would be wrong.
        """
        for name, mask in (('prediction', prediction), ('truth', truth)):
            if mask.dtype != np.uint8 or mask.ndim != 2:
                raise ValueError(
                    f'{self.task.name} {name} must be uint8 [H, W], got {mask.dtype} {mask.shape}'
                )
        if prediction.shape != truth.shape:
            raise ValueError(
                f'{self.task.name} prediction is {prediction.shape}, truth is {truth.shape} [H, W]'
            )
        counts = _joint_histogram(truth, prediction)
        classes = len(self.task.classes)
        strangers = np.flatnonzero(counts[classes:UNLABELLED].any(1)) + classes
        if strangers.size:
            raise ValueError(
                f'{self.task.name} truth holds ids {strangers.tolist()}, expected below {classes} '
                f'or {UNLABELLED} (unlabelled): it was labelled with another class table'
            )
        self.confusion += counts[:classes, :classes]
        self.unanswered += counts[:classes, classes:].sum(1)
        self.frames += 1

    def merge(self, other: SegmentationMetric) -> None:
        """Add another metric's frames; raises ValueError when its task differs."""
        check_same_task(self.task, other.task)
        self.confusion += other.confusion
        self.unanswered += other.unanswered
        self.frames += other.frames

    def result(self) -> dict[str, Any]:
        """Scores so far.

        miou: mean IoU over the classes with at least one labelled pixel. iou: by class, None for a
        class that the truth lacks. pixel_accuracy: share of labelled pixels answered rightly.

        A task with a class `background` (drivable) also has `official_miou`, BDD100K's figure:
        pixels whose label is background are dropped, the mean is over the other classes present.
        It forgives all area that is wrongly called drivable; read `miou`, which does not, beside
        it. And `two_class_miou`, the YOLOP family's figure: background against everything else,
        which is the fair one where the truth does not tell the other classes apart.
        """
        iou = self._iou(self.confusion, self.unanswered)
        labelled = int(self.confusion.sum() + self.unanswered.sum())
        result: dict[str, Any] = {
            'frames': self.frames,
            'labelled_pixels': labelled,
            'miou': mean_of_known(iou),
            'pixel_accuracy': float(np.trace(self.confusion) / labelled) if labelled else None,
            'iou': dict(zip(self.task.classes, iou, strict=True)),
        }
        if DRIVABLE_BACKGROUND in self.task.classes:
            background = self.task.classes.index(DRIVABLE_BACKGROUND)
            confusion, unanswered = self.confusion.copy(), self.unanswered.copy()
            confusion[background] = unanswered[background] = 0
            official = self._iou(confusion, unanswered)
            result['official_miou'] = mean_of_known(official)
            result['official_iou'] = {
                name: value
                for name, value in zip(self.task.classes, official, strict=True)
                if name != DRIVABLE_BACKGROUND
            }
            result['two_class_miou'] = mean_of_known(self._iou(*self._against(background)))
        return result

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """For storage; `from_arrays` is the inverse."""
        return {
            'frames': np.array(self.frames, np.int64),
            'confusion': self.confusion,
            'unanswered': self.unanswered,
        }

    @classmethod
    def from_arrays(cls, task: Task, arrays: Mapping[str, NDArray[Any]]) -> SegmentationMetric:
        """What `to_arrays` gave."""
        metric = cls(task)
        metric.frames = int(arrays['frames'])
        metric.confusion, metric.unanswered = arrays['confusion'], arrays['unanswered']
        return metric

    def _against(self, label: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Confusion [2, 2] and unanswered [2] of one class against all others taken together."""
        side = (np.arange(len(self.confusion)) == label).astype(np.int64)
        confusion, unanswered = np.zeros((2, 2), np.int64), np.zeros(2, np.int64)
        np.add.at(confusion, (side[:, None], side[None, :]), self.confusion)
        np.add.at(unanswered, side, self.unanswered)
        return confusion, unanswered

    @staticmethod
    def _iou(confusion: NDArray[np.int64], unanswered: NDArray[np.int64]) -> list[float | None]:
        truth = confusion.sum(1) + unanswered
        union = truth + confusion.sum(0) - np.diag(confusion)
        return [
            float(confusion[i, i] / union[i]) if truth[i] else None for i in range(len(confusion))
        ]


class DetectionMetric:
    """Average precision in BDD100K's conventions (`average_precision.py`).

    AP is COCO's (IoU 0.50 to 0.95, 101 recall points, at most 100 detections a class and image).
    As in Scalabel's evaluator a box's width is x2 - x1 + 1, and an ignored truth box (crowd, or a
    category that is mapped but not scored) is a COCO crowd: detections on it are neither right nor
    wrong. Only classes with a truth box that is not ignored enter the means. Area ranges are
    COCO's, in pixels of the coordinates given (BDD100K: 1280x720).
    """

    def __init__(self, task: Task) -> None:
        """Start from no image; raises ValueError when the task is not a detection task."""
        check_kind(task, 'detection')
        self.task = task
        self.images: dict[str, ScoredImage] = {}
        """By image id."""

    @property
    def frames(self) -> int:
        """Images so far."""
        return len(self.images)

    def update(
        self,
        image_id: str,
        predicted: Boxes,
        boxes: ArrayLike,
        labels: ArrayLike,
        ignore: ArrayLike | None = None,
        *,
        width: int,
        height: int,
    ) -> None:
        """Add one image of width x height pixels.

        predicted: as `Boxes`; boxes [N, 4] xyxy and labels [N] are the truth, ignore bool [N] marks
        the truth boxes that are not scored (none by default); an image without objects has N = 0.
        Raises ValueError when the image was added before, lengths differ, a label is no class of
        the task, or a value is not finite.
        """
        if image_id in self.images:
            raise ValueError(f'image {image_id!r} was added before; every image counts once')
        truth = np.asarray(boxes, np.float64).reshape(-1, 4)
        truth_labels = np.asarray(labels, np.int64).reshape(-1)
        ignored = (
            np.zeros(len(truth), bool) if ignore is None else np.asarray(ignore, bool).reshape(-1)
        )
        found = np.asarray(predicted.boxes, np.float64).reshape(-1, 4)
        scores = np.asarray(predicted.scores, np.float64).reshape(-1)
        found_labels = np.asarray(predicted.labels, np.int64).reshape(-1)
        if not len(truth) == len(truth_labels) == len(ignored):
            raise ValueError(
                f'image {image_id!r}: {len(truth)} truth boxes, {len(truth_labels)} labels, '
                f'{len(ignored)} ignore flags'
            )
        if not len(found) == len(scores) == len(found_labels):
            raise ValueError(
                f'image {image_id!r}: {len(found)} predicted boxes, {len(scores)} scores, '
                f'{len(found_labels)} labels'
            )
        every_label = np.concatenate([truth_labels, found_labels])
        if every_label.size and not 0 <= every_label.min() <= every_label.max() < len(
            self.task.classes
        ):
            raise ValueError(
                f'image {image_id!r}: labels from {every_label.min()} to {every_label.max()}, '
                f'{self.task.name} has {len(self.task.classes)} classes'
            )
        if not all(np.isfinite(values).all() for values in (truth, found, scores)):
            raise ValueError(f'image {image_id!r}: a box or score is not a finite number')
        kept = best_of_each_class(scores, found_labels)
        self.images[image_id] = ScoredImage(
            width, height, found[kept], scores[kept], found_labels[kept],
            truth, truth_labels, ignored,
        )  # fmt: skip

    def merge(self, other: DetectionMetric) -> None:
        """Add another metric's images; raises ValueError if tasks differ or an image is in both."""
        check_same_task(self.task, other.task)
        twice = self.images.keys() & other.images.keys()
        if twice:
            raise ValueError(f'{len(twice)} images are in both metrics, {min(twice)!r} among them')
        self.images.update(other.images)

    def ranked(self) -> Ranking:
        """Every detection matched and ranked: what all figures are made of."""
        table = MatchTable(self.task.classes)
        for image_id, image in self.images.items():
            table.add(image_id, match(image, len(self.task.classes)))
        return table.ranked()

    def result(self) -> dict[str, Any]:
        """Scores so far: AP, AP50, AP75, APs/APm/APl, the same `per_class`, and counts.

        None where no truth box of the class (or of the size) exists. `objects` counts truth boxes
        by class, ignored ones apart in `ignored`.
        """
        return self.ranked().result()

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """For storage; `from_arrays` is the inverse."""
        images = list(self.images.values())
        sizes = [
            (image.width, image.height, len(image.scores), len(image.truth)) for image in images
        ]
        arrays: dict[str, NDArray[Any]] = {
            'ids': np.frombuffer('\n'.join(self.images).encode(), np.uint8),
            'sizes': np.array(sizes, np.int64).reshape(-1, 4),
        }
        for name, empty in _IMAGE_ARRAYS.items():
            parts = [getattr(image, name) for image in images]
            arrays[name] = np.concatenate(parts) if parts else empty
        return arrays

    @classmethod
    def from_arrays(cls, task: Task, arrays: Mapping[str, NDArray[Any]]) -> DetectionMetric:
        """What `to_arrays` gave."""
        metric = cls(task)
        ids = arrays['ids'].tobytes().decode().split('\n')
        found = truth = 0
        for image_id, (width, height, predicted, labelled) in zip(
            ids, arrays['sizes'].tolist(), strict=False
        ):
            parts = {
                name: arrays[name][truth : truth + labelled]
                if name in ('truth', 'truth_labels', 'ignore')
                else arrays[name][found : found + predicted]
                for name in _IMAGE_ARRAYS
            }
            metric.images[image_id] = ScoredImage(width, height, **parts)
            found, truth = found + predicted, truth + labelled
        return metric


_IMAGE_ARRAYS: dict[str, NDArray[Any]] = {
    'predicted': np.zeros((0, 4)),
    'scores': np.zeros(0),
    'predicted_labels': np.zeros(0, np.int64),
    'truth': np.zeros((0, 4)),
    'truth_labels': np.zeros(0, np.int64),
    'ignore': np.zeros(0, bool),
}
"""Arrays of a `ScoredImage`, as they are when it is empty."""


Metric: TypeAlias = (
    SegmentationMetric | DetectionMetric | ClassificationMetric | DepthMetric | NormalsMetric
)

_METRICS: dict[str, type[Metric]] = {
    'segmentation': SegmentationMetric,
    'detection': DetectionMetric,
    'classification': ClassificationMetric,
    'depth': DepthMetric,
    'normals': NormalsMetric,
}


def metric_for(task: Task) -> Metric:
    """The metric of the task's kind from no frame."""
    return _METRICS[task.kind](task)


def metric_from(task: Task, arrays: Mapping[str, NDArray[Any]]) -> Metric:
    """The metric whose `to_arrays` gave these."""
    return _METRICS[task.kind].from_arrays(task, arrays)


def _joint_histogram(truth: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Pixels by [truth, prediction], int64 [256, 256].

    Masks are made of areas, so runs of equal pairs are counted, not pixels: a third of the time of
    `cv2.calcHist`, which is itself twice as fast as `np.bincount` of all pairs.
    """
    pairs = cv2.merge([prediction, truth]).view(np.uint16).ravel()
    ends = np.flatnonzero(pairs[1:] != pairs[:-1])
    if len(ends) > pairs.size // 20:  # noise
        return np.bincount(pairs, minlength=1 << 16).reshape(256, 256)
    ends = np.append(ends, pairs.size - 1)
    lengths = np.diff(ends, prepend=-1)
    counts = np.bincount(pairs[ends], weights=lengths, minlength=1 << 16)
    return counts.astype(np.int64).reshape(256, 256)
