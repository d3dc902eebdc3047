# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Which detections of one camera are the same object over time: ByteTrack, driven by stamps.

ByteTrack (Zhang et al., ECCV 2022) with the state and noise of BoT-SORT (Aharon et al., 2022): a
Kalman filter of constant velocity for each of centre x, centre y, width and height. What differs:

* Time is the stamps', not the frame count: prediction, noise and memory are in seconds, so 10 Hz,
  30 Hz and dropped frames need no other setting.
* Classes. A track is continued by a detection of another class only where the boxes are nearly the
  same (`SAME_BOX`): a detector that wavers between car and truck keeps its id, a rider does not
  take the bicycle's. A track's class is the one with the greatest sum of scores.
* The two classes of detections are those from which a track may start and the others that the node
  publishes; there is no second, lower threshold below what is published.
* A detection starts no track where another one that does, or that continues one, is nearly the same
  box: that is the same object under a second name.

With diagonal noise the four coordinates are independent filters of two states each, so a step over
all tracks is plain arithmetic on [T, 4] arrays.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_perception.assignment import assign
from mtl_perception.frame import Detections, Tracks

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]

SAME_BOX = 0.7
"""IoU from which two boxes of different classes are one object."""

STRONG_IOU, WEAK_IOU, NEW_IOU = 0.2, 0.5, 0.3
"""Least IoU that continues a track: by a strong detection, by a weak one, and a track of one
detection by a second. ByteTrack's."""

CONFIRMED = 2
"""Detections from which a track is one."""

MEASURED = 1 / 20
"""Noise of a detection's centre and size (standard deviation), in box heights."""

WANDER = 0.27
"""Noise of position after a second, in box heights: ByteTrack's 1/20 a frame at 30 Hz."""

ACCELERATION = 1.0
"""Noise of speed after a second, in box heights/s: ByteTrack's 1/160 a frame, a frame, at 30 Hz."""


@dataclass(frozen=True)
class Tracking:
    """Which detections start a track, and how long it outlives the last one.

    start_score: detections below it only continue tracks. memory_s: seconds without a detection
    after which a track ends.
    """

    start_score: float = 0.4
    memory_s: float = 1.0

    def __post_init__(self) -> None:
        """Raise ValueError on values that make no sense."""
        if not 0 <= self.start_score <= 1 or not self.memory_s > 0:
            raise ValueError(
                f'tracking: expected a start_score from 0 to 1 and a memory_s above 0, found '
                f'{self.start_score} and {self.memory_s}'
            )


@dataclass
class _State:
    """All tracks of a camera, one row each. Coordinates are centre x, y, width, height.

    box, speed [T, 4]: pixels, pixels/s. variance, covariance, drift [T, 4]: of box, of box and
    speed, of speed. votes [T, C]: sum of scores by class. hits, ids, seen_ns [T].
    """

    box: Floats
    speed: Floats
    variance: Floats
    covariance: Floats
    drift: Floats
    votes: Floats
    hits: Indices
    ids: Indices
    seen_ns: Indices

    @classmethod
    def started(
        cls, boxes: Floats, scores: Floats, labels: Indices, classes: int, stamp_ns: int
    ) -> _State:
        """A track for every detection [N, 4], without an id."""
        count = len(boxes)
        height = boxes[:, 3:]
        votes = np.zeros((count, classes))
        votes[np.arange(count), labels] = scores
        return cls(
            boxes.copy(), np.zeros((count, 4)),
            np.tile((2 * MEASURED * height) ** 2, 4), np.zeros((count, 4)), np.tile(height**2, 4),
            votes, np.ones(count, np.int64), np.zeros(count, np.int64),
            np.full(count, stamp_ns, np.int64),
        )  # fmt: skip

    def where(self, kept: Mask) -> _State:
        """Some of the tracks."""
        return _State(*(getattr(self, item.name)[kept] for item in fields(self)))

    def and_more(self, other: _State) -> _State:
        """These tracks and others."""
        names = [item.name for item in fields(self)]
        return _State(*(np.concatenate([getattr(self, n), getattr(other, n)]) for n in names))

    def predict(self, seconds: float, lost: Mask) -> None:
        """Move to the next frame; a track that the last one lacked keeps its size (ByteTrack)."""
        self.speed[lost, 2:] = 0
        self.box += seconds * self.speed
        np.maximum(self.box[:, 2:], 1, out=self.box[:, 2:])
        height = self.box[:, 3:]
        noise = (ACCELERATION * height) ** 2 * seconds
        self.variance += seconds * (2 * self.covariance + seconds * self.drift)
        self.variance += (WANDER * height) ** 2 * seconds + noise * seconds**2 / 3
        self.covariance += seconds * self.drift + noise * seconds / 2
        self.drift += noise

    def correct(
        self, rows: Indices, boxes: Floats, scores: Floats, labels: Indices, stamp_ns: int
    ) -> None:
        """Take the detections of this frame into these tracks."""
        variance, covariance = self.variance[rows], self.covariance[rows]
        total = variance + (MEASURED * self.box[rows, 3:]) ** 2
        gain, gain_of_speed = variance / total, covariance / total
        error = boxes - self.box[rows]
        self.box[rows] += gain * error
        self.speed[rows] += gain_of_speed * error
        self.variance[rows] = (1 - gain) * variance
        self.covariance[rows] = (1 - gain) * covariance
        self.drift[rows] -= gain_of_speed * covariance
        self.votes[rows, labels] += scores
        self.hits[rows] += 1
        self.seen_ns[rows] = stamp_ns


