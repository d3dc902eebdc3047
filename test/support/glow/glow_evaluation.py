# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The same kind in the evaluation: how far off the brightness is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.kinds.base import Figure, Flaw, Kind
from mtl_evaluation.messages.cdr import typestore
from mtl_evaluation.metrics.sums import Figures, Floats, plain, share
from mtl_perception.tasks import Task

NEAR = 0.1


class GlowMetric:
    """Frames, those within `NEAR`, and errors and truths in millionths: whole numbers add up."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.sums: NDArray[np.int64] = np.zeros(4, np.int64)

    @property
    def frames(self) -> int:
        return int(self.sums[0])

    def update(self, found: float, wanted: float) -> None:
        error = abs(found - wanted)
        self.sums += np.array([1, error < NEAR, round(1e6 * error), round(1e6 * wanted)])

    def merge(self, other: GlowMetric) -> None:
        self.sums = self.sums + other.sums

    def counts(self) -> NDArray[np.int64]:
        return self.sums

    @staticmethod
    def figure_names(task: Task) -> Iterator[str]:
        yield from ('near', 'off')

    @staticmethod
    def labelled(task: Task, counts: Floats) -> NDArray[np.bool_]:
        return counts[:, :1] > 0

    @staticmethod
    def figures(task: Task, sums: Floats) -> Figures:
        return {'near': share(sums[:, 1], sums[:, 0]), 'off': share(sums[:, 2], 1e6 * sums[:, 0])}

    def result(self) -> dict[str, Any]:
        return {'frames': self.frames, **plain(self, self.task)}

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        return {'sums': self.sums}

    @classmethod
    def from_arrays(cls, task: Task, arrays: Mapping[str, NDArray[Any]]) -> GlowMetric:
        metric = cls(task)
        metric.sums = arrays['sums']
        return metric


class GlowKind(Kind):
    """The truth is a float, as the answer is."""

    name = 'glow'
    metric = GlowMetric
    figures = {  # noqa: RUF012
        'near': Figure('within 0.1'),
        'off': Figure('brightness off', 'lx', lower_is_better=True),
    }
    headlines = ('near', 'off')
    flaw_title = 'off by'
    worst_rule = 'brightness farthest off'

    def to_message(self, header: Any, answer: float, task: Task) -> Any:
        return typestore().types['sensor_msgs/msg/Illuminance'](header, answer, 0.0)

    def from_message(self, message: Any, task: Task) -> float:
        return float(message.illuminance)

    def measure(
        self, metric: GlowMetric, key: str, answer: float, truth: float, size: tuple[int, int]
    ) -> None:
        metric.update(answer, truth)

    def fingerprint(self, piece: GlowMetric) -> int:
        return hash(int(piece.sums[3]))

    def flaw(self, piece: GlowMetric) -> Flaw:
        error = float(piece.sums[2]) / 1e6
        return Flaw(error, f'off by {error:.2f}')


KIND = GlowKind()
