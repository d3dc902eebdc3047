# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Figures that are one sum over frames divided by another: recall by box height, flicker."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.metrics.sums import ALL, Chosen, Counts, Figures, Weights, share


class RatioTable:
    """Part and whole of each figure, frame by frame."""

    def __init__(self, names: Collection[str]) -> None:
        """Start from no frame."""
        self.names = tuple(names)
        self._counts = Counts()

    def add(self, parts: Mapping[str, tuple[float, float]]) -> None:
        """Append a frame: part and whole of each figure it says something about."""
        rows = [parts.get(name, (0, 0)) for name in self.names]
        self._counts.append(np.array(rows, np.float64).ravel())

    def figures(
        self, weights: Weights, chosen: Chosen = ALL, wanted: Collection[str] | None = None
    ) -> Figures:
        """Figures of each sample over the chosen frames; weights [samples, frames]."""
        sums = self._counts.sums(weights, chosen).reshape(len(weights), -1, 2)
        return {name: share(sums[:, i, 0], sums[:, i, 1]) for i, name in enumerate(self.names)}

    def evidence(self, figure: str) -> NDArray[np.bool_]:
        """Which frames say something about a figure."""
        return np.asarray(self._counts.table[:, 2 * self.names.index(figure) + 1] > 0)
