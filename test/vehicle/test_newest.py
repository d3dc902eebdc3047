# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Newest-frame slots: exact counts, fairness, closing."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtl_perception.newest import NewestSlots, SlotCounts


def test_newer_item_replaces_the_one_that_waits() -> None:
    """The newest is taken; the replaced one is counted."""
    slots: NewestSlots[int] = NewestSlots(['a'])
    assert slots.put('a', 1) is False
    assert slots.put('a', 2) is True
    assert slots.take() == ('a', 2)
    assert slots.take(timeout_s=0) is None
    assert slots.counts('a') == SlotCounts(received=2, taken=1, dropped=1, pending=0)


def test_cameras_are_served_in_turn() -> None:
    """A camera that is always ready does not starve the others."""
    slots: NewestSlots[int] = NewestSlots(['a', 'b', 'c'])
    served = []
    for turn in range(9):
        slots.put('a', turn)
        slots.put('b', turn)
        if turn % 2 == 0:
            slots.put('c', turn)
        taken = slots.take()
        assert taken is not None
        served.append(taken[0])
    assert ''.join(served) == 'abcabcabc'


def test_one_camera_alone_does_not_wait_for_its_turn() -> None:
    """Turns go to cameras that have something."""
    slots: NewestSlots[int] = NewestSlots(['a', 'b'])
    for turn in range(3):
        slots.put('b', turn)
        assert slots.take(timeout_s=0) == ('b', turn)


def test_falsy_items_are_items() -> None:
    """None and 0 are not mistaken for an empty slot."""
    slots: NewestSlots[int | None] = NewestSlots(['a'])
    slots.put('a', None)
    assert slots.take(timeout_s=0) == ('a', None)


def test_close_drops_what_waits_and_wakes_the_consumer() -> None:
    """The consumer ends, later puts are counted as dropped, reopening goes on counting."""
    slots: NewestSlots[int] = NewestSlots(['a'])
    taken: list[object] = []
    consumer = threading.Thread(target=lambda: taken.append(slots.take()))
    consumer.start()
    slots.close()
    consumer.join(5)
    assert not consumer.is_alive()
    assert taken == [None]
    slots.put('a', 1)
    assert slots.counts('a') == SlotCounts(1, 0, 1, 0)
    slots.reopen()
    slots.put('a', 2)
    slots.close()
    assert slots.take() is None
    assert slots.counts('a') == SlotCounts(2, 0, 2, 0)


def test_reopened_slots_do_not_hand_out_old_frames() -> None:
    """What waited when the node was deactivated is not processed when it is activated again."""
    slots: NewestSlots[str] = NewestSlots(['a'])
    slots.put('a', 'old')
    slots.close()
    slots.reopen()
    assert slots.take(timeout_s=0) is None


def test_timeout_ends_the_wait() -> None:
    """`take` returns None after its timeout, not earlier."""
    slots: NewestSlots[int] = NewestSlots(['a'])
    started_s = time.monotonic()
    assert slots.take(timeout_s=0.05) is None
    assert time.monotonic() - started_s >= 0.05


def test_unknown_camera_and_bad_names() -> None:
    """Programming errors are told at once."""
    slots: NewestSlots[int] = NewestSlots(['a'])
    with pytest.raises(KeyError):
        slots.put('b', 1)
    with pytest.raises(ValueError, match='distinct'):
        NewestSlots([])
    with pytest.raises(ValueError, match='distinct'):
        NewestSlots(['a', 'a'])


@given(st.lists(st.tuples(st.sampled_from('pptttco'), st.sampled_from('ab')), max_size=60))
def test_counts_add_up_after_any_history(history: list[tuple[str, str]]) -> None:
    """received == taken + dropped + pending after every single step."""
    slots: NewestSlots[int] = NewestSlots(['a', 'b'])
    for step, camera in history:
        if step == 'p':
            slots.put(camera, 0)
        elif step == 't':
            slots.take(timeout_s=0)
        elif step == 'c':
            slots.close()
        else:
            slots.reopen()
        for name in 'ab':
            counts = slots.counts(name)
            assert counts.received == counts.taken + counts.dropped + counts.pending


