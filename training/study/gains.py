# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Delta_MTL with an interval that carries the variance of both sides.

Delta_MTL is a mean over tasks of ratios of means (Vandenhende et al., TPAMI 2021, eq. 10). To first
order it is linear in the runs: with signs s, T tasks, and the means A of ours and B of theirs, one
run of ours contributes u = sum s a / (T B), one of theirs v = sum s A b / (T B^2). Where both sides
have the same seeds the deviation is that of u - v by seed, with n - 1 degrees of freedom; otherwise
squared standard errors add up, with Satterthwaite's degrees of freedom. The tasks of one network
come from the same runs, so they are added up run by run; single-task networks are apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from training.study.significance import LEVEL, two_sided

Floats = NDArray[np.float64]
Figures = Mapping[str, Mapping[int, float]]
"""Task -> seed -> figure."""


@dataclass(frozen=True)
class Statistics:
    """Arrays [...] of the estimate, its standard error and degrees of freedom; by_seed [..., n]."""

    mean: Floats
    error: Floats
    freedom: Floats
    by_seed: Floats

    def half(self, level: float = LEVEL) -> Floats:
        """Half the width of the interval."""
        return np.asarray(special.stdtrit(self.freedom, 0.5 + level / 2) * self.error)


def paired_statistics(ours: Floats, theirs: Floats, signs: Floats) -> Statistics:
    """Both sides [..., n, T] with the runs of a seed in the same row; signs [T]: -1 for errors."""
    mean, u, weights = first_order(ours, theirs.mean(-2), signs)
    n = u.shape[-1]
    change = u - (weights[..., None, :] * theirs).sum(-1)
    error = change.std(-1, ddof=1) / math.sqrt(n)
    by_seed = mean[..., None] + change - change.mean(-1, keepdims=True)
    return Statistics(mean, error, np.full_like(error, n - 1), by_seed)


def welch_statistics(ours: Floats, theirs: Sequence[Floats] | Floats, signs: Floats) -> Statistics:
    """Runs of different seeds: ours [..., n, T].

    theirs: [..., m, T] of one network with T tasks, or for each task [..., m] of a network of its
    own, whose m may differ.
    """
    joint = isinstance(theirs, np.ndarray)
    of_tasks = [theirs[..., t] for t in range(len(signs))] if joint else list(theirs)
    means = np.stack([each.mean(-1) for each in of_tasks], -1)
    mean, u, weights = first_order(ours, means, signs)
    v = [weights[..., t, None] * each for t, each in enumerate(of_tasks)]
    sides = [u, sum(v)] if joint else [u, *v]
    parts = [np.var(side, -1, ddof=1) / side.shape[-1] for side in sides]
    total = np.sum(parts, 0)
    of_parts = [p**2 / (side.shape[-1] - 1) for p, side in zip(parts, sides, strict=True)]
    with np.errstate(invalid='ignore'):  # nan without any spread
        freedom = total**2 / np.sum(of_parts, 0)
    by_seed = mean[..., None] + u - u.mean(-1, keepdims=True)
    return Statistics(mean, np.sqrt(total), freedom, by_seed)


def first_order(ours: Floats, means: Floats, signs: Floats) -> tuple[Floats, Floats, Floats]:
    """The estimate [...], u of each run [..., n], and what b is multiplied with in v [..., T]."""
    share = signs / (len(signs) * means)
    u = (ours * share[..., None, :]).sum(-1)
    mean = u.mean(-1) - signs.mean()
    return mean, u, share * ours.mean(-2) / means


def gain_over(
    ours: Figures, theirs: Figures, signs: Mapping[str, int], joint: bool
) -> dict[str, Any] | None:
    """Delta_MTL of our runs over theirs, for the tasks in `signs` (-1 for errors, otherwise 1).

    joint: theirs are of one network, otherwise each task has a network of its own. A run of one
    network counts when it has all tasks. Returns mean, low and high at LEVEL, n and m (runs of
    ours, fewest of theirs), values (by seed of ours), test ('paired t' or 'Welch t'), error,
    freedom, deviation (of a seed's value) and p; those of the interval are None with fewer than two
    runs on a side, or without any spread. None without runs.
    """
    ours = _whole({task: ours.get(task, {}) for task in signs})
    theirs = {task: theirs.get(task, {}) for task in signs}
    theirs = _whole(theirs) if joint else theirs
    sides = [*ours.values(), *theirs.values()]
    if not all(sides):
        return None
    seeds = list(next(iter(ours.values())))
    sign = np.array(list(signs.values()), float)
    a = np.array([[found[seed] for found in ours.values()] for seed in seeds], float)
    fewest = min(map(len, theirs.values()))
    paired = all(found.keys() == {*seeds} for found in theirs.values())
    columns = [
        np.array([found[seed] for seed in (seeds if paired else found)], float)
        for found in theirs.values()
    ]
    row: dict[str, Any] = {
        'mean': float(first_order(a, np.array([each.mean() for each in columns]), sign)[0]),
        'low': None, 'high': None, 'n': len(seeds), 'm': fewest, 'values': [],
        'test': 'paired t' if paired else 'Welch t',
        'error': None, 'freedom': None, 'deviation': None, 'p': None,
    }  # fmt: skip
    if min(len(seeds), fewest) < 2:
        return row | {'values': [row['mean']] * (len(seeds) == 1)}
    if paired:
        found = paired_statistics(a, np.stack(columns, -1), sign)
    else:
        found = welch_statistics(a, np.stack(columns, -1) if joint else columns, sign)
    mean, error = float(found.mean), float(found.error)
    row['values'] = [float(x) for x in found.by_seed]
    if error <= 1e-12:
        return row
    half, freedom = float(found.half()), float(found.freedom)
    return row | {
        'low': mean - half, 'high': mean + half, 'error': error, 'freedom': freedom,
        'deviation': error * math.sqrt(len(seeds)), 'p': two_sided(mean / error, freedom),
    }  # fmt: skip


def _whole(found: Figures) -> Figures:
    """Of the seeds that have every task, in the order of the first."""
    seeds = [seed for seed in next(iter(found.values())) if all(seed in x for x in found.values())]
    return {task: {seed: each[seed] for seed in seeds} for task, each in found.items()}
