# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Which frames are worth looking at: the worst of a run by task.

Of frames within a second of each other in one camera only the worst is kept: a drive's neighbouring
frames go wrong together.
"""

from __future__ import annotations

import heapq

from mtl_evaluation import kinds
from mtl_evaluation.kinds import Flaw
from mtl_evaluation.runs.run import FrameRecord
from mtl_perception.tasks import Task

FRAMES = 6
"""Frames a gallery."""

APART_NS = 1_000_000_000


class Worst:
    """The worst frames of a run at one task, found while its records pass by."""

    def __init__(self, task: Task) -> None:
        """Start from no frame."""
        self._spread = kinds.of(task).is_label
        self._by_moment: dict[tuple[str, str, int], tuple[Flaw, str]] = {}

    def add(self, record: FrameRecord, found: Flaw) -> None:
        """Add a frame; right ones are never among the worst."""
        # Images without stamps are not neighbours of each other.
        moment = record.stamp_ns // APART_NS if record.stamp_ns else record.index
        place = (record.bag, record.camera, moment)
        before = self._by_moment.get(place)
        if found.badness > (before[0].badness if before else 0):
            self._by_moment[place] = found, record.key

    def frames(self, count: int = FRAMES) -> list[tuple[str, Flaw]]:
        """Keys of up to `count` frames with their flaws, the worst first."""
        flaws = [(key, found) for found, key in self._by_moment.values()]
        if self._spread:
            step = len(flaws) / count
            return flaws if step <= 1 else [flaws[int((i + 0.5) * step)] for i in range(count)]
        return heapq.nlargest(count, flaws, key=lambda item: (item[1].badness, item[0]))
