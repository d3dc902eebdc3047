# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Depth errors over all pixels with a truth, as on NYUv2.

Eigen et al., NeurIPS 2014, section 4: absolute and squared-relative families over all pixels of all
images together. MTAN and LibMTL average `abs_error` and `rel_error` over batches instead, which
differs where images differ in valid pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.metrics.checks import check_kind, check_same_task, check_shapes
from mtl_evaluation.metrics.sums import Figures, Floats, plain, share
from mtl_perception.tasks import Task

UNIT = 1e-6
"""A frame's sums are whole multiples of this (metres, squared metres): whole numbers add up to the
same whatever the order, and one rounding a frame is far below what a figure shows."""

DELTA = 1.25


class DepthMetric:
    """Sums over all pixels whose truth is above 0 metres; a truth of 0 is not counted."""

    def __init__(self, task: Task) -> None:
        """Start from no frame; raises ValueError when the task is not a depth task."""
        check_kind(task, 'depth')
        self.task = task
        self.sums: NDArray[np.int64] = np.zeros(6, np.int64)
        """Frames, pixels, pixels within delta; absolute, relative, squared error in UNIT."""

    @property
    def frames(self) -> int:
        """Frames so far."""
        return int(self.sums[0])

    def update(self, prediction: NDArray[np.float32], truth: NDArray[np.float32]) -> None:
        """Add one frame: two float [H, W] maps in metres.

        Raises ValueError when sizes differ or a value that counts is not a finite number.
        """
        check_shapes(self.task, prediction.shape, truth.shape)
        known = truth > 0
        found, wanted = prediction[known].astype(np.float64), truth[known].astype(np.float64)
        if not (np.isfinite(found).all() and np.isfinite(wanted).all()):
            raise ValueError(f'{self.task.name}: a depth is not a finite number')
        error = np.abs(found - wanted)
        near = np.maximum(found, wanted) < DELTA * np.minimum(found, wanted)
        totals = [error.sum(), (error / wanted).sum(), (error**2).sum()]
        exact = [round(float(total) / UNIT) for total in totals]
        self.sums += np.array([1, len(wanted), near.sum(), *exact], np.int64)

    def merge(self, other: DepthMetric) -> None:
        """Add another metric's frames; raises ValueError when its task differs."""
        check_same_task(self.task, other.task)
        self.sums += other.sums

    def result(self) -> dict[str, Any]:
        """abs_error and rmse in metres, rel_error and delta1 as fractions; None without a pixel.

        delta1 is the share of pixels with max(p / t, t / p) < 1.25.
        """
        frames, pixels = self.sums[:2].tolist()
        return {'frames': frames, 'labelled_pixels': pixels, **plain(self, self.task)}

    @staticmethod
    def figure_names(task: Task) -> Iterator[str]:
        """Names of all figures, the headline first."""
        yield from ('delta1', 'abs_error', 'rel_error', 'rmse')

    def counts(self) -> NDArray[np.int64]:
        """The sums."""
        return self.sums

    @staticmethod
    def labelled(task: Task, counts: Floats) -> NDArray[np.bool_]:
        """Whether each row of counts has a truth, [rows, 1]."""
        return np.asarray(counts[:, 1:2] > 0)

    @staticmethod
    def figures(task: Task, sums: Floats) -> Figures:
        """As `result`, of each sum of counts [samples, numbers]."""
        _, pixels, near, absolute, relative, squared = sums.T
        return {
            'delta1': share(near, pixels),
            'abs_error': share(absolute * UNIT, pixels),
            'rel_error': share(relative * UNIT, pixels),
            'rmse': np.sqrt(share(squared * UNIT, pixels)),
        }

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """For storage; `from_arrays` is the inverse."""
        return {'sums': self.sums}

    @classmethod
    def from_arrays(cls, task: Task, arrays: Mapping[str, NDArray[Any]]) -> DepthMetric:
        """What `to_arrays` gave."""
        metric = cls(task)
        metric.sums = arrays['sums']
        return metric
