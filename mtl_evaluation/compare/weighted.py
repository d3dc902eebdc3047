"""The figures of `metrics.py` under weights: many bootstrap samples of a run at once.

A sample is a weight a frame, a slice is a choice of frames. Segmentation and classification are
sums of per-frame counts, so a weighted sum of counts gives their figures. Detections are matched
and ranked once (`average_precision.py`); a sample then only counts them again in that order. Under
weights of 1 every figure equals the metric's own `result`, which a test holds them to.

A table holds one row a frame that it was given; `figures` takes whole weights of the rows. Figures
are float64 [samples] by name (`AP50`, `iou/road`); NaN where a sample holds no truth.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.metrics.average_precision import (
    IOUS,
    RECALLS,
    MatchTable,
    Ranking,
    match,
)
from mtl_evaluation.metrics.classification import ClassificationMetric
from mtl_evaluation.metrics.metrics import (
    DRIVABLE_BACKGROUND,
    DetectionMetric,
    SegmentationMetric,
)
from mtl_perception.tasks import Task

Floats = NDArray[np.float64]
Weights = NDArray[np.float32]
Chosen = NDArray[np.int64] | slice
"""Rows that are counted: a slice of the run."""

ALL = slice(None)
Figures = dict[str, Floats]

AP_IOUS = {'AP': range(len(IOUS)), 'AP50': (0,), 'AP75': (5,)}
"""Indices into `IOUS` that a detection figure is the mean over."""

_CHUNK = 200_000
"""Detections times samples held at a time."""


class Counts:
    """Rows of numbers, kept as lists until the first sum is asked for."""

    def __init__(self) -> None:
        """Start from no row."""
        self._rows: list[NDArray[Any]] = []
        self._table: Floats | None = None

    def append(self, row: NDArray[Any]) -> None:
        """Add a row."""
        self._rows.append(row)
        self._table = None

    @property
    def table(self) -> Floats:
        """All rows, [rows, numbers]."""
        if self._table is None:
            self._table = np.array(self._rows, np.float64)
        return self._table

    def sums(self, weights: Weights, chosen: Chosen) -> Floats:
        """Weighted sums [samples, numbers] over the chosen rows."""
        return np.asarray(weights[:, chosen].astype(np.float64) @ self.table[chosen])


class SegmentationTable:
    """Pixel counts a frame: right, labelled and predicted by class, and what background became."""

    def __init__(self, task: Task) -> None:
        """Start from no frame."""
        self.task = task
        self._counts = Counts()

    def add(self, piece: SegmentationMetric) -> None:
        """Append a frame."""
        confusion = piece.confusion
        labelled = confusion.sum(1) + piece.unanswered
        background = confusion[self._background] if self._background is not None else ()
        self._counts.append(
            np.concatenate([np.diag(confusion), labelled, confusion.sum(0), background])
        )

    def figures(
        self, weights: Weights, chosen: Chosen = ALL, wanted: Collection[str] | None = None
    ) -> Figures:
        """Figures of each sample over the chosen frames; weights [samples, frames]."""
        sums = self._counts.sums(weights, chosen)
        classes = len(self.task.classes)
        right, labelled, predicted = (
            sums[:, start : start + classes] for start in range(0, 3 * classes, classes)
        )
        iou = _iou(right, labelled, predicted)
        found = {'miou': _mean(iou), 'pixel_accuracy': share(right.sum(1), labelled.sum(1))}
        found |= {f'iou/{name}': iou[:, i] for i, name in enumerate(self.task.classes)}
        if self._background is not None:
            rest = np.arange(classes) != self._background
            background = sums[:, 3 * classes :]
            # Without the pixels labelled background, as BDD100K counts.
            official = _iou(
                right[:, rest], labelled[:, rest], predicted[:, rest] - background[:, rest]
            )
            names = np.array(self.task.classes)[rest]
            found['official_miou'] = _mean(official)
            found |= {f'official_iou/{name}': official[:, i] for i, name in enumerate(names)}
            own = self._background
            sides = [(values[:, rest].sum(1), values[:, own]) for values in (labelled, predicted)]
            agreed = sides[1][0] - background[:, rest].sum(1), right[:, own]
            two = [_iou(agreed[i], sides[0][i], sides[1][i]) for i in range(2)]
            found['two_class_miou'] = _mean(np.stack(two, 1))
        return found

    def evidence(self, figure: str) -> NDArray[np.bool_]:
        """Which frames say something about a figure: those that label its class."""
        classes = len(self.task.classes)
        labelled = self._counts.table[:, classes : 2 * classes] > 0
        return _of_class(labelled, self.task, figure)

    @property
    def _background(self) -> int | None:
        classes = self.task.classes
        return classes.index(DRIVABLE_BACKGROUND) if DRIVABLE_BACKGROUND in classes else None


class ClassificationTable:
    """The confusion of each frame."""

    def __init__(self, task: Task) -> None:
        """Start from no frame."""
        self.task = task
        self._counts = Counts()

    def add(self, piece: ClassificationMetric) -> None:
        """Append a frame."""
        self._counts.append(piece.confusion.ravel())

    def figures(
        self, weights: Weights, chosen: Chosen = ALL, wanted: Collection[str] | None = None
    ) -> Figures:
        """Figures of each sample over the chosen frames; weights [samples, frames]."""
        classes = len(self.task.classes)
        confusion = self._counts.sums(weights, chosen).reshape(-1, classes, classes)
        right = np.einsum('nii->ni', confusion)
        labelled, predicted = confusion.sum(2), confusion.sum(1)
        f1 = np.where(labelled > 0, share(2 * right, labelled + predicted), np.nan)
        return {
            'accuracy': share(right.sum(1), labelled.sum(1)),
            'macro_f1': _mean(f1),
            **{f'f1/{name}': f1[:, i] for i, name in enumerate(self.task.classes)},
        }

    def evidence(self, figure: str) -> NDArray[np.bool_]:
        """Which frames say something about a figure: those that are of its class."""
        classes = len(self.task.classes)
        labelled = self._counts.table.reshape(-1, classes, classes).sum(2) > 0
        return _of_class(labelled, self.task, figure)


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
        self._matches.add(key, match(image, len(self.task.classes)))
        self._ranking = None

    def figures(
        self, weights: Weights, chosen: Chosen = ALL, wanted: Collection[str] | None = None
    ) -> Figures:
        """Figures of each sample over the chosen frames; weights [samples, frames].

        wanted: names of figures that are needed (all by default); AP takes ten times AP50's work.
        """
        names = [name for name in AP_IOUS if wanted is None or _asked(name, wanted)]
        by_class = {name: np.full((len(weights), len(self.task.classes)), np.nan) for name in names}
        ious = sorted({iou for name in names for iou in AP_IOUS[name]})
        inside = np.zeros(weights.shape[1], bool)
        inside[chosen] = True
        for label in range(len(self.task.classes)):
            average = self._average_precision(weights, inside, label, ious)
            for name in names:
                rows = [ious.index(iou) for iou in AP_IOUS[name]]
                by_class[name][:, label] = average[:, rows].mean(1)
        return {name: _mean(values) for name, values in by_class.items()} | {
            f'{name}/{self.task.classes[label]}': values[:, label]
            for name, values in by_class.items()
            for label in range(len(self.task.classes))
        }

    def evidence(self, figure: str) -> NDArray[np.bool_]:
        """Which frames say something about a figure: those with an object of its class."""
        return _of_class(self._ranked().truth[:, :, 0] > 0, self.task, figure)

    def _ranked(self) -> Ranking:
        if self._ranking is None:
            self._ranking = self._matches.ranked()
        return self._ranking

    def _average_precision(
        self, weights: Weights, inside: NDArray[np.bool_], label: int, ious: list[int]
    ) -> Floats:
        """Average precision [samples, ious] of a class; NaN where a sample has no object of it."""
        ranking = self._ranked()
        truth = weights[:, inside].astype(np.float64) @ ranking.truth[inside, label, 0]
        needed = _needed(truth)
        average = np.zeros((len(weights), len(ious)))
        here = np.flatnonzero((ranking.label == label) & inside[ranking.image])
        # The first bits are the rules of all box sizes.
        bits = np.arange(len(IOUS), dtype=np.uint64)
        right, ignored = (
            (rules[here, None] >> bits & np.uint64(1)).astype(bool)
            for rules in (ranking.right, ranking.ignored)
        )
        image = ranking.image[here]
        step = max(1, _CHUNK // max(1, len(here)))
        for first in range(0, len(weights), step):
            rows = slice(first, first + step)
            weight = weights[rows][:, image].astype(np.float64)
            every = np.cumsum(weight, 1)
            for place, iou in enumerate(ious):
                hits, passed = np.flatnonzero(right[:, iou]), np.flatnonzero(ignored[:, iou])
                counted = every[:, hits]
                if len(passed):
                    before = np.cumsum(weight[:, passed], 1)
                    until = np.searchsorted(passed, hits)
                    counted -= np.where(until > 0, before[:, until - 1], 0)
                found = np.cumsum(weight[:, hits], 1)
                average[rows, place] = _area(found, counted, needed[rows])
        average[truth == 0] = np.nan
        return average


Table = SegmentationTable | ClassificationTable | DetectionTable
_TABLES: dict[str, type[Table]] = {
    'segmentation': SegmentationTable,
    'classification': ClassificationTable,
    'detection': DetectionTable,
}


def table_for(task: Task) -> Table | None:
    """An empty table for the task's pieces; None for a kind that has no metric."""
    kind = _TABLES.get(task.kind)
    return kind(task) if kind else None


