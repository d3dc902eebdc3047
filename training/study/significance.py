# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Means over seeds with their intervals, tests of differences, gains, and the power of a test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy import special

LEVEL = 0.95

MOST_SEEDS = 1000
"""That a power estimate looks at."""

SMALLEST_SHARE = 0.02
"""Of a baseline, for a relative gain: one below it does not do its task, and a ratio is noise."""


@dataclass(frozen=True)
class Estimate:
    """Mean over n values and its interval at LEVEL; None for the bounds with fewer than two."""

    mean: float
    low: float | None
    high: float | None
    n: int
    values: tuple[float, ...]


def estimate(values: Sequence[float]) -> Estimate:
    """Mean with Student's t interval; raises ValueError for no values."""
    if not values:
        raise ValueError('no values to average')
    mean, n = fmean(values), len(values)
    if n < 2:
        return Estimate(mean, None, None, n, tuple(values))
    half = t_quantile(0.5 + LEVEL / 2, n - 1) * stdev(values) / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n, tuple(values))


@dataclass(frozen=True)
class Difference:
    """Two means compared: their difference with its interval at LEVEL, and a two-sided test.

    test: 'paired t' or 'Welch t'. low, high, p: None with fewer than two values on a side, or
    without any spread. effect: Cohen's d, of pairs their mean over their deviation, otherwise over
    the pooled one; None likewise.
    """

    test: str
    difference: float
    low: float | None
    high: float | None
    p: float | None
    effect: float | None
    n: tuple[int, int]


def compare(before: dict[int, float], after: dict[int, float]) -> Difference:
    """Whether `after` differs from `before`, both seed -> value; paired where seeds are the same.

    Raises ValueError when either is empty.
    """
    difference = fmean(after.values()) - fmean(before.values())
    sizes = (len(before), len(after))
    paired = before.keys() == after.keys()
    test = 'paired t' if paired else 'Welch t'
    untested = Difference(test, difference, None, None, None, None, sizes)
    if min(sizes) < 2:
        return untested
    if paired:
        deviation = stdev([after[seed] - before[seed] for seed in before])
        error, freedom = deviation / math.sqrt(sizes[0]), float(sizes[0] - 1)
    else:
        spreads = [stdev(side.values()) for side in (before, after)]
        parts = [spread**2 / size for spread, size in zip(spreads, sizes, strict=True)]
        deviation = math.sqrt(fmean(spread**2 for spread in spreads))
        error, freedom = satterthwaite(parts, [size - 1 for size in sizes])
    if deviation <= 1e-12 * max(map(abs, [*before.values(), *after.values()])):
        return untested
    half = t_quantile(0.5 + LEVEL / 2, freedom) * error
    p = two_sided(difference / error, freedom)
    low, high = difference - half, difference + half
    return Difference(test, difference, low, high, p, difference / deviation, sizes)


def satterthwaite(parts: Sequence[float], freedoms: Sequence[int]) -> tuple[float, float]:
    """Standard error of a sum of independent means and its degrees of freedom (Welch, 1947).

    parts: squared standard error of each mean; freedoms: degrees of freedom of each.
    """
    total = sum(parts)
    if total == 0:
        return 0.0, float(sum(freedoms))
    of_parts = sum(part**2 / freedom for part, freedom in zip(parts, freedoms, strict=True))
    return math.sqrt(total), total**2 / of_parts


def power(effect: float, error: float, freedom: float, level: float) -> float:
    """Probability that a two-sided t test at `level` finds a true effect; both in one unit.

    error: standard error of the estimate, freedom: its degrees of freedom. By the noncentral t
    distribution; exact for a paired test of normal differences.
    """
    critical = t_quantile(1 - level / 2, freedom)
    shift = abs(effect) / error
    above = 1 - special.nctdtr(freedom, shift, critical)
    # scipy gives nan far below the centre, where the probability is none.
    below = special.nctdtr(freedom, shift, -critical)
    return float(above + (0.0 if math.isnan(below) else below))


def seeds_for(effect: float, deviation: float, level: float, wanted: float) -> int | None:
    """Fewest seeds with which a paired test at `level` has the power that is wanted.

    deviation: of the difference of two runs of one seed. None when MOST_SEEDS are not enough.
    """
    enough = (
        n
        for n in range(2, MOST_SEEDS + 1)
        if power(effect, deviation / math.sqrt(n), n - 1, level) >= wanted
    )
    return next(enough, None)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction (1979) over those that there are, in their places."""
    order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - rank)))
        adjusted[index] = largest
    return adjusted


def gain(value: float, baseline: float, lower_is_better: bool) -> float | None:
    """Relative change to the better, of one metric; None where `has_gain` says so."""
    if not has_gain(baseline, lower_is_better):
        return None
    return (-1 if lower_is_better else 1) * (value - baseline) / baseline


def has_gain(baseline: float, lower_is_better: bool) -> bool:
    """Whether gains relative to it mean anything: a share of SMALLEST_SHARE, or an error."""
    return baseline > 0 if lower_is_better else baseline >= SMALLEST_SHARE


def two_sided(t: float, freedom: float) -> float:
    """P(|T| >= |t|) of Student's distribution."""
    return float(2 * special.stdtr(freedom, -abs(t)))


def t_quantile(p: float, freedom: float) -> float:
    """t with P(T <= t) = p."""
    return float(special.stdtrit(freedom, p))
