# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The search for the peak rate, on nodes whose limit is known; figures of live runs."""

from __future__ import annotations

import random

import pytest

from mtl_evaluation.live.live_replay import _peak_text
from mtl_evaluation.live.peak import ACCEPTED, CONFIRMING, peak_rate
from mtl_evaluation.live.timing import (
    LiveRun,
    Pace,
    PlayedFrame,
    dropped_share,
    measured,
    summary,
)


def node_of(capacity_hz: float, noise: float = 0.0, seed: int = 0):
    """A node that answers so many frames per second and drops the rest."""
    rng = random.Random(seed)
    return lambda rate: max(0.0, 1 - capacity_hz / rate) + rng.uniform(0, noise)


@pytest.mark.parametrize('capacity', [1.3, 7.0, 33.3, 180.0])
def test_the_peak_is_where_five_per_cent_are_dropped(capacity):
    found = peak_rate(node_of(capacity), 1, 240)

    true_peak = capacity / (1 - ACCEPTED)
    assert true_peak / 1.06 <= found['peak_hz'] < true_peak
    assert found['dropped'] < ACCEPTED and not found['at_bound']
    assert len(found['trials']) < 25
    confirming = [trial for trial in found['trials'] if trial['phase'] == 'confirming']
    assert len(confirming) == CONFIRMING


def test_a_peak_that_is_not_confirmed_is_looked_for_below():
    """A node that keeps up for a few runs and then grows hot."""
    calls = []

    def play(rate: float) -> float:
        calls.append(rate)
        return max(0.0, 1 - (50 if len(calls) < 10 else 30) / rate)

    found = peak_rate(play, 1, 100)

    assert 28 <= found['peak_hz'] <= 31.6
    assert sum(trial['phase'] == 'confirming' for trial in found['trials']) > CONFIRMING


def test_noise_does_not_lift_the_peak():
    for seed in range(5):
        found = peak_rate(node_of(20, noise=0.04, seed=seed), 1, 240)
        assert 15 < found['peak_hz'] < 20 / (1 - ACCEPTED)


def test_bounds_are_told():
    assert peak_rate(node_of(0.5), 1, 100)['peak_hz'] is None
    fast = peak_rate(node_of(1000), 1, 100)

    assert fast['peak_hz'] == 100 and fast['at_bound']
    assert _peak_text(fast).startswith('100.0 Hz or more with fewer than 5 %')
    assert _peak_text(peak_rate(node_of(0.5), 1, 100)).startswith('not even 1 Hz')


def test_pace_is_the_bags_or_a_rate():
    assert Pace().offset_ns(3, 400) == 400
    assert Pace(speed=2).offset_ns(3, 400) == 200
    assert Pace(rate_hz=20).offset_ns(3, 400) == 150_000_000


def test_latency_runs_from_when_a_frame_was_due_whatever_its_stamp():
    run = LiveRun('/perception/detections')
    run.frames = [PlayedFrame(i, i, 0.5, 10**18 + i * 10**8) for i in range(4)]
    run.answered_ns = {i: 10**18 + i * 10**8 + 30_000_000 for i in (0, 1, 3)}
    run.counters = {'age_ms_p50': '12.5', 'engine_ms_p50': '9', 'engine': 'onnxruntime'}

    results = measured(run)

    assert run.latencies_ms()[2] == pytest.approx((0.3, 30.0))
    assert dropped_share(run) == 0.25
    assert results['age_ms'] == {'p50': 12.5}
    assert results['rate_in_hz'] == pytest.approx(10)
    lines = dict(summary(results))
    assert 'p50 30.0 ms' in lines['latency'] and '12.5 ms' in lines['age']
    assert dropped_share(LiveRun('x')) is None
