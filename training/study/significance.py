# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Means over seeds with their intervals, tests of differences, and Delta_MTL.

Student's t distribution comes from the regularised incomplete beta function, by Lentz's continued
fraction (Abramowitz and Stegun 26.5.8 and 26.7.1), exact to some 1e-12.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

LEVEL = 0.95

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
    """A two-sided test that two means are equal.

    test: 'paired t' or 'Welch t'. p: None with fewer than two values on a side, or without any
    spread. effect: Cohen's d, of pairs their mean over their deviation, otherwise over the pooled
    one; None likewise. worse: pairs whose second value is below the first, when paired.
    """

    test: str
    difference: float
    p: float | None
    effect: float | None
    n: tuple[int, int]


def compare(before: dict[int, float], after: dict[int, float]) -> Difference:
    """Whether `after` differs from `before`, both seed -> value; paired where seeds are the same.

    Raises ValueError when either is empty.
    """
    difference = fmean(after.values()) - fmean(before.values())
    sizes = (len(before), len(after))
    if before.keys() == after.keys():
        pairs = [after[seed] - before[seed] for seed in before]
        spread = stdev(pairs) if len(pairs) > 1 else 0.0
        if spread <= 1e-12 * max(map(abs, [*before.values(), *after.values()])):
            return Difference('paired t', difference, None, None, sizes)
        effect = difference / spread
        p = two_sided(effect * math.sqrt(len(pairs)), len(pairs) - 1)
        return Difference('paired t', difference, p, effect, sizes)
    if min(sizes) < 2:
        return Difference('Welch t', difference, None, None, sizes)
    a, b = (stdev(x.values()) ** 2 / len(x) for x in (before, after))
    if a + b == 0:
        return Difference('Welch t', difference, None, None, sizes)
    freedom = (a + b) ** 2 / (a**2 / (sizes[0] - 1) + b**2 / (sizes[1] - 1))
    pooled = math.sqrt((stdev(before.values()) ** 2 + stdev(after.values()) ** 2) / 2)
    p = two_sided(difference / math.sqrt(a + b), freedom)
    return Difference('Welch t', difference, p, difference / pooled, sizes)


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


def delta_mtl(gains: Sequence[float | None]) -> float | None:
    """Mean of the tasks' gains: Vandenhende et al., TPAMI 2021, eq. 10, as a fraction.

    None when a task has none: a mean over fewer tasks would be another measure.
    """
    known = [each for each in gains if each is not None]
    return fmean(known) if known and len(known) == len(gains) else None


def t_cdf(t: float, freedom: float) -> float:
    """P(T <= t) of Student's distribution."""
    tail = 0.5 * _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t))
    return 1 - tail if t > 0 else tail


def two_sided(t: float, freedom: float) -> float:
    """P(|T| >= |t|)."""
    return _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t))


def t_quantile(p: float, freedom: float) -> float:
    """t with P(T <= t) = p, for p above 0.5."""
    low, high = 0.0, 1.0
    while t_cdf(high, freedom) < p:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, freedom) < p else (low, middle)
    return high


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """I_x(a, b)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(b, a, 1 - x)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
        + a * math.log(x) + b * math.log1p(-x)
    )  # fmt: skip
    tiny = 1e-300
    c, d = 1.0, 1 / max(1 - (a + b) * x / (a + 1), tiny)
    value = d
    for m in range(1, 1000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / ((1 + term * d) or tiny)
            c = (1 + term / c) or tiny
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front * value / a
