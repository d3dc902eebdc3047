# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The frames of a run at one task, and those of each slice, in one pass."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.metrics.average_precision import MatchTable
from mtl_perception.tasks import Task

Results = tuple[dict[str, Any], dict[str, dict[str, Any]]]
"""Of all frames, and by slice."""


class Gathered(Protocol):
    """Adds frames up, over all and over the slices that each is in."""

    def add(self, piece: Any, slices: Iterable[str]) -> None:
        """Add a metric with exactly one frame in it."""

    def extend(self, other: Any) -> None:
        """Add the frames of another bag."""

    def slices(self) -> Collection[str]:
        """Names of the slices that have a frame."""

    def results(self, slices: Iterable[str] = ()) -> Results:
        """The metric's result over all frames, and over some slices."""


class Summed:
    """For metrics whose frames add up."""

    def __init__(self, new: Callable[[], Any]) -> None:
        """new: makes the metric from no frame."""
        self._new = new
        self._whole = new()
        self._slices: dict[str, Any] = defaultdict(new)

    def add(self, piece: Any, slices: Iterable[str]) -> None:
        """Merge into the sums."""
        self._whole.merge(piece)
        for name in slices:
            self._slices[name].merge(piece)

    def extend(self, other: Summed) -> None:
        """Merge sum by sum."""
        self._whole.merge(other._whole)
        for name, metric in other._slices.items():
            self._slices[name].merge(metric)

    def slices(self) -> Collection[str]:
        """Names of the slices that have a frame."""
        return self._slices.keys()

    def results(self, slices: Iterable[str] = ()) -> Results:
        """Of all, and of some slices."""
        found = {name: self._slices.get(name) or self._new() for name in slices}
        return self._whole.result(), {name: metric.result() for name, metric in found.items()}


class Ranked:
    """For detections, which are ranked over all frames: 29 bytes each."""

    def __init__(self, task: Task) -> None:
        """Start from no frame."""
        self._table = MatchTable(task.classes)
        self._members: dict[str, array[int]] = defaultdict(lambda: array('I'))
        """By slice: numbers of the images in the table."""

    def add(self, piece: Any, slices: Iterable[str]) -> None:
        """Append the image of a `DetectionMetric`."""
        for name in slices:
            self._members[name].append(len(self._table.keys))
        for key, image in piece.images.items():
            self._table.add(key, image)

    def extend(self, other: Ranked) -> None:
        """Append table to table."""
        first = len(self._table.keys)
        for name, members in other._members.items():
            self._members[name].extend(member + first for member in members)
        self._table.extend(other._table)

    def slices(self) -> Collection[str]:
        """Names of the slices that have a frame."""
        return self._members.keys()

    def results(self, slices: Iterable[str] = ()) -> Results:
        """Rank once, count each slice's images."""
        ranking = self._table.ranked()
        images = len(ranking.keys)
        times = {name: _times(self._members.get(name, array('I')), images) for name in slices}
        return ranking.result(), {name: ranking.result(of) for name, of in times.items()}


def _times(members: array[int], images: int) -> NDArray[np.int64]:
    times = np.zeros(images, np.int64)
    times[np.frombuffer(members, np.uint32)] = 1
    return times
