# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Ids of the detections of one camera."""

from __future__ import annotations

import numpy as np
import pytest

from mtl_perception.frame import Detections
from mtl_perception.tracking import Tracker, Tracking

CAR, TRUCK, RIDER, BICYCLE = 2, 3, 1, 7
FRONT = ('front', 1280, 720)
SECOND = 10**9


def boxes(*rows: tuple[float, ...]) -> Detections:
    """Rows of centre x, centre y, width, height, score, class."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    corners = np.concatenate(
        [table[:, :2] - table[:, 2:4] / 2, table[:, :2] + table[:, 2:4] / 2], 1
    ).astype(np.float32)
    return Detections(corners, table[:, 4].astype(np.float32), table[:, 5].astype(np.int64))


def car(x: float, score: float = 0.9, label: int = CAR) -> tuple[float, ...]:
    return (x, 300, 100, 80, score, label)


def ids_of(tracker: Tracker, stamp_s: float, *rows: tuple[float, ...]) -> list[int]:
    """The id of each row in a frame; 0: no track."""
    found = boxes(*rows)
    return tracker.update(found, round(stamp_s * SECOND), FRONT).of_detections(len(found)).tolist()


@pytest.fixture
def tracker() -> Tracker:
    return Tracker(10)


def test_a_second_detection_makes_a_track_and_it_keeps_its_id(tracker):
    seen = [ids_of(tracker, k / 10, car(300 + 8 * k)) for k in range(6)]

    assert seen == [[0], [1], [1], [1], [1], [1]]


def test_what_is_said_of_a_track(tracker):
    tracker.update(boxes(car(300), car(900)), 0, FRONT)
    tracks = tracker.update(boxes((600, 10, 9, 9, 0.8, CAR), car(900), car(300, 0.7)), 1, FRONT)

    assert tracks.rows.tolist() == [1, 2]
    assert sorted(tracks.ids.tolist()) == [1, 2]
    np.testing.assert_allclose(tracks.boxes, boxes(car(900), car(300)).boxes)
    np.testing.assert_allclose(tracks.scores, [0.9, 0.7], rtol=1e-6)
    assert (tracks.ids.dtype, tracks.labels.tolist(), len(tracks)) == (np.int64, [CAR] * 2, 2)


def test_cars_that_pass_each_other_keep_their_ids(tracker):
    """Side by side for some frames; only their speeds tell them apart."""
    for k in range(30):
        seen = ids_of(tracker, k / 30, car(300 + 12 * k), (660 - 12 * k, 330, 100, 80, 0.9, CAR))

    assert seen == [1, 2]


@pytest.mark.parametrize('missed', [1, 4, 8])
def test_an_id_is_kept_across_missed_frames(tracker, missed):
    for k in range(10):
        before = ids_of(tracker, k / 10, car(200 + 20 * k))
    for k in range(10, 10 + missed):
        assert ids_of(tracker, k / 10) == []
    after = ids_of(tracker, (10 + missed) / 10, car(200 + 20 * (10 + missed)))

    assert after == before == [1]


def test_an_id_is_kept_at_uneven_rates(tracker):
    """30 Hz, then 5 Hz, then 15 Hz: the same 300 pixels per second."""
    steps = np.concatenate([np.full(20, 1 / 30), np.full(8, 1 / 5), np.full(15, 1 / 15)])
    stamps = np.cumsum(steps)
    seen = [ids_of(tracker, stamp, car(100 + 300 * stamp)) for stamp in stamps]

    assert seen[1:] == [[1]] * (len(stamps) - 1)


def test_memory_is_seconds_not_frames():
    for memory_s, kept in ((0.5, False), (2.0, True)):
        tracker = Tracker(10, Tracking(memory_s=memory_s))
        for k in range(5):
            ids_of(tracker, k / 10, car(300))
        again = [ids_of(tracker, 1.4 + k / 10, car(300)) for k in range(2)]
        assert again == ([[1], [1]] if kept else [[0], [2]])


def test_a_stamp_that_goes_back_ends_all_tracks_and_no_id_returns(tracker):
    for k in range(5):
        ids_of(tracker, 100 + k / 10, car(300))

    assert ids_of(tracker, 50, car(300)) == [0]
    assert tracker.ended == 'the stamp is 50.4 s before the last one'
    assert ids_of(tracker, 50.1, car(300)) == [2]
    assert tracker.ended == ''


@pytest.mark.parametrize('view', [('rear', 1280, 720), ('front', 640, 360), None])
def test_another_camera_or_size_ends_all_tracks(tracker, view):
    for k in range(3):
        tracker.update(boxes(car(300)), k, FRONT)

    tracks = tracker.update(boxes(car(300)), 3, view)

    assert len(tracks) == 0
    assert 'it was' in tracker.ended


def test_time_that_stands_still_keeps_ids(tracker):
    seen = [ids_of(tracker, 0, car(300 + k)) for k in range(20)]

    assert seen[1:] == [[1]] * 19


def test_a_detector_that_wavers_between_classes_keeps_the_id_and_the_main_class(tracker):
    labels = [CAR, CAR, TRUCK, CAR, CAR, TRUCK, CAR]
    for k, label in enumerate(labels):
        tracks = tracker.update(boxes(car(300 + 3 * k, label=label)), k * SECOND // 10, FRONT)

    assert (tracks.ids.tolist(), tracks.labels.tolist()) == ([1], [CAR])


def test_a_rider_does_not_take_the_id_of_the_bicycle(tracker):
    def frame(k: int, *parts: int) -> list[int]:
        rows = {RIDER: (300, 280, 50, 100, 0.9, RIDER), BICYCLE: (300, 310, 60, 90, 0.8, BICYCLE)}
        return ids_of(tracker, k / 10, *(rows[part] for part in parts))

    for k in range(4):
        both = frame(k, RIDER, BICYCLE)
    assert frame(4, BICYCLE) == both[1:]
    assert frame(5, RIDER) == both[:1]


def test_one_object_under_two_names_is_one_track(tracker):
    for k in range(5):
        tracker.update(boxes(car(300), car(301, 0.5, TRUCK)), k * SECOND // 10, FRONT)
    tracks = tracker.update(boxes(car(300), car(301, 0.5, TRUCK)), SECOND // 2, FRONT)

    assert tracks.ids.tolist() == [1] and tracks.rows.tolist() == [0]


def test_a_weak_detection_continues_a_track_and_starts_none(tracker):
    for k in range(3):
        ids_of(tracker, k / 10, car(300), car(700, 0.35))
    assert ids_of(tracker, 0.3, car(300, 0.35), car(700, 0.35)) == [1, 0]


def test_many_boxes_and_none_do_no_harm(tracker):
    random = np.random.default_rng(1)
    places = random.uniform(0, [1280, 720], (1000, 2))
    sizes = random.uniform(0, 90, (1000, 2))
    rows = np.concatenate([places, sizes, np.full((1000, 1), 0.9), np.full((1000, 1), CAR)], 1)
    for k in range(3):
        tracks = tracker.update(boxes(*rows), k * SECOND // 10, FRONT)
    assert len(np.unique(tracks.ids)) == len(tracks) > 800
    assert len(tracker.update(boxes(), SECOND, FRONT)) == 0


def test_bad_labels_and_settings_are_refused(tracker):
    with pytest.raises(ValueError, match='labels from 10 to 10, expected 0 to 9'):
        tracker.update(boxes(car(300, label=10)), 0, FRONT)
    with pytest.raises(ValueError, match='memory_s above 0'):
        Tracking(memory_s=0)


def test_the_same_frames_give_the_same_tracks():
    """A replay of a bag is what the node answered."""
    random = np.random.default_rng(5)
    frames = [boxes(*(car(x, s) for x, s in random.uniform([0, 0.3], [900, 1], (9, 2))))
              for _ in range(40)]  # fmt: skip

    def run() -> list[list[int]]:
        tracker = Tracker(10)
        found = [tracker.update(frame, k * SECOND // 10, FRONT) for k, frame in enumerate(frames)]
        return [tracks.ids.tolist() for tracks in found]

    assert run() == run()
