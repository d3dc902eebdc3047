# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What a live run measured: when frames were played and answered, and where the others went."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Pace:
    """When frames are due: at `speed` times the bag's own pace, or every 1 / `rate_hz` seconds."""

    speed: float = 1.0
    rate_hz: float | None = None

    def offset_ns(self, index: int, elapsed_ns: int) -> int:
        """Since the first frame: of the index-th, recorded `elapsed_ns` after the first."""
        if self.rate_hz is not None:
            return round(index * 1e9 / self.rate_hz)
        return round(elapsed_ns / self.speed)


@dataclass(frozen=True)
class PlayedFrame:
    """One frame as it was published. due_ns: when it was to be, by this machine's clock.

    stamp_ns: the same, or in simulation time its stamp in the bag. late_ms: how long after it was
    due that was.
    """

    source_stamp_ns: int
    stamp_ns: int
    late_ms: float
    due_ns: int


@dataclass
class LiveRun:
    """What came of a live run. outputs: the bag with what the node published, if one was made."""

    answer_topic: str
    outputs: Path = Path()
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
                (frame.due_ns - self.frames[0].due_ns) / 1e9,
                (self.answered_ns[frame.stamp_ns] - frame.due_ns) / 1e6,
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


def engine_in_force(live: LiveRun) -> dict[str, str]:
    """What the node says it runs on."""
    names = ('engine', 'engine_version', 'device', 'precision')
    return {name: live.counters[name] for name in names if name in live.counters}


def measured(live: LiveRun) -> dict[str, Any]:
    """Every figure of a live run, as plain data.

    latency_ms: from the moment a frame was due to its answer here. age_ms: of a frame when the node
    published its answer, by the node's clock over its last 300 frames; publish_late_ms: how late
    the player was, which is in the latency.
    """
    ages = {rank: live.counters.get(f'age_ms_{rank}') for rank in ('p50', 'p99')}
    return {
        'frames': frame_counts(live),
        'dropped': dropped_share(live),
        'latency_ms': spread([value for _, value in live.latencies_ms()]),
        'age_ms': {rank: float(value) for rank, value in ages.items() if value is not None},
        'publish_late_ms': spread([frame.late_ms for frame in live.frames]),
        'fps': answers_per_second(live),
        'rate_in_hz': rate_hz(live) if live.frames else None,
        'stages_ms': stages(live.counters),
    }


def summary(results: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and value of the headline figures of a live run."""
    frames, latency, age = results['frames'], results['latency_ms'], results.get('age_ms')
    yield 'frames in', f'{frames["played"]} at {_text(results["rate_in_hz"], ".1f")} Hz'
    yield 'processed', f'{frames["answered"]} answered, {_text(results["fps"])} a second'
    yield 'dropped', f'{_text(frames["replaced"])} replaced by a newer frame before their turn'
    yield (
        'rejected',
        f'{_text(frames["rejected"])} unusable images, {_text(frames["failed"])} failed',
    )
    yield 'lost', f'{_text(frames["lost_in_transport"])} between player and node'
    if frames['unaccounted']:
        yield 'unaccounted', f'{frames["unaccounted"]} frames: see node.log'
    yield (
        'latency',
        f'p50 {latency["p50"]:.1f} ms, p99 {latency["p99"]:.1f} ms (image stamp to detections)'
        if latency
        else 'no answer arrived',
    )
    if age:
        yield (
            'age',
            f'p50 {_text(age.get("p50"))} ms, p99 {_text(age.get("p99"))} ms when published, '
            f'by the node',
        )
    parts = [f'{name} {value["p50"]:.1f}' for name, value in results['stages_ms'].items()]
    yield 'stages', f'{", ".join(parts)} ms (p50)' if parts else 'the node reported none'


def rate_hz(live: LiveRun) -> float:
    """Frames per second at which the drive was played."""
    stamps = [frame.due_ns for frame in live.frames]
    if len(stamps) < 2:
        return 10.0
    return float(np.clip(1e9 / np.median(np.diff(stamps)), 1, 120))


def dropped_share(live: LiveRun) -> float | None:
    """Share of the played frames that were not answered; None when nothing was played."""
    if not live.frames:
        return None
    return 1 - len(live.latencies_ms()) / len(live.frames)


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


def _text(value: float | None, form: str = '') -> str:
    return 'unknown' if value is None else format(value, form)
