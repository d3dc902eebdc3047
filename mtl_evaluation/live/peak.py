# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The highest rate of frames that a node keeps up with.

As ros2_benchmark (NVIDIA) searches: halve the interval between a rate that is kept up with and one
that is not until it is narrow (here by their ratio), climb from there in steps until a rate fails,
then play several times at the rate found. A rate is kept up with when fewer than 5 % of its frames
stay unanswered. If the runs at the peak do not confirm it (their median), the search goes on below.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

ACCEPTED = 0.05
CONFIRMING = 3
"""Runs at the peak."""

NARROW, STEP = 1.05, 1.02
"""Ratio of rates at which halving ends, and that of a step of the climb."""

Play = Callable[[float], float]
"""Play at a rate (Hz); returns the share of frames that stayed unanswered."""


@dataclass(frozen=True)
class Trial:
    """One run. phase: `bounds`, `halving`, `climbing` or `confirming`."""

    phase: str
    rate_hz: float
    dropped: float


def peak_rate(
    play: Play, lowest_hz: float, highest_hz: float, runs: int = CONFIRMING
) -> dict[str, Any]:
    """Search between two rates; plain data.

    peak_hz: None when not even the lowest is kept up with. at_bound: the highest is kept up with,
    so the peak may lie above. dropped: median over the confirming runs. trials: all of them.
    """
    trials: list[Trial] = []

    def keeps_up(phase: str, rate_hz: float) -> bool:
        trials.append(Trial(phase, rate_hz, play(rate_hz)))
        return trials[-1].dropped < ACCEPTED

    if not keeps_up('bounds', lowest_hz):
        return _result(None, trials, False)
    low, high = lowest_hz, highest_hz
    if keeps_up('bounds', highest_hz):
        low = highest_hz
    while high > NARROW * low:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if keeps_up('halving', middle) else (low, middle)
    while low < highest_hz and keeps_up('climbing', min(low * STEP, highest_hz)):
        low = min(low * STEP, highest_hz)
    for rate_hz in _downwards(low, lowest_hz):
        for _ in range(runs):
            keeps_up('confirming', rate_hz)
        if median(trial.dropped for trial in trials[-runs:]) < ACCEPTED:
            return _result(rate_hz, trials, rate_hz == highest_hz)
    return _result(None, trials, False)


def _downwards(rate_hz: float, lowest_hz: float) -> Iterator[float]:
    while rate_hz > lowest_hz:
        yield rate_hz
        rate_hz /= NARROW
    yield lowest_hz


def _result(rate_hz: float | None, trials: list[Trial], at_bound: bool) -> dict[str, Any]:
    confirming = [t.dropped for t in trials if (t.phase, t.rate_hz) == ('confirming', rate_hz)]
    return {
        'peak_hz': rate_hz,
        'at_bound': at_bound,
        'dropped': median(confirming) if confirming else None,
        'accepted': ACCEPTED,
        'trials': [asdict(trial) for trial in trials],
    }