class Tracker:
    """The tracks of one detection task of one camera.

    A stamp before the last one and another `view` end all tracks, and the new ones get new ids.
    A stamp equal to the last one is the same moment again.
    """

    def __init__(self, classes: int, settings: Tracking | None = None) -> None:
        """classes: of the task. settings may be assigned at any time, for the next frame."""
        self.settings = settings or Tracking()
        self.ended = ''
        """Why the last frame ended all tracks, as a clause; empty when it did not."""
        self._classes = classes
        self._last_id = 0
        self._view: Hashable = None
        self._stamp_ns: int | None = None
        self._before_ns = 0
        self._tracks = self._no_tracks()

    def update(self, detections: Detections, stamp_ns: int, view: Hashable = None) -> Tracks:
        """Find the tracks that the detections of the next frame continue, and start new ones.

        stamp_ns: of the frame. view: what the boxes are pixels of, as (frame_id, width, height).
        Raises ValueError on labels outside the task.
        """
        boxes = _centred(detections.boxes)
        scores = detections.scores.astype(np.float64)
        labels = detections.labels.astype(np.int64)
        if labels.size and not 0 <= labels.min() <= labels.max() < self._classes:
            raise ValueError(
                f'tracking: labels from {labels.min()} to {labels.max()}, expected 0 to '
                f'{self._classes - 1}'
            )
        self._go_to(stamp_ns, view)
        tracks = self._tracks
        strong = scores >= self.settings.start_score
        row_of = self._continued(boxes, labels, strong)
        found = np.flatnonzero(row_of >= 0)
        rows = row_of[found]
        tracks.correct(rows, boxes[found], scores[found], labels[found], stamp_ns)
        fresh = (tracks.hits >= CONFIRMED) & (tracks.ids == 0)
        tracks.ids[fresh] = self._last_id + 1 + np.arange(np.count_nonzero(fresh))
        self._last_id += int(np.count_nonzero(fresh))
        of_track = tracks.hits[rows] >= CONFIRMED
        found, rows = found[of_track], rows[of_track]
        answer = Tracks(
            np.asarray(detections.boxes[found], np.float32),
            np.asarray(detections.scores[found], np.float32),
            tracks.votes[rows].argmax(1), tracks.ids[rows], found,
        )  # fmt: skip
        self._renew(boxes, scores, labels, strong, row_of)
        return answer

    def _continued(self, boxes: Floats, labels: Indices, strong: Mask) -> Indices:
        """Row of the track that each detection [N] continues, -1: of none; in ByteTrack's order."""
        tracks = self._tracks
        overlaps = _overlaps(tracks.box, boxes)
        same_class = tracks.votes.argmax(1)[:, None] == labels[None, :]
        confirmed = tracks.hits >= CONFIRMED
        row_of = np.full(len(boxes), -1)
        free = np.ones(len(tracks.ids), bool)
        for of_tracks, of_boxes, least in (
            (confirmed, strong, STRONG_IOU),
            (confirmed & self._seen, ~strong, WEAK_IOU),
            (~confirmed, strong, NEW_IOU),
        ):
            these, those = np.flatnonzero(of_tracks & free), np.flatnonzero(of_boxes & (row_of < 0))
            part = np.ix_(these, those)
            limit = np.where(same_class[part], least, max(least, SAME_BOX))
            first, second = assign(overlaps[part] - limit)
            row_of[those[second]], free[these[first]] = these[first], False
        return row_of

    @property
    def _seen(self) -> Mask:
        """Which tracks the last frame continued."""
        return self._tracks.seen_ns == self._before_ns

    def _go_to(self, stamp_ns: int, view: Hashable) -> None:
        """Predict all tracks to this moment; end them where there is no way there."""
        first = self._stamp_ns is None
        last_ns = stamp_ns if self._stamp_ns is None else self._stamp_ns
        self.ended = ''
        if stamp_ns < last_ns:
            self.ended = f'the stamp is {(last_ns - stamp_ns) / 1e9:g} s before the last one'
        elif view != self._view and not first:
            self.ended = f'the camera is {view} now, it was {self._view}'
        if self.ended:
            self._tracks = self._no_tracks()
        self._before_ns = min(last_ns, stamp_ns)
        self._view, self._stamp_ns = view, stamp_ns
        memory_ns = self.settings.memory_s * 1e9
        self._tracks = self._tracks.where(stamp_ns - self._tracks.seen_ns <= memory_ns)
        self._tracks.predict((stamp_ns - self._before_ns) / 1e9, ~self._seen)

    def _renew(
        self, boxes: Floats, scores: Floats, labels: Indices, strong: Mask, row_of: Indices
    ) -> None:
        """Start tracks by the detections that continue none; end those of one detection."""
        tracks = self._tracks
        taken = row_of >= 0
        starting = strong & ~taken
        if starting.any():
            order = np.arange(len(boxes))
            rivals = taken | (starting & (order < order[starting][:, None]))
            same = _overlaps(boxes[starting], boxes) >= SAME_BOX
            starting[starting] = ~(rivals & same).any(1)
        kept = tracks.where((tracks.hits >= CONFIRMED) | (tracks.seen_ns == self._stamp_ns))
        started = _State.started(
            boxes[starting], scores[starting], labels[starting], self._classes, self._stamp_ns or 0
        )
        self._tracks = kept.and_more(started)

    def _no_tracks(self) -> _State:
        none = np.zeros(0, np.int64)
        return _State.started(np.zeros((0, 4)), np.zeros(0), none, self._classes, 0)


def _centred(corners: NDArray[Any]) -> Floats:
    """Boxes [N, 4] xyxy -> centre x, y, width, height, of a pixel or more."""
    corners = np.asarray(corners, np.float64).reshape(-1, 4)
    low, high = corners[:, :2], corners[:, 2:]
    return np.concatenate([(low + high) / 2, np.maximum(high - low, 1)], 1)


def _overlaps(ours: Floats, theirs: Floats) -> Floats:
    """IoU [N, M] of centred boxes [N, 4] and [M, 4]."""
    low = np.maximum(
        (ours[:, :2] - ours[:, 2:] / 2)[:, None], (theirs[:, :2] - theirs[:, 2:] / 2)[None]
    )
    high = np.minimum(
        (ours[:, :2] + ours[:, 2:] / 2)[:, None], (theirs[:, :2] + theirs[:, 2:] / 2)[None]
    )
    size = np.maximum(high - low, 0)
    both = size[..., 0] * size[..., 1]
    areas = [boxes[:, 2] * boxes[:, 3] for boxes in (ours, theirs)]
    return np.asarray(both / (areas[0][:, None] + areas[1][None] - both))
