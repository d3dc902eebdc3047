# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""A bag whose ground truth comes from files: which labels belong to which frame.

Joined by the name of the image's file, which the bag has to say (`/camera/image_name`), by stamp
within a tolerance, or by order where nothing else is known. A label file is used for one frame at
most: of two frames within the tolerance the nearer one gets it.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from mtl_evaluation.bags.bag import DriveBag, DriveFrame
from mtl_evaluation.bags.bag_file import BagInfo
from mtl_evaluation.bags.cameras import CameraBag
from mtl_evaluation.bags.guarded import GuardedBag
from mtl_evaluation.bags.listing import Listing
from mtl_evaluation.bags.read_options import TOLERANCE_MS
from mtl_evaluation.messages.cdr import HEADER, BagError
from mtl_evaluation.truth.class_mapping import NO_MAPPING, ClassMapping
from mtl_evaluation.truth.truth import Truth
from mtl_evaluation.truth.truth_files import Entry, TruthFiles, stem_of
from mtl_perception.frame import Frame

Join = Literal['auto', 'name', 'stamp', 'index']


@dataclass(frozen=True)
class TruthContent:
    """What label files hold. names: of their frames, in order; sha256: other if they change."""

    names: tuple[str, ...]
    sha256: str


def truth_content(files: TruthFiles) -> TruthContent:
    """Names and hash of label files: all that JSON says, but name, size and time of masks."""
    digest = hashlib.sha256()
    for entry in files.entries:
        masks = []
        for task, path in sorted(entry.masks.items()):
            about = path.stat()
            masks.append([task, path.name, about.st_size, about.st_mtime_ns])
        content = json.dumps([entry.name, entry.stamp_ns, entry.frame, masks], sort_keys=True)
        digest.update(content.encode() + b'\n')
    return TruthContent(tuple(entry.name for entry in files.entries), digest.hexdigest())


@dataclass(frozen=True)
class JoinedFrame(DriveFrame):
    """A frame of the bag with the labels of a file, or without any."""

    source: DriveFrame
    entry: Entry | None
    classes: ClassMapping = NO_MAPPING

    def image(self) -> Frame:
        """The picture; raises ImageError."""
        return self.source.image()

    def truth(self) -> Truth:
        """What the file says; raises LabelError on broken labels."""
        return Truth() if self.entry is None else self.classes(self.entry.truth())


