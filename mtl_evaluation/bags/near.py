# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Truth whose stamp is not exactly that of its image: the nearest one within a tolerance has it.

A stamp that went through seconds as a float is off by up to a microsecond; a labelling tool may
round to milliseconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from mtl_evaluation.bags.cameras import Camera
from mtl_evaluation.messages.cdr import BagError

Group = tuple[int, dict[str, bytes], list[str]]
"""Stamp, CDR by topic, topics that repeated: what `by_stamp` yields."""


def with_near_truth(
    groups: Iterable[Group], cameras: Sequence[Camera], tolerance_ns: int
) -> Iterator[Group]:
    """The same groups, truth messages moved to the nearest image of their camera.

    An image that has truth of a topic keeps it. What no image is near enough to stays where it is.
    Whatever `groups` raises is raised after the groups that were read before it.
    """
    waiting: deque[Group] = deque()
    damage: BagError | None = None
    try:
        for group in groups:
            while waiting and group[0] - waiting[0][0] > 2 * tolerance_ns:
                yield _settled(waiting, cameras, tolerance_ns)
            waiting.append(group)
    except BagError as error:
        damage = error
    while waiting:
        yield _settled(waiting, cameras, tolerance_ns)
    if damage is not None:
        raise damage


def _settled(waiting: deque[Group], cameras: Sequence[Camera], tolerance_ns: int) -> Group:
    """Take the first group; truth moves between it and those that follow closely."""
    stamp, messages, repeated = waiting.popleft()
    for camera in cameras:
        images = [item for item in waiting if camera.topic in item[1]]
        for topic in camera.truth:
            if camera.topic in messages and topic not in messages:
                strays = [item for item in waiting if topic in item[1] and item not in images]
                near = [item for item in strays if abs(item[0] - stamp) <= tolerance_ns]
                for item in sorted(near, key=lambda item: abs(item[0] - stamp))[:1]:
                    others = [abs(other[0] - item[0]) for other in images if topic not in other[1]]
                    if abs(item[0] - stamp) <= min(others, default=tolerance_ns):
                        messages[topic] = item[1].pop(topic)
            elif camera.topic not in messages and topic in messages:
                free = [item for item in images if topic not in item[1]]
                nearest = min(free, key=lambda item: abs(item[0] - stamp), default=None)
                if nearest is not None and abs(nearest[0] - stamp) <= tolerance_ns:
                    nearest[1][topic] = messages.pop(topic)
    return stamp, messages, repeated
