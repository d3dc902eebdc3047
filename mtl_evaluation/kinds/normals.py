# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Normals: shares of pixels within angles, and the mean angle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.kinds.base import Figure
from mtl_evaluation.kinds.maps import MapKind
from mtl_evaluation.metrics.normals import ANGLE_LIMITS, NormalsMetric, angles
from mtl_perception.tasks import Task


class NormalsKind(MapKind):
    """The truth is float32 [H, W, 3] unit vectors."""

    name = 'normals'
    metric = NormalsMetric
    figures: ClassVar[Mapping[str, Figure]] = {
        'within_11_25': Figure('within 11.25°'),
        'within_22_5': Figure('within 22.5°'),
        'within_30': Figure('within 30°'),
        'mean_error': Figure('mean angle', '°', lower_is_better=True),
        'median_error': Figure('median angle', '°', lower_is_better=True),
    }
    headlines = ('within_11_25', 'mean_error')
    checked = 'within_11_25'
    near_title = figures['within_11_25'].title
    flaw_title = '1 - share within 11.25°'
    worst_rule = 'fewest pixels within 11.25°'

    def rows(self, result: Any) -> list[tuple[str, str]]:
        """With the median."""
        keys = (*self.headlines, 'median_error')
        return [(key, self.figures[key].title) for key in keys]

    def rerun(self, rr: Any, answer: NDArray[np.float32], task: Task, labels: Sequence[str]) -> Any:
        """As colours."""
        return rr.Image(np.clip(answer * 127 + 128, 0, 255).astype(np.uint8))

    def far_off(
        self, answer: NDArray[np.float32], truth: NDArray[np.float32]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Turned away by more than the angle."""
        known = np.asarray(truth.any(axis=-1))
        return known & (angles(answer, truth) >= ANGLE_LIMITS['within_11_25']), known


KIND = NormalsKind()
