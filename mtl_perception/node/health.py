# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""How the node is doing: stage timings, rates, ages, drops, stalls -> /diagnostics.

All waiting is measured on the steady clock (`time.monotonic`), so that paused simulation time,
clock jumps and bag loops neither hide a stalled camera nor invent one. The numbers are kept here;
who reads them is the business of `perception_node.py`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from mtl_perception.newest import SlotCounts
from mtl_perception.text import one_line

OK: bytes = DiagnosticStatus.OK
WARN: bytes = DiagnosticStatus.WARN
ERROR: bytes = DiagnosticStatus.ERROR

WINDOW = 300
"""Samples a percentile is taken over: 10 s at 30 Hz."""
RATE_WINDOW_S = 5.0
MAX_LOST_SHARE = 0.1
"""Of a camera's frames in `RATE_WINDOW_S`, rejected or failed: more of them, and two at least, are
a WARN. One broken image among many is counted and no more."""
LOG_PERIOD_S = 5.0
MAX_REASON = 600
"""Characters of a reason in a log line or a status: it may quote what others wrote."""
MAX_FAILURES = 3
"""Failed frames in a row after which the node stops and says so."""
HUNG_S = 5.0
"""How long a frame may be in work until that is reported as an error."""
STAGES = ('image', 'letterbox', 'engine', 'decode', 'publish')
"""Stages in the order a frame passes them; `image` is bytes to pixels."""

Clock = Callable[[], float]


class Window:
    """The last `WINDOW` samples of one quantity."""

    def __init__(self) -> None:
        self._samples: deque[float] = deque(maxlen=WINDOW)

    def add(self, value: float) -> None:
        """Take in one sample."""
        self._samples.append(value)

    def figures(self) -> dict[str, float]:
        """The 50th and 99th percentile and the largest, by name; nothing without samples."""
        if not self._samples:
            return {}
        p50, p99 = np.percentile(self._samples, (50, 99))
        return {'p50': float(p50), 'p99': float(p99), 'max': max(self._samples)}


class Throttle:
    """Lets a message through at most once in `period_s` a key, and counts what it held back."""

    def __init__(self, period_s: float = LOG_PERIOD_S, clock: Clock = time.monotonic) -> None:
        self._period_s = period_s
        self._clock = clock
        self._last: dict[str, float] = {}
        self._held: dict[str, int] = {}
        self._lock = threading.Lock()

    def __call__(self, key: str) -> int | None:
        """None: hold this one back. A number: say it, so many have been held back since."""
        now = self._clock()
        with self._lock:
            last = self._last.get(key)
            if last is not None and now - last < self._period_s:
                self._held[key] = self._held.get(key, 0) + 1
                return None
            self._last[key] = now
            return self._held.pop(key, 0)


class Watchdog:
    """OK, WARN or ERROR by the steady-clock time since it was last fed (or started)."""

    def __init__(self, warn_s: float, error_s: float, clock: Clock = time.monotonic) -> None:
        self._warn_s = warn_s
        self._error_s = error_s
        self._clock = clock
        self._fed_s = clock()

    def feed(self) -> None:
        """Something arrived: OK again."""
        self._fed_s = self._clock()

    @property
    def silence_s(self) -> float:
        """Seconds since it was last fed."""
        return self._clock() - self._fed_s

    @property
    def level(self) -> bytes:
        """The level of a DiagnosticStatus."""
        silence_s = self.silence_s
        if silence_s >= self._error_s:
            return ERROR
        return WARN if silence_s >= self._warn_s else OK


class CameraHealth:
    """Counters and timings of one camera. Fed by callback and worker, read by the timer.

    mismatches: a sentence for every endpoint that cannot connect to the camera's topics, and for
    topics that cannot be served.
    """

    def __init__(self, warn_s: float, error_s: float, clock: Clock = time.monotonic) -> None:
        self.watchdog = Watchdog(warn_s, error_s, clock)
        self.processed = 0
        self.rejected = 0
        self.failed = 0
        self.unwanted = 0
        self.last_rejection = ''
        self.mismatches: tuple[str, ...] = ()
        self._clock = clock
        self._age_ms = Window()
        self._stages = {stage: Window() for stage in STAGES}
        self._done_s: deque[float] = deque()
        self._lost_s: deque[float] = deque()
        self._lock = threading.Lock()

    def frame_done(self, stages_ms: Mapping[str, float], age_ms: float | None) -> None:
        """One frame was published; `age_ms` from its stamp, None when the stamp says nothing."""
        with self._lock:
            self.processed += 1
            for stage, value in stages_ms.items():
                self._stages.setdefault(stage, Window()).add(value)
            if age_ms is not None:
                self._age_ms.add(age_ms)
            now = self._clock()
            self._done_s.append(now)
            self._forget_before(now - RATE_WINDOW_S)

    def frame_rejected(self, reason: str) -> None:
        """One image was not usable."""
        with self._lock:
            self.rejected += 1
            self.last_rejection = one_line(reason, MAX_REASON)
            self._lost_s.append(self._clock())

    def frame_failed(self) -> None:
        """The engine failed on one frame."""
        with self._lock:
            self.failed += 1
            self._lost_s.append(self._clock())

    def frame_unwanted(self) -> None:
        """One frame came without subscribers to anything that could be made of it."""
        with self._lock:
            self.unwanted += 1

    @property
    def losses(self) -> str:
        """What part of the last frames came to nothing, once that is worth a WARN; else empty."""
        with self._lock:
            self._forget_before(self._clock() - RATE_WINDOW_S)
            lost, answered = len(self._lost_s), len(self._done_s)
        if lost < 2 or lost <= MAX_LOST_SHARE * (lost + answered):
            return ''
        why = f', the last one: {self.last_rejection}' if self.last_rejection else ''
        return (
            f'{lost} of {lost + answered} images of the last {RATE_WINDOW_S:g} s were rejected or '
            f'failed{why}'
        )

    def values(self, slot_counts: Callable[[], SlotCounts]) -> dict[str, str]:
        """Everything about the camera as diagnostic key and value.

        received = processed + replaced + rejected + failed + unwanted + pending, exactly: no frame
        ends while the counters are read, and pending are those that wait and those in work.
        """
        with self._lock:
            counts = slot_counts()
            ended = self.processed + self.rejected + self.failed + self.unwanted
            self._forget_before(self._clock() - RATE_WINDOW_S)
            values = {
                'rate_hz': f'{self._rate_hz():.2f}',
                'received': str(counts.received),
                'processed': str(self.processed),
                'replaced': str(counts.dropped),
                'rejected': str(self.rejected),
                'failed': str(self.failed),
                'unwanted': str(self.unwanted),
                'pending': str(counts.pending + counts.taken - ended),
                'silence_s': f'{self.watchdog.silence_s:.3f}',
            }
            for name, window in {'age': self._age_ms, **self._stages}.items():
                for figure, value in window.figures().items():
                    values[f'{name}_ms_{figure}'] = f'{value:.2f}'
            if self.last_rejection:
                values['last_rejection'] = self.last_rejection
            return values

    def _rate_hz(self) -> float:
        """Published frames per second over `RATE_WINDOW_S`; falls when none come any more."""
        if len(self._done_s) < 2:
            return 0.0
        span_s = self._clock() - self._done_s[0]
        return (len(self._done_s) - 1) / span_s if span_s > 0 else 0.0

    def _forget_before(self, limit_s: float) -> None:
        for moments in (self._done_s, self._lost_s):
            while moments and moments[0] < limit_s:
                moments.popleft()


