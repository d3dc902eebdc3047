# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Flicker of masks and boxes on sequences where it can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mtl_evaluation.metrics.temporal import PIXEL_STEP, Stability, StabilityTracker
from mtl_evaluation.truth.truth import Truth
from mtl_perception.frame import Detections, Result
from mtl_perception.tasks import DETECTION, DRIVABLE

STEP_NS = 100_000_000


def play(frames, tasks=(DETECTION, DRIVABLE), step_ns=STEP_NS, indices=None):
    """Results over frames of (result, truth)."""
    tracker, whole = StabilityTracker(tasks), Stability()
    for number, (result, truth) in enumerate(frames):
        index = number if indices is None else indices[number]
        whole.merge(tracker.update(index, number * step_ns, result, truth))
    return whole.result()


def masks(*rows, truths=None):
    """Frames of one row of pixels, each as wide as the step at which they are looked at."""
    truths = truths or [None] * len(rows)
    rows = [np.repeat(row, PIXEL_STEP) for row in rows]
    truths = [None if truth is None else np.repeat(truth, PIXEL_STEP) for truth in truths]
    return [
        (
            Result({'drivable': np.array([row], np.uint8)}),
            Truth(masks={} if truth is None else {'drivable': np.array([truth], np.uint8)}),
        )
        for row, truth in zip(rows, truths, strict=True)
    ]


def boxes(*frames):
    """Frames of rows x1, score, label: boxes 10 wide and 10 high."""
    return [
        (
            Result(
                {
                    'detection': Detections(
                        np.array([[x, 0, x + 10, 10] for x, _, _ in rows], np.float32).reshape(
                            -1, 4
                        ),
                        np.array([score for _, score, _ in rows], np.float32),
                        np.array([label for _, _, label in rows], np.int64),
                    )
                }
            ),
            Truth(),
        )
        for rows in frames
    ]


def test_changes_that_the_truth_makes_are_no_flicker():
    found = play(
        masks([0, 0, 0, 0], [1, 1, 0, 0], truths=[[0, 0, 0, 255], [1, 0, 0, 0]])
    )['drivable']  # fmt: skip

    assert found['changed'] == 2 / 4
    assert found['truth_changed'] == 1 / 3  # the last pixel is not labelled in both
    assert found['flicker'] == 1 / 2  # of two pixels whose truth stays, one changes
    assert found['blink'] is None


def test_pixels_that_return_after_one_frame_blink():
    found = play(masks([0, 0, 0, 0], [1, 1, 1, 0], [0, 1, 2, 0]))['drivable']

    assert found['blink'] == 1 / 4
    assert found['changed'] == (3 + 2) / 8
    assert found['flicker'] is None  # nothing is labelled


def test_still_pictures_are_still():
    found = play([*masks([0, 1]), *masks([0, 1]), *masks([0, 1])])['drivable']

    assert (found['changed'], found['blink']) == (0.0, 0.0)


def test_an_object_that_vanishes_for_one_frame():
    found = play(
        boxes(
            [(0, 0.9, 2), (50, 0.9, 2), (100, 0.9, 2)],
            [(1, 0.8, 2), (50, 0.9, 1)],
            [(2, 0.9, 2), (50, 0.9, 2), (150, 0.9, 2)],
        )
    )['detection']

    # Of the two that are found again, one was there as another class only in between.
    assert found['found_again'] == 2
    assert found['vanished'] == 0.5
    assert found['linked'] == 2  # the first object, twice: the second changes its class
    assert found['score_jitter'] == pytest.approx(0.1)


def test_boxes_below_the_score_that_is_shown_are_not_there():
    found = play(boxes([(0, 0.9, 2)], [(0, 0.29, 2)], [(0, 0.9, 2)]))['detection']

    assert (found['linked'], found['vanished'], found['score_jitter']) == (0, 1.0, None)


def test_each_box_is_found_again_once():
    found = play(boxes([(0, 0.9, 2), (3, 0.9, 2)], [(0, 0.9, 2)]))['detection']

    assert found['linked'] == 1


@pytest.mark.parametrize(
    'gap', [{'step_ns': 2_000_000_000}, {'indices': [0, 2, 4]}, {'step_ns': -1}]
)
def test_after_a_gap_there_is_nothing_to_compare(gap):
    found = play(masks([0, 0], [1, 1], [0, 0]), **gap)['drivable']

    assert (found['changed'], found['blink']) == (None, None)


def test_frames_of_another_size_are_not_compared():
    found = play([*masks([0, 0]), *masks([0, 0, 0])])['drivable']

    assert found['changed'] is None


def test_parts_merge_to_the_whole():
    rng = np.random.default_rng(0)
    frames = [
        (Result({'detection': Detections(
            rng.uniform(0, 90, (6, 4)).astype(np.float32), rng.random(6).astype(np.float32),
            rng.integers(0, 2, 6),
        ), 'drivable': rng.integers(0, 3, (4, 4)).astype(np.uint8)}), Truth())
        for _ in range(9)
    ]  # fmt: skip
    tracker = StabilityTracker((DETECTION, DRIVABLE))
    pieces = [tracker.update(i, i, *frame) for i, frame in enumerate(frames)]

    parts = [Stability() for _ in range(3)]
    for index, piece in enumerate(pieces):
        parts[index % 3].merge(Stability.from_arrays(piece.to_arrays()))
    for part in (parts[0], parts[1]):
        parts[2].merge(part)

    assert parts[2].result() == play(frames, step_ns=1)
