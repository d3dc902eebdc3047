# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Figures that are functions of sums of counts over frames, plain or under weights.

A frame gives a row of counts, a sample is a whole number per frame: 1 each for the plain figure,
bootstrap counts for an interval, 0 for what a slice leaves out. A metric says how a frame is
counted and what its figures are of a weighted sum of such rows, once for all three.

Figures are float64 [samples] by name (`miou`, `iou/road`); NaN where a sample holds no truth.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mtl_perception.tasks import Task

Floats = NDArray[np.float64]
Weights = NDArray[np.float32]
Chosen = NDArray[np.int64] | slice
"""Rows that are counted: a slice of the run."""

ALL = slice(None)
Figures = dict[str, Floats]


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


class Counted(Protocol):
    """A metric whose figures are functions of sums of counts."""

    def counts(self) -> NDArray[Any]:
        """All that its figures depend on, [numbers]; the counts of two frames add up."""

    @staticmethod
    def figures(task: Task, sums: Floats) -> Figures:
        """Figures of each sum of counts [samples, numbers]."""

    @staticmethod
    def labelled(task: Task, counts: Floats) -> NDArray[np.bool_]:
        """Which classes the truth of each row of counts holds, [rows, classes]."""


class SumTable:
    """The counts of many frames."""

    def __init__(self, metric: type[Counted], task: Task) -> None:
        """Start from no frame."""
        self.task = task
        self._metric = metric
        self._counts = Counts()

    def add(self, piece: Any) -> None:
        """Append a frame: a metric that holds it alone."""
        self._counts.append(piece.counts())

    def figures(
        self, weights: Weights, chosen: Chosen = ALL, wanted: Collection[str] | None = None
    ) -> Figures:
        """Figures of each sample over the chosen frames; weights [samples, frames]."""
        return self._metric.figures(self.task, self._counts.sums(weights, chosen))

    def evidence(self, figure: str) -> NDArray[np.bool_]:
        """Which frames say something about a figure: those that label its class."""
        return of_class(self._metric.labelled(self.task, self._counts.table), self.task, figure)


def plain(metric: Counted, task: Task) -> dict[str, float | None]:
    """The figures of a metric as it is: weights of 1. None where its truth holds nothing."""
    figures = metric.figures(task, metric.counts()[None].astype(np.float64))
    return {name: known(values[0]) for name, values in figures.items()}


def known(value: float) -> float | None:
    """A figure for JSON: None where it is NaN."""
    return float(value) if np.isfinite(value) else None


def by_class(
    figures: dict[str, float | None], figure: str, names: Collection[str]
) -> dict[str, float | None]:
    """One figure of several classes: `iou/road` and the like under the names of the classes."""
    return {name: figures[f'{figure}/{name}'] for name in names}


def of_class(labelled: NDArray[np.bool_], task: Task, figure: str) -> NDArray[np.bool_]:
    """Column of the class that a figure's name ends in; every row for a figure over classes.

    labelled: [rows, classes].
    """
    label = figure.partition('/')[2]
    if not label:
        return np.ones(len(labelled), bool)
    return np.asarray(labelled[:, task.classes.index(label)])


def share(part: Floats, whole: Floats) -> Floats:
    """Part of the whole, NaN of nothing."""
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)


def mean_of_known(values: Floats) -> Floats:
    """Mean of [samples, classes] over the classes that are not NaN; NaN of none.

    Each sample's is numpy's mean of just those values, to the last bit, whatever is beside it.
    """
    there = np.isfinite(values)
    means = np.full(len(values), np.nan)
    patterns, group = np.unique(there, axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        if pattern.any():
            rows = group.ravel() == number
            means[rows] = np.ascontiguousarray(values[rows][:, pattern]).mean(1)
    return means
