# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Which input size is taken when frames take longer and shorter; on a clock moved by hand."""

from __future__ import annotations

import pytest

from mtl_perception.adaptive import BACK_S, OVER_S, Move, SizeController

PERIOD_MS = 100.0
TICK_S = 0.1


class Drive:
    """Frames at 10 Hz, the controller asked after each."""

    def __init__(self, expected_ms: tuple[float, ...] = (60.0, 40.0, 20.0)) -> None:
        self.now_s = 1000.0
        self.expected_ms = expected_ms
        self.controller = SizeController(PERIOD_MS, expected_ms, lambda: self.now_s)
        self.moves: list[tuple[float, Move]] = []

    def run(self, seconds: float, load: float) -> list[Move]:
        """Every size takes its expected time times `load`; the moves in that time."""
        begun = len(self.moves)
        for _ in range(round(seconds / TICK_S)):
            self.now_s += TICK_S
            self.controller.add(self.expected_ms[self.controller.index] * load)
            move = self.controller.decide()
            if move is not None:
                self.moves.append((self.now_s, move))
        return [move for _, move in self.moves[begun:]]


def test_what_keeps_up_stays() -> None:
    assert Drive().run(60, 1.6) == []  # 96 ms of 100


def test_over_the_period_for_a_while_is_one_step_down() -> None:
    drive = Drive()
    assert drive.run(OVER_S - 0.5, 2.0) == []
    [move] = drive.run(4, 2.0)
    assert (move.before, move.after) == (0, 1)
    assert move.p99_ms == pytest.approx(120)
    assert drive.run(60, 2.0) == []  # 80 ms: neither over the period, nor room for 120


def test_a_short_burst_changes_nothing() -> None:
    drive = Drive()
    drive.run(10, 1.0)
    assert drive.run(2, 5.0) == []
    assert drive.run(30, 1.0) == []


def test_more_load_is_the_next_step_and_the_last_step_stays() -> None:
    drive = Drive()
    assert [move.after for move in drive.run(60, 4.0)] == [1, 2]
    assert drive.run(60, 9.0) == []  # nothing is smaller


def test_when_the_load_goes_it_comes_back_step_by_step() -> None:
    drive = Drive()
    drive.run(20, 4.0)
    assert drive.controller.index == 2
    moves = drive.run(3 * BACK_S, 1.0)
    assert [move.after for move in moves] == [1, 0]
    assert moves[0].expected_ms == pytest.approx(40)
    assert drive.moves[-2][0] - drive.moves[-3][0] >= BACK_S


def test_between_too_much_and_room_enough_nothing_flaps() -> None:
    """At 1.5 the largest takes 90 ms: it keeps up, but is not gone back to."""
    drive = Drive()
    drive.run(10, 2.0)
    assert drive.controller.index == 1
    assert drive.run(300, 1.5) == []


def test_a_size_that_could_not_be_kept_is_tried_ever_more_rarely() -> None:
    """Expected times mislead: the larger size takes three times what its figure promises."""
    drive = Drive((60.0, 40.0))
    tries = 0
    for _ in range(round(600 / TICK_S)):
        drive.now_s += TICK_S
        drive.controller.add(130.0 if drive.controller.index == 0 else 40.0)
        move = drive.controller.decide()
        tries += move is not None and move.after == 0
    assert 3 <= tries <= 8  # after 10, 20, 40, 80, 160, 160 s: without doubling it would be 40


def test_frames_of_the_size_before_do_not_count() -> None:
    drive = Drive()
    drive.run(8, 2.0)
    assert drive.controller.index == 1
    assert drive.run(OVER_S, 1.0) == []


def test_without_frames_nothing_is_decided() -> None:
    drive = Drive()
    drive.run(OVER_S - 0.5, 3.0)
    drive.now_s += 60
    assert drive.controller.decide() is None
    assert drive.run(0.5, 3.0) == []
