# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""When a node that cannot keep up steps to a smaller input size, and when back.

Only numbers and a clock: what the sizes are and how they are opened is `engine_pool.py`'s.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

WINDOW_S = 3.0
"""Frames of so many seconds make the percentile."""
OVER_S = 6.0
"""How long it has to be over the period before a smaller size is taken. Twice the window, so that a
burst that is over within the window changes nothing."""
MIN_FRAMES = 2
"""Fewer frames in the window say nothing: the camera is slow or silent, not the engine."""
BACK_S, MAX_BACK_S = 10.0, 160.0
"""How long the larger size would have had to keep up before it is taken again. Doubled each time
that it could not be kept for that long."""
BACK_SHARE = 0.8
"""Of the period that the larger size may be expected to take: less than what makes it smaller."""


@dataclass(frozen=True)
class Move:
    """A change of size: from and to an index (0 is the largest), and the figure that decides."""

    before: int
    after: int
    p99_ms: float
    expected_ms: float = 0.0
    """What the larger size is expected to take; 0 on the way down."""


class SizeController:
    """Chooses the step by the times of frames. `add` is the worker's, `decide` the timer's."""

    def __init__(
        self,
        period_ms: float,
        expected_ms: Sequence[float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """expected_ms: the measured p99 of each size, largest first, which tells them apart."""
        self.period_ms = period_ms
        self.index = 0
        self._expected_ms = tuple(expected_ms)
        self._clock = clock
        self._frames: deque[tuple[float, float]] = deque()
        self._over_since_s: float | None = None
        self._room_since_s: float | None = None
        self._returned_s: float | None = None
        self._back_s = BACK_S
        self._lock = threading.Lock()

    def add(self, frame_ms: float) -> None:
        """One frame took so long from being taken to being published."""
        now_s = self._clock()
        with self._lock:
            self._frames.append((now_s, frame_ms))
            while self._frames[0][0] < now_s - WINDOW_S:
                self._frames.popleft()

    def decide(self) -> Move | None:
        """To be asked now and then: the size to change to, None to stay."""
        now_s = self._clock()
        with self._lock:
            recent = [ms for at_s, ms in self._frames if at_s >= now_s - WINDOW_S]
        if len(recent) < MIN_FRAMES:
            self._over_since_s = self._room_since_s = None
            return None
        p99_ms = float(np.percentile(recent, 99))
        is_over = p99_ms > self.period_ms
        self._over_since_s = (self._over_since_s or now_s) if is_over else None
        if (
            self._over_since_s is not None
            and now_s - self._over_since_s >= OVER_S
            and self.index + 1 < len(self._expected_ms)
        ):
            returned_s = self._returned_s
            was_short = returned_s is not None and now_s - returned_s < self._back_s
            self._back_s = min(MAX_BACK_S, self._back_s * 2) if was_short else BACK_S
            return self._moved(self.index + 1, p99_ms)
        if self.index == 0:
            return None
        ratio = self._expected_ms[self.index - 1] / self._expected_ms[self.index]
        expected_ms = p99_ms * ratio
        has_room = expected_ms <= BACK_SHARE * self.period_ms
        self._room_since_s = (self._room_since_s or now_s) if has_room else None
        if self._room_since_s is not None and now_s - self._room_since_s >= self._back_s:
            self._returned_s = now_s
            return self._moved(self.index - 1, p99_ms, expected_ms)
        return None

    def _moved(self, index: int, p99_ms: float, expected_ms: float = 0.0) -> Move:
        """Forget the frames of the size before: they say nothing of the next."""
        move = Move(self.index, index, p99_ms, expected_ms)
        self.index = index
        self._over_since_s = self._room_since_s = None
        with self._lock:
            self._frames.clear()
        return move