class JoinedBag(CameraBag):
    """As the bag it is made of, with the truth of files instead of its own.

    join: how frames find their labels. unmatched_frames: frames without labels; unmatched_truth:
    labels without a frame, and used_truth the names of the others, complete when `frames` has
    ended.
    """

    def __init__(
        self,
        bag: DriveBag | GuardedBag,
        files: TruthFiles,
        join: Join = 'auto',
        tolerance_ms: float = TOLERANCE_MS,
        classes: ClassMapping = NO_MAPPING,
    ) -> None:
        """Decide how to join: `auto` is by name where the bag has names, else by stamp.

        Raises BagError when bag or files lack what the join needs, or when their times are so far
        apart that nothing can match.
        """
        self._bag = bag
        self._classes = classes
        self._entries = files.entries
        self._where = ', '.join(map(str, files.paths))
        self._tolerance_ns = round(tolerance_ms * 1e6)
        self.path = bag.path
        self.cameras = bag.cameras
        self.info: BagInfo = bag.info
        self.join = self._choose(join)
        self.unmatched_frames = Listing()
        self.unmatched_truth = Listing()
        self.used_truth: set[str] = set()
        if self.join == 'stamp':
            self._check_ranges()

    @property
    def repeated(self) -> Listing:
        """Images of the bag that were left out because their stamp repeats."""
        return self._bag.repeated

    def frames(self) -> Iterator[JoinedFrame]:
        """Every frame of the bag with its labels.

        Raises BagError as the bag does, and at the end when no frame had labels.
        """
        self.unmatched_frames, self.unmatched_truth = Listing(), Listing()
        used = self.used_truth = set()
        first = last = ''
        for frame, entry in self._pairs():
            last = self._name_of(frame)
            first = first or last
            if entry is None:
                self.unmatched_frames.add(f'frame {frame.index} of {frame.topic} ({last})')
            else:
                used.add(entry.name)
            yield JoinedFrame(
                frame.index, frame.stamp_ns, frame.camera, frame.name, frame, entry, self._classes
            )  # fmt: skip
        for entry in self._entries:
            if entry.name not in used:
                self.unmatched_truth.add(entry.name)
        if first and not used:
            raise BagError(self._no_overlap(first, last))

    def _pairs(self) -> Iterator[tuple[DriveFrame, Entry | None]]:
        frames = self._bag.frames(truth=False)
        if self.join == 'stamp':
            yield from self._pairs_by_stamp(frames)
        elif self.join == 'index':
            for frame in frames:
                there = frame.index < len(self._entries)
                yield frame, self._entries[frame.index] if there else None
        else:
            by_name = {entry.name: entry for entry in self._entries}
            for frame in frames:
                yield frame, by_name.pop(stem_of(frame.name), None)

    def _pairs_by_stamp(
        self, frames: Iterable[DriveFrame]
    ) -> Iterator[tuple[DriveFrame, Entry | None]]:
        """Look one frame ahead: its stamp may be nearer to the labels that this one would take."""
        entries = _in_time(self._entries)
        times = [stamp for stamp, _ in entries]
        used: set[int] = set()
        before: DriveFrame | None = None
        taken: int | None = None
        for frame in frames:
            found = self._nearest(times, frame.stamp_ns)
            if before is not None:
                if taken is not None and taken == found:
                    distances = [abs(item.stamp_ns - times[taken]) for item in (before, frame)]
                    if distances[1] < distances[0]:
                        taken = None
                yield before, self._use(entries, taken, used)
            before, taken = frame, None if found in used else found
        if before is not None:
            yield before, self._use(entries, taken, used)

    @staticmethod
    def _use(
        entries: Sequence[tuple[int, Entry]], place: int | None, used: set[int]
    ) -> Entry | None:
        if place is None:
            return None
        used.add(place)
        return entries[place][1]

    def _nearest(self, times: list[int], stamp: int) -> int | None:
        """Place of the time nearest to a stamp, None where it is beyond the tolerance."""
        at = bisect_left(times, stamp)
        near = [place for place in (at - 1, at) if 0 <= place < len(times)]
        place = min(near, key=lambda item: abs(times[item] - stamp), default=None)
        if place is None or abs(times[place] - stamp) > self._tolerance_ns:
            return None
        return place

    def _choose(self, join: Join) -> Join:
        cameras = [camera.topic for camera in self.cameras]
        headers = [topic for topic, kind, count in self.info.topics if kind == HEADER and count]
        named = all(camera.name_topic in headers for camera in self.cameras)
        if join == 'auto':
            join = 'name' if named else 'stamp'
        if join == 'name' and not named:
            raise BagError(
                f'{self.path} does not say the names of its images (no '
                f'{self.cameras[0].name_topic}). Join by --truth-join stamp, or index'
            )
        if join != 'name' and len(cameras) > 1:
            raise BagError(
                f'{self._where}: by {join} it is not clear which of the cameras is meant: '
                f'{", ".join(cameras)}. Choose one with --topic.'
            )
        if join == 'stamp' and not _in_time(self._entries):
            raise BagError(
                f'{self._where}: no frame has a `timestamp` or a name that is a time, as in '
                f'1700000000.100000000.png. Join by --truth-join index if the order is the same'
            )
        return join

    def _check_ranges(self) -> None:
        """Before hours of inference: is there any frame in the time of the labels?"""
        times = [stamp for stamp, _ in _in_time(self._entries)]
        start, end = times[0] - self._tolerance_ns, times[-1] + self._tolerance_ns
        if start <= self.info.end_ns and self.info.start_ns <= end:
            return
        # The recorder's clock may be another than the stamps'.
        stamps = self._bag.stamps()
        if stamps and not any(start <= stamp <= end for stamp in stamps):
            raise BagError(self._no_overlap(_seconds(stamps[0]), _seconds(stamps[-1])))

    def _name_of(self, frame: DriveFrame) -> str:
        if self.join == 'name':
            return frame.name or 'without a name'
        return _seconds(frame.stamp_ns)

    def _no_overlap(self, first: str, last: str) -> str:
        entries = self._entries
        if self.join == 'stamp':
            entries = [entry for _, entry in _in_time(entries)]
        names = [
            entry.name if self.join == 'name' else _seconds(entry.stamp_ns or 0)
            for entry in (entries[0], entries[-1])
        ]
        within = f' within {self._tolerance_ns / 1e6:g} ms' if self.join == 'stamp' else ''
        return (
            f'{self.path} and {self._where} have no frame in common (by {self.join}{within}): the '
            f'frames are {first} to {last}, the labels {names[0]} to {names[1]}'
        )


def _in_time(entries: Sequence[Entry]) -> list[tuple[int, Entry]]:
    """Those that have a time, in its order."""
    known = [(entry.stamp_ns, entry) for entry in entries if entry.stamp_ns is not None]
    return sorted(known, key=lambda item: item[0])


def _seconds(stamp_ns: int) -> str:
    return f'{stamp_ns // 1_000_000_000}.{stamp_ns % 1_000_000_000:09d} s'
