# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Intervals that mean what they say: coverage on simulated drives, blocks, few of them, none."""

from __future__ import annotations

import numpy as np
import pytest

from mtl_evaluation.compare.bootstrap import (
    Sampling,
    block_length,
    interval,
    lower_bound,
    resemblance,
    upper_bound,
)
from mtl_evaluation.compare.bootstrap import _student as student

SECOND = 1_000_000_000


def drives(count: int, frames: int, memory: float, seed: int = 0) -> np.ndarray:
    """[frames, count] values of mean 0 that resemble their neighbours (AR(1))."""
    chance = np.random.default_rng(seed)
    values = np.zeros((frames, count))
    state = chance.normal(size=count)
    for frame in range(frames):
        state = memory * state + np.sqrt(1 - memory**2) * chance.normal(size=count)
        values[frame] = state
    return values


def coverage(frames: int, block: int, memory: float, confidence: float = 0.95) -> float:
    """Share of simulated drives whose interval of the mean holds the true mean, 0."""
    values = drives(400, frames, memory)
    weights = np.concatenate(list(Sampling(frames, block, 600).weights(np.arange(frames))))
    means = (weights @ values) / weights.sum(1)[:, None]
    inside = [
        low <= 0 <= high
        for low, high in (interval(sample, frames / block, confidence) for sample in means.T)
    ]
    return float(np.mean(inside))


def test_blocks_cover_where_single_frames_do_not():
    assert coverage(600, 30, 0.7) == pytest.approx(0.95, abs=0.03)
    assert coverage(600, 1, 0.7) < 0.7


def test_few_blocks_still_cover():
    """Plain percentiles of ten blocks of independent frames hold the truth 89 times in 100."""
    assert coverage(100, 10, 0.0) == pytest.approx(0.95, abs=0.03)
    assert coverage(100, 10, 0.0, 0.9) == pytest.approx(0.90, abs=0.035)


def test_one_sided_bounds_miss_as_often_as_they_say():
    frames, block = 400, 10
    values = drives(600, frames, 0.3, seed=3)
    weights = np.concatenate(list(Sampling(frames, block, 600).weights(np.arange(frames))))
    means = (weights @ values) / weights.sum(1)[:, None]

    wrong = np.mean([lower_bound(sample, frames / block, 0.9) > 0 for sample in means.T])

    assert wrong == pytest.approx(0.1, abs=0.035)


def test_every_frame_counts_alike_and_neighbours_come_together():
    frames, block = 120, 12
    order = np.random.default_rng(5).permutation(frames)
    weights = np.concatenate(list(Sampling(frames, block, 4000).weights(order)))

    assert (weights.sum(1) == frames).all()
    assert weights.mean(0) == pytest.approx(1, abs=0.1)
    driven = weights[:, order]
    neighbours = np.corrcoef(driven[:, 50], driven[:, 51])[0, 1]
    far_apart = np.corrcoef(driven[:, 50], driven[:, 50 + 2 * block])[0, 1]
    assert neighbours > 0.8
    assert abs(far_apart) < 0.2


def test_samples_are_the_same_every_time_and_differ_by_seed():
    def drawn(seed):
        return np.concatenate(list(Sampling(50, 5, 20, seed).weights(np.arange(50))))

    assert np.array_equal(drawn(1), drawn(1))
    assert not np.array_equal(drawn(1), drawn(2))


def test_a_block_as_long_as_the_drive_is_the_drive():
    weights = next(Sampling(7, 7, 5).weights(np.arange(7)))

    assert (weights == 1).all()


@pytest.mark.parametrize(
    ('bags', 'stamps', 'expected'),
    [
        (['a'] * 50, np.arange(50) * SECOND // 10, 20),  # 10 Hz
        (['a'] * 51, np.arange(51) // 2 * SECOND // 10, 40),  # two cameras that fire together
        (['a'] * 50, np.zeros(50, np.int64), 1),  # images without stamps
        (['a'] * 50, np.arange(50) * 60 * SECOND, 1),  # a minute apart
        (['a'] * 5, np.arange(5) * SECOND // 100, 5),  # shorter than a block
        (['a'] * 25 + ['b'] * 25, [*np.arange(25) * 10**8, *np.arange(25) * 10**8], 20),
        (['a'], [0], 1),
    ],
)
def test_blocks_last_two_seconds(bags, stamps, expected):
    assert block_length(bags, np.array(stamps, np.int64)) == expected


def test_students_quantiles():
    # t tables: 97.5 % with 9 degrees of freedom, 95 % with 19, 99 % with 29.
    assert student(1.959964, 9) == pytest.approx(2.262, rel=2e-3)
    assert student(1.644854, 19) == pytest.approx(1.729, rel=1e-3)
    assert student(2.326348, 29) == pytest.approx(2.462, rel=1e-3)


def test_nothing_changes_is_exactly_zero_and_too_little_is_not_a_number():
    assert interval(np.zeros(500), 20) == (0.0, 0.0)
    assert str(upper_bound(np.zeros(500), 20)) == '0.0'
    mostly_missing = np.where(np.arange(500) % 2, np.nan, 1.0)
    assert np.isnan(lower_bound(mostly_missing, 20))
    assert np.isnan(upper_bound(np.full(500, np.nan), 20))


def test_blocks_that_are_too_short_are_found_out():
    slow, quick = drives(1, 800, 0.98)[:, 0], drives(1, 800, 0.5)[:, 0]

    assert resemblance(slow, 20) > 0.5
    assert abs(resemblance(quick, 20)) < 0.3
    assert resemblance(quick[:150], 20) is None
    assert resemblance(np.zeros(800), 20) is None