class EngineHealth:
    """What keeps the engine from working: a fault, failures in a row, a frame that never ends.

    fault: the sentence for people, empty while there is none. beyond_repair: the engine fails on
    everything, so that only a new process can help. Written by the worker and by transitions, read
    by the timer.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self.fault = ''
        self.beyond_repair = False
        self.failures = 0
        self._clock = clock
        self._started_s: float | None = None

    def reset(self) -> None:
        """A new start: nothing is known against the engine."""
        self.fault, self.beyond_repair, self.failures = '', False, 0
        self._started_s = None

    def frame_started(self) -> None:
        """The worker took a frame."""
        self._started_s = self._clock()

    def frame_ended(self) -> float:
        """The worker is done with it, well or badly; the seconds that it took."""
        started_s, self._started_s = self._started_s, None
        return 0.0 if started_s is None else self._clock() - started_s

    def hung_s(self) -> float:
        """Seconds that a frame has been in work, once they are more than `HUNG_S`; else 0."""
        started_s = self._started_s
        in_work_s = 0.0 if started_s is None else self._clock() - started_s
        return in_work_s if in_work_s > HUNG_S else 0.0

    def level(self, state: str) -> bytes:
        """ERROR with a fault, else OK while the lifecycle state is one that works, else WARN."""
        if self.fault or self.hung_s():
            return ERROR
        return OK if state in ('active', 'configuring') else WARN

    def status(self, name: str, state: str, values: Mapping[str, str]) -> Status:
        """Is there a working engine, and which."""
        message = f'{state}: {self.fault}' if self.fault else state
        if hung_s := self.hung_s():
            message += f'; a frame has been in work for {hung_s:.0f} s'
        found = {'state': state, **values, 'failures_in_a_row': str(self.failures)}
        return Status(name, self.level(state), message, found)


@dataclass(frozen=True)
class Status:
    """One line of /diagnostics, without ROS types."""

    name: str
    level: bytes
    message: str
    values: Mapping[str, str] = field(default_factory=dict)


def camera_level(health: CameraHealth) -> bytes:
    """The watchdog's level, at least WARN while somebody cannot connect or frames are lost."""
    return max(health.watchdog.level, WARN if health.mismatches or health.losses else OK)


def camera_status(
    name: str,
    topic: str,
    publishers: int,
    health: CameraHealth,
    counts: Callable[[], SlotCounts],
    more: Mapping[str, str] | None = None,
) -> Status:
    """Is this camera's stream alive, and what became of its frames; more: further values."""
    values = {**health.values(counts), **(more or {})}
    received = values['received'] != '0'
    if health.watchdog.level == OK:
        message = 'images arrive' if received else 'waiting for the first image'
    else:
        seen = 'no image' if received else 'no image yet,'
        message = (
            f'{seen} for {health.watchdog.silence_s:.1f} s on {topic} ({publishers} publishers); '
            f'see `ros2 topic info -v {topic}`'
        )
    message = '; '.join(filter(None, [message, health.losses, *health.mismatches]))
    return Status(name, camera_level(health), message, {'topic': topic, **values})


def diagnostics_message(
    statuses: Sequence[Status], hardware_id: str, stamp: object
) -> DiagnosticArray:
    """All statuses in one array, stamped by the caller (`builtin_interfaces/Time`)."""
    message = DiagnosticArray()
    message.header.stamp = stamp
    message.status = [
        DiagnosticStatus(
            level=status.level,
            name=status.name,
            message=status.message,
            hardware_id=hardware_id,
            values=[KeyValue(key=key, value=value) for key, value in status.values.items()],
        )
        for status in statuses
    ]
    return message
