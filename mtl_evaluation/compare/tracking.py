# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What changed in how well tracks keep identities, and how sure that is.

Association is a property of a whole drive: there are no blocks of frames to draw. The unit is the
bag, all of whose cameras drove together: a sample draws as many bags as there are, with
replacement, and adds their counts up. With fewer than ten bags there is no interval, and a gate's
rule is undecided. For the same reason there is no figure over a slice of the frames.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mtl_evaluation import kinds
from mtl_evaluation.compare.bootstrap import Sampling
from mtl_evaluation.compare.differences import WHOLE, Difference
from mtl_evaluation.compare.gate import Gate, GateError
from mtl_evaluation.compare.paired import CompareError, Pair
from mtl_evaluation.metrics.tracking import (
    FIGURES,
    HEADLINES,
    TrackingMetric,
    figures_of,
    truth_of,
)
from mtl_perception.tasks import Task

UNIT = 'bags'


def tracking_names(task: Task) -> list[str]:
    """Names of a task's figures of this kind."""
    if not kinds.of(task).has_boxes:
        return []
    by_class = [f'{figure}/{label}' for figure in HEADLINES for label in task.classes]
    return [*FIGURES, *(f'm{name}' for name in HEADLINES), *by_class]


def tracking_differences(pair: Pair, sampling: Sampling) -> list[Difference]:
    """Every figure over the sequences that both runs have whole, by task.

    Raises CompareError when the truth of a sequence differs.
    """
    return [
        difference
        for task in pair.tasks
        if task.name in pair.sides[0].tracking and task.name in pair.sides[1].tracking
        for difference in _of_task(pair, task, sampling)
    ]


def check_slices(gate: Gate) -> None:
    """Raise GateError where a rule asks for tracks in a slice."""
    names = {*FIGURES, *HEADLINES, *(f'm{name}' for name in HEADLINES)}
    for number, rule in enumerate(gate.rules, start=1):
        figure = rule.metric.partition('/')[2].partition('/')[0]
        if rule.slice and figure in names:
            raise GateError(
                f'{gate.path}, rule {number}: {rule.metric} is measured over whole drives, not in '
                f'{rule.slice}; leave out `slice`'
            )


def _of_task(pair: Pair, task: Task, sampling: Sampling) -> Iterator[Difference]:
    first, second = (side.tracking[task.name] for side in pair.sides)
    names = _shared(first, second)
    if not names:
        return
    bags, place = np.unique([pair.sides[0].bag_of[name] for name in names], return_inverse=True)
    counts = [_by_bag(metric, names, place, len(bags)) for metric in (first, second)]
    drawn = np.random.default_rng(sampling.seed).integers(
        0, len(bags), (sampling.samples, len(bags))
    )
    weights = np.zeros(drawn.shape)
    np.add.at(weights, (np.arange(len(drawn))[:, None], drawn), 1)
    once = np.ones((1, len(bags)))
    whole, samples = (
        [figures_of(np.tensordot(draw, of, 1), task.classes) for of in counts]
        for draw in (once, weights)
    )
    there = truth_of(counts[0]) > 0
    frames = np.bincount(place, [first.lengths[name] for name in names], len(bags))
    for figure in whole[0]:
        label = figure.partition('/')[2]
        known = there[:, task.classes.index(label)] if label else there.any(1)
        before, after = (
            float(of[figure][0]) if np.isfinite(of[figure][0]) else None for of in whole
        )
        yield Difference(
            task.name, figure, WHOLE, int(frames[known].sum()), int(known.sum()), before, after,
            samples[1][figure] - samples[0][figure], samples[1][figure], UNIT,
        )  # fmt: skip


def _shared(first: TrackingMetric, second: TrackingMetric) -> list[str]:
    """Sequences of which both have every frame."""
    names = sorted(first.sequences.keys() & second.sequences.keys())
    names = [name for name in names if first.lengths[name] == second.lengths[name]]
    for name in names:
        if (truth_of(first.sequences[name]) != truth_of(second.sequences[name])).any():
            raise CompareError(
                f'the runs were measured against different identities: those of {name} differ. Run '
                f'both models over the same bag and ground truth'
            )
    return names


def _by_bag(
    metric: TrackingMetric, names: list[str], place: NDArray[np.int64], bags: int
) -> NDArray[np.float64]:
    """Counts [bags, classes, numbers]."""
    table = np.array([metric.sequences[name] for name in names])
    summed = np.zeros((bags, *table.shape[1:]))
    np.add.at(summed, place, table)
    return summed
