"""What a live run measured: when frames were played and answered, and where the others went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class PlayedFrame:
    """One frame as it was published. `late_ms`: how long after its stamp that was."""

    source_stamp_ns: int
    stamp_ns: int
    late_ms: float


@dataclass
class LiveRun:
    """What came of a live run; `outputs` is the bag with everything that the node published."""

    outputs: Path
    answer_topic: str
    frames: list[PlayedFrame] = field(default_factory=list)
    answered_ns: dict[int, int] = field(default_factory=dict)
    """When the answer to the frame of a (played) stamp arrived, on `answer_topic`."""
    counters: dict[str, str] = field(default_factory=dict)
    """The node's own last diagnostics: of the camera and of the engine."""
    history: list[dict[str, str]] = field(default_factory=list)
    """The camera's diagnostics over time; `elapsed_s` since the first frame."""
    complete: bool = True
    """False when the player was stopped before the end of the bag."""

    def latencies_ms(self) -> list[tuple[float, float]]:
        """Of each answered frame: seconds since the first frame, latency in milliseconds."""
        return [
            (
                (frame.stamp_ns - self.frames[0].stamp_ns) / 1e9,
                (self.answered_ns[frame.stamp_ns] - frame.stamp_ns) / 1e6,
            )
            for frame in self.frames
            if frame.stamp_ns in self.answered_ns
        ]


def frame_counts(live: LiveRun) -> dict[str, int | None]:
    """Where every frame went; None where the node's diagnostics did not say.

    lost_in_transport: published but never received by the node. replaced: received, but a newer one
    came before its turn. unaccounted: what none of the other numbers explains; 0 in a sound run.
    """
    counters = live.counters
    named = {
        name: int(counters[name]) if name in counters else None
        for name in ('received', 'processed', 'replaced', 'rejected', 'failed')
    }
    played = len(live.frames)
    counts: dict[str, int | None] = {'played': played, **named, 'answered': len(live.answered_ns)}
    received = named['received']
    counts['lost_in_transport'] = None if received is None else played - received
    fates = [named[name] for name in ('processed', 'replaced', 'rejected', 'failed')]
    known = [value for value in fates if value is not None]
    counts['unaccounted'] = (
        received - sum(known) if received is not None and len(known) == len(fates) else None
    )
    return counts


def stages(counters: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Stage times of the node's diagnostics in milliseconds: name -> p50, p99."""
    found: dict[str, dict[str, float]] = {}
    for key, value in counters.items():
        for suffix in ('_ms_p50', '_ms_p99'):
            if key.endswith(suffix) and key != f'age{suffix}':
                found.setdefault(key.removesuffix(suffix), {})[suffix[-3:]] = float(value)
    return found


def rate_hz(live: LiveRun) -> float:
    """Frames a second at which the drive was played."""
    stamps = [frame.stamp_ns for frame in live.frames]
    if len(stamps) < 2:
        return 10.0
    return float(np.clip(1e9 / np.median(np.diff(stamps)), 1, 120))


def answers_per_second(live: LiveRun) -> float | None:
    """Answers a second, from the first to the last."""
    arrived = sorted(live.answered_ns.values())
    if len(arrived) < 2:
        return None
    return round((len(arrived) - 1) / ((arrived[-1] - arrived[0]) / 1e9), 2)


def spread(values: list[float]) -> dict[str, float] | None:
    """p50, p90, p99, max and mean; None of nothing."""
    if not values:
        return None
    p50, p90, p99 = np.percentile(values, (50, 90, 99))
    spread = {'p50': p50, 'p90': p90, 'p99': p99, 'max': max(values), 'mean': np.mean(values)}
    return {name: round(float(value), 3) for name, value in spread.items()}
