# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What changed from one run to another: every figure of both, and how sure the difference is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_evaluation import kinds
from mtl_evaluation.compare.bootstrap import (
    MIN_BLOCKS,
    Sampling,
    interval,
    lower_bound,
    upper_bound,
)
from mtl_evaluation.compare.paired import Pair

WHOLE = ''
"""Name of the slice that is everything."""


@dataclass(frozen=True)
class Difference:
    """One figure over one slice: `second` - `first`; None where nothing is labelled.

    Shares are fractions, other figures are in their own unit.

    frames: paired frames that say something about it; blocks: stretches of driving they lie in, or
    whatever `unit` calls what is drawn. samples, second_samples: the difference, and the second
    run's figure, in every sample.
    """

    task: str
    figure: str
    slice: str
    frames: int
    blocks: int
    first: float | None
    second: float | None
    samples: NDArray[np.float64]
    second_samples: NDArray[np.float64]
    unit: str = 'blocks of driving'

    @property
    def metric(self) -> str:
        """As a gate names it: `detection/AP50`."""
        return f'{self.task}/{self.figure}'

    @property
    def title(self) -> str:
        """As a person names it, without the task: `IoU road`."""
        of = self.figure.partition('/')[2]
        return f'{kinds.figure(self.figure).title}{f" {of}" if of else ""}'

    @property
    def difference(self) -> float | None:
        """What changed; None where either run has no figure."""
        if self.first is None or self.second is None:
            return None
        return self.second - self.first

    @property
    def lower_is_better(self) -> bool:
        """Whether a fall is good news."""
        return kinds.figure(self.figure).lower_is_better

    @property
    def is_share(self) -> bool:
        """Whether it is shown in percent and points; others have a unit of their own."""
        return kinds.figure(self.figure).is_share

    def shown(self, value: float, form: str = '.2f') -> str:
        """A value or difference of this figure, as `kinds.Figure.shown`."""
        return kinds.figure(self.figure).shown(value, form)

    def interval(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Two-sided interval of the difference; None where the evidence does not carry one."""
        if self.blocks < MIN_BLOCKS:
            return None
        low, high = interval(self.samples, self.blocks, confidence)
        return (low, high) if np.isfinite([low, high]).all() else None

    def at_least(self, confidence: float) -> float:
        """One-sided lower bound of the difference, NaN without evidence."""
        return lower_bound(self.samples, self.blocks, confidence)

    def at_most(self, confidence: float) -> float:
        """One-sided upper bound of the difference, NaN without evidence."""
        return upper_bound(self.samples, self.blocks, confidence)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        found = self.interval()
        return {
            'metric': self.metric,
            'slice': self.slice or None,
            'frames': self.frames,
            'blocks': self.blocks,
            'a': self.first,
            'b': self.second,
            'difference': self.difference,
            'interval_95': None if found is None else list(found),
        }


def differences(
    pair: Pair, sampling: Sampling, asked: Mapping[str, set[str]] | None = None
) -> list[Difference]:
    """All figures over all frames, headlines in every slice, and what is asked for beside them.

    A slice that holds every frame is left out, unless it is asked for.

    asked: figures by slice, as `{'timeofday=night': {'detection/AP50/car'}}`.
    """
    asked = asked or {}
    slices = {WHOLE: np.ones(len(pair.keys), bool)}
    slices |= {
        name: chosen for name, chosen in pair.slices().items() if name in asked or not chosen.all()
    }
    wanted = _wanted(pair, slices, asked)
    samples: dict[tuple[str, str, str], list[NDArray[np.float64]]] = defaultdict(list)
    once = np.ones((1, len(pair.keys)), np.float32)
    values = _evaluate(pair, once, slices, wanted)
    for weights in sampling.weights(pair.order):
        for key, both in _evaluate(pair, weights, slices, wanted).items():
            samples[key].append(both)
    return [
        _difference(pair, sampling, key, both[:, 0], np.concatenate(samples[key], 1), slices)
        for key, both in values.items()
    ]


def _wanted(
    pair: Pair, slices: Mapping[str, Any], asked: Mapping[str, set[str]]
) -> dict[tuple[str, str], set[str] | None]:
    """Figures to compute by slice and task; None: all."""
    wanted: dict[tuple[str, str], set[str] | None] = {}
    for name in slices:
        for task in pair.tasks:
            if name == WHOLE:
                wanted[name, task.name] = None
                continue
            kind = kinds.of(task)
            of_kind = set(kind.in_slices or kind.headlines)
            of_gate = {
                metric.removeprefix(f'{task.name}/')
                for metric in asked.get(name, ())
                if metric.startswith(f'{task.name}/')
            }
            wanted[name, task.name] = of_kind | of_gate
    return wanted


def _evaluate(
    pair: Pair,
    weights: NDArray[np.float32],
    slices: Mapping[str, NDArray[np.bool_]],
    wanted: Mapping[tuple[str, str], set[str] | None],
) -> dict[tuple[str, str, str], NDArray[np.float64]]:
    """Figures of both runs [2, samples] by slice, task and name."""
    found = {}
    for (name, task), figures in wanted.items():
        first, second = pair.figures(task, weights, slices[name], figures)
        for figure in first:  # what the second run has no labels for is not compared
            if figure in second and (figures is None or figure in figures):
                found[name, task, figure] = np.stack([first[figure], second[figure]])
    return found


def _difference(
    pair: Pair,
    sampling: Sampling,
    key: tuple[str, str, str],
    both: NDArray[np.float64],
    samples: NDArray[np.float64],
    slices: Mapping[str, NDArray[np.bool_]],
) -> Difference:
    name, task, figure = key
    evidence = pair.evidence(task, figure, slices[name])[pair.order]
    blocks = len(np.unique(np.flatnonzero(evidence) // sampling.block))
    first, second = (float(value) if np.isfinite(value) else None for value in both)
    return Difference(
        task, figure, name, int(evidence.sum()), blocks, first, second,
        samples[1] - samples[0], samples[1],
    )  # fmt: skip