def figure_names(task: Task) -> Iterator[str]:
    """Names of all figures of a task, the headline first."""
    if task.kind == 'detection':
        yield from ('AP50', 'AP', 'AP75')
        yield from (f'{name}/{label}' for name in AP_IOUS for label in task.classes)
    elif task.kind == 'segmentation':
        yield from ('miou', 'pixel_accuracy')
        if DRIVABLE_BACKGROUND in task.classes:
            yield from ('official_miou', 'two_class_miou')
            yield from (
                f'official_iou/{name}' for name in task.classes if name != DRIVABLE_BACKGROUND
            )
        yield from (f'iou/{name}' for name in task.classes)
    elif task.kind == 'classification':
        yield from ('accuracy', 'macro_f1')
        yield from (f'f1/{name}' for name in task.classes)


def _of_class(labelled: NDArray[np.bool_], task: Task, figure: str) -> NDArray[np.bool_]:
    """Column of the class that a figure's name ends in; every frame for a figure over classes."""
    label = figure.partition('/')[2]
    if not label:
        return np.ones(len(labelled), bool)
    return np.asarray(labelled[:, task.classes.index(label)])


def _asked(name: str, wanted: Collection[str]) -> bool:
    return any(figure == name or figure.startswith(f'{name}/') for figure in wanted)


