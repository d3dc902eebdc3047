# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Depth: the share within a factor of 1.25, and errors in metres."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.kinds.base import Figure
from mtl_evaluation.kinds.maps import MapKind
from mtl_evaluation.metrics.depth import DELTA, DepthMetric
from mtl_perception.tasks import Task


class DepthKind(MapKind):
    """The truth is float32 [H, W] metres."""

    name = 'depth'
    metric = DepthMetric
    figures: ClassVar[Mapping[str, Figure]] = {
        'delta1': Figure('within a factor of 1.25'),
        'abs_error': Figure('absolute error', 'm', lower_is_better=True),
        'rel_error': Figure('relative error', '', lower_is_better=True),
        'rmse': Figure('RMSE', 'm', lower_is_better=True),
    }
    headlines = ('delta1', 'abs_error', 'rel_error')
    checked = 'delta1'
    near_title = figures['delta1'].title
    flaw_title = '1 - share within 1.25'
    worst_rule = 'fewest pixels within a factor of 1.25'

    def rerun(self, rr: Any, answer: NDArray[np.float32], task: Task, labels: Sequence[str]) -> Any:
        """In metres."""
        return rr.DepthImage(answer, meter=1.0)

    def far_off(
        self, answer: NDArray[np.float32], truth: NDArray[np.float32]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Off by more than the factor."""
        known = truth > 0
        near = np.maximum(answer, truth) < DELTA * np.minimum(answer, truth)
        return known & ~near, known


KIND = DepthKind()
