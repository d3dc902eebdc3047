"""What replaying costs: frames a second of these cores, what limits them, and a fleet's bill.

From the times of the frames themselves: a worker's frame takes the sum of its stages, measured
while the other workers ran too, and workers do not wait for each other. Starting a worker (some
seconds a bag) is not in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
    frames_an_hour: of driving, all cameras; None where no bag tells. `fleet` is `HOURS` of driving
    on machines like this one, all of whose `cores` replay.
    """
    frame_ms = sum(mean_ms.values())
    if not frame_ms:
        return {}
    frames_per_s = workers * 1e3 / frame_ms
    shares = {name: value / frame_ms for name, value in mean_ms.items()}
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
