# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""One newest-frame slot per camera, for one consumer thread, with exact drop counters.

Freshness beats completeness: a frame that waits when the next one arrives is dropped and counted,
never queued. Cameras are served in turn, so that a fast one cannot starve a slow one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar('Item')


@dataclass(frozen=True)
class SlotCounts:
    """What became of one camera's frames: `received == taken + dropped + pending`, always.

    dropped: replaced by a newer frame while waiting, or discarded because the slots were closed.
    """

    received: int
    taken: int
    dropped: int
    pending: int


class _Slot(Generic[Item]):
    __slots__ = ('dropped', 'items', 'received', 'taken')

    def __init__(self) -> None:
        self.items: list[Item] = []  # none or one
        self.received = self.taken = self.dropped = 0


class NewestSlots(Generic[Item]):
    """Hands the newest item of each camera to one consumer; any thread may put."""

    def __init__(self, cameras: Sequence[str]) -> None:
        """Open with empty slots; raises ValueError when `cameras` is empty or has a name twice."""
        if not cameras or len(set(cameras)) != len(cameras):
            raise ValueError(f'cameras must be distinct names, at least one, got {list(cameras)}')
        self._slots: dict[str, _Slot[Item]] = {camera: _Slot() for camera in cameras}
        self._order = list(cameras)
        self._next = 0
        self._closed = False
        self._changed = threading.Condition()

    @property
    def cameras(self) -> tuple[str, ...]:
        """Camera names in the order they were given."""
        return tuple(self._slots)

    def put(self, camera: str, item: Item) -> bool:
        """Store the camera's newest item; True when it took the place of one that still waited.

        After `close` the item itself is dropped. Raises KeyError on an unknown camera.
        """
        with self._changed:
            slot = self._slots[camera]
            slot.received += 1
            if self._closed:
                slot.dropped += 1
                return False
            replaced = bool(slot.items)
            slot.dropped += replaced
            slot.items[:] = [item]
            self._changed.notify()
            return replaced

    def take(self, timeout_s: float | None = None) -> tuple[str, Item] | None:
        """Wait for an item and take it: (camera, item); None when closed or timed out.

        The camera served last is asked last.
        """
        taken = self.take_several(1, 1, timeout_s)
        return taken[0] if taken else None

    def take_several(
        self, least: int, most: int, timeout_s: float | None = None
    ) -> list[tuple[str, Item]]:
        """Wait for an item and take one each of the cameras that have one, at most `most`.

        Where fewer than `least` have one, only the next in turn is served, since the others would
        grow old in the consumer's hands instead of being replaced. Empty when closed or timed out.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        count = len(self._order)
        with self._changed:
            while not self._closed:
                turns = [(self._next + offset) % count for offset in range(count)]
                ready = [at for at in turns if self._slots[self._order[at]].items]
                if ready:
                    chosen = ready[: most if len(ready) >= least else 1]
                    self._next = (chosen[-1] + 1) % count
                    return [(self._order[at], self._served(self._order[at])) for at in chosen]
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    break
                self._changed.wait(left)
            return []

    def _served(self, camera: str) -> Item:
        slot = self._slots[camera]
        slot.taken += 1
        return slot.items.pop()

    def counts(self, camera: str) -> SlotCounts:
        """Counters of one camera, consistent with one another."""
        with self._changed:
            slot = self._slots[camera]
            return SlotCounts(slot.received, slot.taken, slot.dropped, len(slot.items))

    def close(self) -> None:
        """Drop what waits and wake the consumer, whose `take` then returns None."""
        with self._changed:
            self._closed = True
            for slot in self._slots.values():
                slot.dropped += len(slot.items)
                slot.items.clear()
            self._changed.notify_all()

    def reopen(self) -> None:
        """Accept items again after `close`; counters go on."""
        with self._changed:
            self._closed = False
