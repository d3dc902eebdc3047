# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Boxes of many images, and average precision of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mtl_evaluation.metrics.average_precision import (
    IOUS,
    Matches,
    MatchTable,
    Ranking,
    ScoredImage,
    best_of_each_class,
    mean_precision,
)
from mtl_evaluation.metrics.checks import check_kind, check_same_task
from mtl_evaluation.metrics.sums import ALL, Chosen, Figures, Weights, of_class
from mtl_perception.tasks import Task

AP_IOUS = {'AP': range(len(IOUS)), 'AP50': (0,), 'AP75': (5,)}
"""Indices into `IOUS` that a figure is the mean over."""

_CHUNK = 2_000_000
"""Values of precision held at a time."""


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


class DetectionMetric:
    """Average precision in BDD100K's conventions (`average_precision.py`).

    AP is COCO's (IoU 0.50 to 0.95, 101 recall points, at most 100 detections per class and image).
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

    @staticmethod
    def figure_names(task: Task) -> Iterator[str]:
        """Names of all figures, the headline first."""
        yield from ('AP50', 'AP', 'AP75')
        yield from (f'{name}/{label}' for name in AP_IOUS for label in task.classes)

    def ranked(self) -> Ranking:
        """Every detection matched and ranked: what all figures are made of."""
        table = MatchTable(self.task.classes)
        for image_id, image in self.images.items():
            table.add(image_id, image)
        return table.ranked()

    def result(self) -> dict[str, Any]:
        """Scores so far: AP, AP50, AP75, APs/APm/APl, the same `per_class`, and counts.

        None where no truth box of the class (or of the size) exists. `objects` counts truth boxes
        by class, ignored ones apart in `ignored`.
        """
        return self.ranked().result()

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """For storage, matches included; `from_arrays` is the inverse."""
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
        for name, empty in _MATCH_ARRAYS.items():
            parts = [getattr(image.matches, name) for image in images]
            arrays[name] = np.concatenate(parts) if parts else empty
        return arrays

    @classmethod
    def from_arrays(cls, task: Task, arrays: Mapping[str, NDArray[Any]]) -> DetectionMetric:
        """What `to_arrays` gave; runs of before matches were stored have them found anew."""
        metric = cls(task)
        ids = arrays['ids'].tobytes().decode().split('\n')
        found = truth = 0
        for image_id, (width, height, predicted, labelled) in zip(
            ids, arrays['sizes'].tolist(), strict=False
        ):
            of_found, of_truth = slice(found, found + predicted), slice(truth, truth + labelled)
            parts = {
                name: array[of_truth if name in _OF_TRUTH else of_found]
                for name, array in arrays.items()
                if name in _IMAGE_ARRAYS or name in _MATCH_ARRAYS
            }
            known = {name: parts.pop(name) for name in _MATCH_ARRAYS if name in parts}
            metric.images[image_id] = ScoredImage(
                width, height, **parts, known=Matches(**known) if known else None
            )
            found, truth = of_found.stop, of_truth.stop
        return metric


class DetectionTable:
    """Matches of all frames, ranked once."""

    def __init__(self, task: Task) -> None:
        """Start from no frame."""
        self.task = task
        self._matches = MatchTable(task.classes)
        self._ranking: Ranking | None = None

    def add(self, piece: DetectionMetric) -> None:
        """Append a frame."""
        ((key, image),) = piece.images.items()
        self._matches.add(key, image)
        self._ranking = None

    def figures(
        self, weights: Weights, chosen: Chosen = ALL, wanted: Collection[str] | None = None
    ) -> Figures:
        """Figures of each sample over the chosen frames; weights [samples, frames].

        wanted: names of figures that are needed (all by default); AP takes ten times AP50's work.
        """
        names = [name for name in AP_IOUS if wanted is None or _asked(name, wanted)]
        ious = sorted({iou for name in names for iou in AP_IOUS[name]})
        counted = np.zeros_like(weights)
        counted[:, chosen] = weights[:, chosen]
        classes = self.task.classes
        figures: Figures = {
            key: np.full(len(weights), np.nan)
            for key in (*names, *(f'{name}/{label}' for name in names for label in classes))
        }
        step = max(1, _CHUNK // (101 * max(1, len(ious)) * len(classes)))
        for first in range(0, len(weights), step):
            rows = slice(first, first + step)
            precision = self.ranking.precision(counted[rows], ious, (0,))[..., 0]
            for name in names:
                of = precision[:, [ious.index(iou) for iou in AP_IOUS[name]]]
                figures[name][rows] = mean_precision(of)
                for index, label in enumerate(classes):
                    figures[f'{name}/{label}'][rows] = mean_precision(of[..., index : index + 1])
        return figures

    def evidence(self, figure: str) -> NDArray[np.bool_]:
        """Which frames say something about a figure: those with an object of its class."""
        return of_class(self.ranking.truth[:, :, 0] > 0, self.task, figure)

    @property
    def ranking(self) -> Ranking:
        """All detections so far."""
        if self._ranking is None:
            self._ranking = self._matches.ranked()
        return self._ranking


def _asked(name: str, wanted: Collection[str]) -> bool:
    return any(figure == name or figure.startswith(f'{name}/') for figure in wanted)


_IMAGE_ARRAYS: dict[str, NDArray[Any]] = {
    'predicted': np.zeros((0, 4)),
    'scores': np.zeros(0),
    'predicted_labels': np.zeros(0, np.int64),
    'truth': np.zeros((0, 4)),
    'truth_labels': np.zeros(0, np.int64),
    'ignore': np.zeros(0, bool),
}
"""Arrays of a `ScoredImage`, as they are when it is empty."""

_MATCH_ARRAYS: dict[str, NDArray[Any]] = {
    'right': np.zeros(0, np.uint64),
    'ignored': np.zeros(0, np.uint64),
    'taken_by': np.zeros(0, np.int64),
}
"""Arrays of `Matches`, likewise."""

_OF_TRUTH = ('truth', 'truth_labels', 'ignore', 'taken_by')
"""Arrays with a row per truth box; the others have one per detection."""