def test_counts_add_up_under_threads() -> None:
    """Three producers on three cameras, one slow consumer: nothing is lost from the books."""
    cameras = ['a', 'b', 'c']
    puts = 2000
    slots: NewestSlots[int] = NewestSlots(cameras)
    seen: dict[str, list[int]] = {camera: [] for camera in cameras}

    def produce(camera: str) -> None:
        for number in range(puts):
            slots.put(camera, number)

    def consume() -> None:
        while (taken := slots.take()) is not None:
            seen[taken[0]].append(taken[1])

    consumer = threading.Thread(target=consume)
    producers = [threading.Thread(target=produce, args=(camera,)) for camera in cameras]
    for thread in (consumer, *producers):
        thread.start()
    for thread in producers:
        thread.join()
    while any(slots.counts(camera).pending for camera in cameras):
        time.sleep(0.001)
    slots.close()
    consumer.join(5)
    for camera in cameras:
        counts = slots.counts(camera)
        assert counts.received == puts
        assert counts.taken == len(seen[camera])
        assert counts.received == counts.taken + counts.dropped
        assert seen[camera] == sorted(seen[camera])
        assert seen[camera][-1] == puts - 1


def test_overload_is_shared_fairly() -> None:
    """Four cameras at overload, one ten times as fast: each gets its share within 10 %."""
    cameras = ['a', 'b', 'c', 'd']
    slots: NewestSlots[int] = NewestSlots(cameras)
    rounds = 400
    for turn in range(rounds):
        for camera in cameras:
            slots.put(camera, turn)
        for extra in range(9):
            slots.put('a', turn * 10 + extra)
        slots.take()
    for camera in cameras:
        assert slots.counts(camera).taken >= 0.9 * rounds / len(cameras)


def test_cameras_that_wait_are_taken_together_one_frame_each() -> None:
    """In turn, at most as many as asked for; who was left out is next."""
    slots: NewestSlots[int] = NewestSlots(['a', 'b', 'c', 'd'])
    for camera in 'abcd':
        slots.put(camera, 1)
    assert slots.take_several(2, 3) == [('a', 1), ('b', 1), ('c', 1)]
    for camera in 'abc':
        slots.put(camera, 2)
    assert slots.take_several(2, 3) == [('d', 1), ('a', 2), ('b', 2)]
    assert slots.take_several(1, 3) == [('c', 2)]


def test_where_too_few_wait_only_the_next_in_turn_is_taken() -> None:
    """The other stays in its slot, where a newer frame can replace it."""
    slots: NewestSlots[int] = NewestSlots(['a', 'b', 'c'])
    slots.put('a', 1)
    slots.put('b', 1)
    assert slots.take_several(3, 3) == [('a', 1)]
    assert slots.put('b', 2) is True
    assert slots.take_several(3, 3) == [('b', 2)]
    assert slots.take_several(3, 3, timeout_s=0) == []


@given(
    st.lists(st.tuples(st.sampled_from('abcd'), st.integers(1, 4)), max_size=80),
    st.integers(1, 4),
)
def test_together_or_not_no_camera_is_served_twice_before_one_that_waits(
    history: list[tuple[str, int]], least: int
) -> None:
    """Whatever comes: at most so many cameras are served between two turns of a waiting one."""
    slots: NewestSlots[int] = NewestSlots(list('abcd'))
    waiting_since: dict[str, int] = {}
    served = 0
    for camera, most in history:
        slots.put(camera, 0)
        waiting_since.setdefault(camera, served)
        if most > 1:
            continue
        for name, _ in slots.take_several(least, 4, timeout_s=0):
            served += 1
            assert served - waiting_since.pop(name) <= 4