def _area(found: Floats, counted: Floats, needed: Floats) -> Floats:
    """Mean precision [samples] over COCO's recall points, at true positives in falling score.

    found, counted: weight of true positives, and of all detections that count, down to each true
    positive; needed: as `_needed`. Precision only rises at a true positive, so the best precision
    at a recall or above is found among them.
    """
    precision = np.zeros((len(found), found.shape[1] + 1))
    np.divide(found, counted, out=precision[:, :-1], where=counted > 0)
    best = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    reached = np.empty(needed.shape, np.int64)
    for sample in range(len(found)):
        reached[sample] = found[sample].searchsorted(needed[sample])
    return np.asarray(np.take_along_axis(best, reached, 1).mean(1))


def _needed(truth: Floats) -> Floats:
    """Fewest objects to be found for each of COCO's recall points, [samples, recalls].

    Rounded as COCO's comparison of quotients rounds: recall 0.57 of 100 objects takes 58.
    """
    objects = np.maximum(truth, 1)[:, None]
    fewest = np.ceil(RECALLS * objects)
    fewest -= (fewest - 1) / objects >= RECALLS
    fewest += fewest / objects < RECALLS
    return np.asarray(fewest)


def _iou(right: Floats, labelled: Floats, predicted: Floats) -> Floats:
    return np.where(labelled > 0, share(right, labelled + predicted - right), np.nan)


def share(part: Floats, whole: Floats) -> Floats:
    """Part of the whole, NaN of nothing."""
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)


def _mean(values: Floats) -> Floats:
    """Mean over the last axis of what is not NaN; NaN of nothing."""
    present = np.isfinite(values)
    return share(np.where(present, values, 0).sum(-1), present.sum(-1).astype(np.float64))
