# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What replaying costs: frames per second of these cores, what limits them, and a fleet's bill.

From the times of the frames themselves, measured while the other workers ran too: workers do not
wait for each other. In a worker frames are answered (`PIPELINE`) while earlier ones are measured,
so a frame takes as long as the stages of the measuring thread, of which `wait` is what it waits for
the answer. Starting a worker (some seconds per bag) is not in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PIPELINE = ('letterbox', 'engine', 'decode')
"""Stages of other threads."""

HOURS = 10_000
MACHINES = (1, 10, 100)
SECONDS_A_DAY = 86_400


def cost_model(
    mean_ms: Mapping[str, float],
    workers: int,
    cores: int,
    frames_an_hour: float | None,
    bytes_a_frame: float,
) -> dict[str, Any]:
    """Costs as plain data.

    mean_ms: by stage, of one frame of one worker. cores: that the workers use together.
    frames_an_hour: of driving, all cameras; None where no bag tells. `shares`: of a frame's time in
    which a stage is at work; more than 1 together, because stages run beside each other. `fleet` is
    `HOURS` of driving on machines like this one, all of whose `cores` replay.
    """
    frame_ms = sum(value for name, value in mean_ms.items() if name not in PIPELINE)
    if not frame_ms:
        return {}
    frames_per_s = workers * 1e3 / frame_ms
    shares = {name: value / frame_ms for name, value in mean_ms.items() if name != 'wait'}
    cost: dict[str, Any] = {
        'workers': workers,
        'cores': cores,
        'ms_per_frame': frame_ms,
        'ms_per_frame_outside_engine': frame_ms - mean_ms.get('engine', 0.0),
        'frames_per_s': frames_per_s,
        'frames_per_s_per_core': frames_per_s / cores,
        'limited_by': max(shares, key=lambda name: shares[name]),
        'shares': shares,
        'bytes_per_frame': bytes_a_frame,
        'fleet': None,
    }
    if frames_an_hour:
        frames = HOURS * frames_an_hour
        days = frames / frames_per_s / SECONDS_A_DAY
        cost['fleet'] = {
            'hours': HOURS,
            'frames_an_hour': frames_an_hour,
            'core_days': days * cores,
            'days_on_machines': {str(count): days / count for count in MACHINES},
            'records_gb': frames * bytes_a_frame / 1e9,
        }
    return cost
