# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""How sure a figure is, given that the frames of a drive resemble their neighbours.

Frames 0.1 s apart show the same street, so resampling them one by one would claim far too much
certainty. What is drawn instead are blocks of consecutive frames: the moving block bootstrap
(Kuensch, Annals of Statistics 17(3), 1989), on the drives laid end to end and closed to a circle so
that every frame is drawn equally often (Politis and Romano, in: Exploring the Limits of Bootstrap,
1992). A sample is one weight per frame; metrics that are sums over frames are evaluated under
weights.

Intervals are percentiles of the samples, taken further out by the factor that turns a normal
quantile into Student's for so many blocks (the expanded percentile interval of Hesterberg,
The American Statistician 69(4), 2015, section 5.3): with few blocks plain percentiles are too
narrow. They say how the figures would vary over more driving like these drives, not over other
drives: ten minutes of one road remain one road.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

BLOCK_S = 2.0
"""Seconds of driving a block: at town speed the picture has changed by then."""

SAMPLES = 2000
MIN_BLOCKS = 10
"""With fewer blocks of evidence no interval is worth stating."""

ALIKE = 0.3
"""Correlation of neighbouring blocks from which they are too short; 40 independent ones rarely
reach it."""

_CHUNK = 4_000_000
"""Weights held at a time."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Sampling:
    """How samples are drawn: `block` consecutive frames at a time out of `frames`."""

    frames: int
    block: int
    samples: int = SAMPLES
    seed: int = 0

    def weights(self, order: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
        """Weights [n, frames] of some samples at a time, `samples` in all; the same every time.

        order: indices of the frames in the order in which they were driven.
        """
        generator = np.random.default_rng(self.seed)
        drawn = -(-self.frames // self.block)
        step = max(1, _CHUNK // max(1, self.frames))
        for first in range(0, self.samples, step):
            count = min(step, self.samples - first)
            starts = generator.integers(0, self.frames, (count, drawn))
            yield self._counts(starts)[:, np.argsort(order)]

    def _counts(self, starts: NDArray[np.int64]) -> NDArray[np.float32]:
        """How often each place on the circle is covered by blocks from `starts` [n, drawn]."""
        count = len(starts)
        # A block that runs over the end continues at the start, hence the second lap.
        steps = np.zeros((count, 2 * self.frames + 1), np.float32)
        rows = np.arange(count)[:, None]
        np.add.at(steps, (rows, starts), 1)
        np.add.at(steps, (rows, starts + self.block), -1)
        covered = np.cumsum(steps, 1)
        return covered[:, : self.frames] + covered[:, self.frames : -1]


def block_length(
    bags: NDArray[np.str_] | list[str], stamps_ns: NDArray[np.int64], seconds: float = BLOCK_S
) -> int:
    """Frames a block: as many as the drives have in `seconds`; 1 where nothing is consecutive.

    Frames in driving order. The rate is that of the median step between frames of one bag, so it
    counts all cameras together; images without stamps, or seconds apart, are taken one by one. No
    more than the frames there are.
    """
    stamps = np.asarray(stamps_ns, np.int64)
    names = np.asarray(bags)
    steps = np.diff(stamps)[names[1:] == names[:-1]]
    if not steps.size or steps.mean() <= 0:
        return 1
    # Cameras that fire together have steps of 0 between them: the rate is frames by time.
    typical = steps[steps <= 5 * np.median(steps[steps > 0])]
    return int(np.clip(round(seconds * 1e9 / typical.mean()), 1, max(1, len(stamps))))


def resemblance(values: Floats, block: int) -> float | None:
    """Correlation of neighbouring blocks' means of a value per frame [frames], in driving order.

    Near 0 where blocks are long enough to be taken for independent, which the intervals suppose:
    where it is not, they are too narrow. None with fewer than `MIN_BLOCKS` blocks, or no change.
    """
    blocks = len(values) // block
    if blocks < MIN_BLOCKS:
        return None
    means = values[: blocks * block].reshape(blocks, block).mean(1)
    if not means.std():
        return None
    return float(np.corrcoef(means[:-1], means[1:])[0, 1])


def interval(samples: Floats, blocks: float, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided interval from the samples [n] of a figure that rests on so many blocks."""
    return (
        lower_bound(samples, blocks, (1 + confidence) / 2),
        upper_bound(samples, blocks, (1 + confidence) / 2),
    )


def lower_bound(samples: Floats, blocks: float, confidence: float = 0.95) -> float:
    """What the figure is above of with `confidence`; NaN where too few samples have a value."""
    known = samples[np.isfinite(samples)]
    # A figure that many samples lack (a class in one block only) has no distribution to speak of.
    if not len(known) or len(known) < 0.9 * len(samples):
        return float('nan')
    return float(np.quantile(known, 1 - _expanded(confidence, blocks)))


def upper_bound(samples: Floats, blocks: float, confidence: float = 0.95) -> float:
    """What the figure is below of with `confidence`; NaN where too few samples have a value."""
    return 0.0 - lower_bound(-samples, blocks, confidence)


def _expanded(confidence: float, blocks: float) -> float:
    """The percentile that stands for `confidence` when there are so many blocks."""
    normal = NormalDist()
    freedom = max(blocks, 2.0) - 1
    quantile = _student(normal.inv_cdf(confidence), freedom)
    return normal.cdf(np.sqrt((freedom + 1) / freedom) * quantile)


def _student(z: float, freedom: float) -> float:
    """Student's quantile from the normal one (Abramowitz and Stegun 26.7.5; 0.2 % off at 9)."""
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / freedom ** (power + 1) for power, term in enumerate(terms))
