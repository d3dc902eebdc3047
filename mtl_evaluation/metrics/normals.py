# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Angles between predicted and true surface normals, as on NYUv2.

Fouhey et al., ICCV 2013: mean and median angle, and the shares of pixels within 11.25, 22.5 and 30
degrees, over all pixels of all images together. A histogram of the angles is the whole state, so
parts add up exactly; the shares are exact, mean and median are off by less than half a bin.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.metrics.checks import check_kind, check_same_task, check_shapes
from mtl_evaluation.metrics.sums import Figures, Floats, plain, share
from mtl_perception.tasks import Task

BINS_A_DEGREE = 100
"""Bins are a hundredth of a degree wide: every limit below is a border between two."""

ANGLE_LIMITS = {'within_11_25': 11.25, 'within_22_5': 22.5, 'within_30': 30.0}
_LIMITS = tuple(ANGLE_LIMITS.values())
_CENTRES = (np.arange(180 * BINS_A_DEGREE) + 0.5) / BINS_A_DEGREE
"""Degrees of each bin."""


def angles(found: NDArray[Any], wanted: NDArray[Any]) -> NDArray[np.float64]:
    """Degrees [...] between vectors [..., 3] of whatever length."""
    # Not acos of the product, which knows small angles to a tenth of a degree only.
    across = np.linalg.norm(np.cross(found, wanted), axis=-1)
    return np.asarray(np.degrees(np.arctan2(across, (found * wanted).sum(axis=-1))))


class NormalsMetric:
    """Histogram of angles over all pixels with a true normal; a truth of zeros is not counted."""

    def __init__(self, task: Task) -> None:
        """Start from no frame; raises ValueError when the task is not a normals task."""
        check_kind(task, 'normals')
        self.task = task
        self.frames = 0
        self.angles: NDArray[np.int64] = np.zeros(180 * BINS_A_DEGREE, np.int64)
        """Pixels by angle."""

    def update(self, prediction: NDArray[np.float32], truth: NDArray[np.float32]) -> None:
        """Add one frame: two float [H, W, 3] maps of vectors, of whatever length.

        Raises ValueError when sizes differ or a value that counts is not a finite number.
        """
        check_shapes(self.task, prediction.shape, truth.shape)
        known = truth.any(axis=-1)
        found, wanted = prediction[known].astype(np.float64), truth[known].astype(np.float64)
        if not (np.isfinite(found).all() and np.isfinite(wanted).all()):
            raise ValueError(f'{self.task.name}: a normal is not a finite vector')
        bins = np.minimum(
            (angles(found, wanted) * BINS_A_DEGREE).astype(np.int64), len(self.angles) - 1
        )
        self.angles += np.bincount(bins, minlength=len(self.angles))
        self.frames += 1

    def merge(self, other: NormalsMetric) -> None:
        """Add another metric's frames; raises ValueError when its task differs."""
        check_same_task(self.task, other.task)
        self.angles += other.angles
        self.frames += other.frames

    def result(self) -> dict[str, Any]:
        """mean_error and median_error in degrees, shares by ANGLE_LIMITS; None without a pixel."""
        counts = np.cumsum(self.angles)
        pixels = int(counts[-1])
        middle = int(np.searchsorted(counts, (pixels + 1) // 2))
        return {
            'frames': self.frames,
            'labelled_pixels': pixels,
            **plain(self, self.task),
            'median_error': float(_CENTRES[middle]) if pixels else None,
        }

    @staticmethod
    def figure_names(task: Task) -> Iterator[str]:
        """Names of the figures that are functions of sums: all but the median."""
        yield from (*ANGLE_LIMITS, 'mean_error')

    def counts(self) -> Floats:
        """Pixels, those within each limit, and the sum of the angles."""
        within = np.cumsum(self.angles)[[round(v * BINS_A_DEGREE) - 1 for v in _LIMITS]]
        return np.array([self.angles.sum(), *within, self.angles @ _CENTRES], np.float64)

    @staticmethod
    def labelled(task: Task, counts: Floats) -> NDArray[np.bool_]:
        """Whether each row of counts has a truth, [rows, 1]."""
        return np.asarray(counts[:, :1] > 0)

    @staticmethod
    def figures(task: Task, sums: Floats) -> Figures:
        """Shares and mean angle of each sum of counts [samples, numbers]."""
        pixels, *within, total = sums.T
        shares = (share(part, pixels) for part in within)
        return dict(zip(ANGLE_LIMITS, shares, strict=True)) | {'mean_error': share(total, pixels)}

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """For storage; `from_arrays` is the inverse."""
        return {'frames': np.array(self.frames, np.int64), 'angles': self.angles}

    @classmethod
    def from_arrays(cls, task: Task, arrays: Mapping[str, NDArray[Any]]) -> NormalsMetric:
        """What `to_arrays` gave."""
        metric = cls(task)
        metric.frames, metric.angles = int(arrays['frames']), arrays['angles']
        return metric
