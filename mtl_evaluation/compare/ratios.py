# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Figures that are one sum over frames divided by another: recall by box height, flicker."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.metrics.detection import DetectionMetric
from mtl_evaluation.metrics.road import HEIGHTS_PX, RoadRecall, band_names
from mtl_evaluation.metrics.sums import ALL, Chosen, Counts, Figures, Weights, share
from mtl_evaluation.metrics.temporal import BOX_COUNTS, MASK_COUNTS
from mtl_evaluation.runs.run import FrameRecord
from mtl_perception.tasks import Task

LOWER_IS_BETTER = frozenset({'flicker', 'blink', 'vanished', 'score_jitter', 'id_switch_rate'})

_RECALLS = [f'recall/{name}' for name in band_names(HEIGHTS_PX, 'px')]


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


def ratio_names(task: Task) -> list[str]:
    """Names of a task's figures of this kind."""
    if task.kind == 'detection':
        return [*_RECALLS, 'vanished', 'score_jitter']
    return ['flicker', 'blink'] if task.kind == 'segmentation' else []


def ratios(task: Task, record: FrameRecord) -> dict[str, tuple[float, float]]:
    """Part and whole that one frame gives to each of the task's figures."""
    found: dict[str, tuple[float, float]] = {}
    piece = record.pieces.get(task.name)
    if isinstance(piece, DetectionMetric):
        road = RoadRecall(task.classes)
        for image in piece.images.values():
            road.add(image, '')
        for name, (objects, hits) in zip(_RECALLS, road.by_height.sum(0), strict=True):
            found[name] = float(hits), float(objects)
    if record.stability is not None:
        masks = record.stability.masks.get(task.name)
        boxes = record.stability.boxes.get(task.name)
        if masks is not None:
            n = dict(zip(MASK_COUNTS, masks.tolist(), strict=True))
            found['flicker'] = n['flickered'], n['labelled'] - n['truth_changed']
            found['blink'] = n['blinked'], n['triples']
        if boxes is not None:
            n = dict(zip(BOX_COUNTS, boxes.tolist(), strict=True))
            found['vanished'] = n['vanished'], n['found_again']
            # Kept as millionths.
            found['score_jitter'] = n['jitter'] / 1e6, n['linked']
    return found
