# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Watchdog, throttle, windows and /diagnostics, on a clock made by hand."""

from __future__ import annotations

import threading
from functools import partial

import pytest

pytest.importorskip('diagnostic_msgs.msg', reason='needs ROS 2 (make test installs the wheels)')

from builtin_interfaces.msg import Time

from mtl_perception.newest import NewestSlots, SlotCounts
from mtl_perception.node import health
from mtl_perception.node.health import ERROR, OK, WARN, CameraHealth, Status

pytestmark = pytest.mark.ros


class HandClock:
    """A steady clock that a test turns."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


def test_watchdog_goes_from_ok_to_warn_to_error_and_back(clock: HandClock) -> None:
    watchdog = health.Watchdog(1.0, 2.0, clock)
    levels = []
    for clock.now_s in (100.0, 100.9, 101.0, 101.9, 102.0, 5000.0):
        levels.append(watchdog.level)
    assert levels == [OK, OK, WARN, WARN, ERROR, ERROR]
    watchdog.feed()
    assert watchdog.level == OK


def test_throttle_lets_one_through_in_five_seconds_a_key(clock: HandClock) -> None:
    throttle = health.Throttle(5.0, clock)
    assert throttle('a') == 0
    assert throttle('b') == 0
    for clock.now_s in (100.1, 101.0, 104.9):
        assert throttle('a') is None
    clock.now_s = 105.0
    assert throttle('a') == 3
    clock.now_s = 110.0
    assert throttle('a') == 0


def test_window_keeps_the_last_samples() -> None:
    window = health.Window()
    assert window.figures() == {}
    for value in range(1000):
        window.add(value)
    found = window.figures()
    assert found['p50'] == pytest.approx(849.5)
    assert 995 < found['p99'] < 999
    assert found['max'] == 999


def test_rate_follows_the_stream_and_falls_when_it_stops(clock: HandClock) -> None:
    camera = CameraHealth(1.0, 2.0, clock)
    counts = SlotCounts(0, 0, 0, 0)
    assert camera.values(lambda: counts)['rate_hz'] == '0.00'
    for frame in range(100):
        clock.now_s = 100 + frame / 10
        camera.frame_done({}, None)
    assert float(camera.values(lambda: counts)['rate_hz']) == pytest.approx(10, rel=0.03)
    clock.now_s += 2.5
    assert float(camera.values(lambda: counts)['rate_hz']) == pytest.approx(5, rel=0.1)
    clock.now_s += 10
    assert camera.values(lambda: counts)['rate_hz'] == '0.00'


def test_camera_values_hold_counts_stages_and_reason(clock: HandClock) -> None:
    camera = CameraHealth(1.0, 2.0, clock)
    camera.frame_done({'image': 1.0, 'engine': 20.0, 'publish': 2.0}, age_ms=30.0)
    camera.frame_done({'image': 1.0, 'engine': 20.0, 'publish': 2.0}, age_ms=None)
    camera.frame_rejected('step is 0')
    camera.frame_failed()
    camera.frame_unwanted()
    values = camera.values(lambda: SlotCounts(received=9, taken=5, dropped=3, pending=1))
    assert values['received'] == '9'
    assert values['replaced'] == '3'
    assert (values['processed'], values['rejected']) == ('2', '1')
    assert (values['failed'], values['unwanted']) == ('1', '1')
    assert values['engine_ms_p50'] == values['engine_ms_p99'] == '20.00'
    assert values['age_ms_p50'] == '30.00'
    assert values['last_rejection'] == 'step is 0'
    assert 'decode_ms_p50' not in values


def test_camera_status_says_what_to_look_at(clock: HandClock) -> None:
    camera = CameraHealth(1.0, 2.0, clock)
    nothing, some = SlotCounts(0, 0, 0, 0), SlotCounts(5, 5, 0, 0)

    def status(counts: SlotCounts) -> Status:
        return health.camera_status('perception: camera', '/image', 0, camera, lambda: counts)

    assert (status(nothing).level, status(nothing).message) == (OK, 'waiting for the first image')
    assert (status(some).level, status(some).message) == (OK, 'images arrive')
    clock.now_s += 1.5
    assert status(some).level == WARN
    assert 'no image for 1.5 s on /image (0 publishers)' in status(some).message
    assert 'no image yet' in status(nothing).message
    assert '`ros2 topic info -v /image`' in status(nothing).message


@pytest.mark.parametrize(
    ('state', 'fault', 'level'),
    [
        ('unconfigured', '', WARN),
        ('unconfigured', 'no model', ERROR),
        ('configuring', '', OK),
        ('inactive', '', WARN),
        ('inactive', '3 frames failed', ERROR),
        ('active', '', OK),
    ],
)
def test_engine_status_by_state(state: str, fault: str, level: bytes) -> None:
    engine = health.EngineHealth()
    engine.fault = fault
    status = engine.status('perception: engine', state, {'model': 'm'})
    assert status.level == level == engine.level(state)
    assert state in status.message
    assert fault in status.message
    assert status.values == {'state': state, 'model': 'm', 'failures_in_a_row': '0'}


def test_a_frame_that_never_ends_is_an_error_until_it_does(clock: HandClock) -> None:
    engine = health.EngineHealth(clock)
    engine.frame_started()
    clock.now_s += health.HUNG_S
    assert engine.level('active') == OK
    clock.now_s += 2
    assert engine.level('active') == ERROR
    assert 'in work for 7 s' in engine.status('e', 'active', {}).message
    engine.frame_ended()
    assert engine.level('active') == OK


def test_who_cannot_connect_is_a_warning_and_no_less_than_a_stall(clock: HandClock) -> None:
    camera = CameraHealth(1.0, 2.0, clock)
    camera.mismatches = ('driver offers /image as best_effort, volatile',)
    counts = SlotCounts(0, 0, 0, 0)
    status = health.camera_status('perception: camera', '/image', 1, camera, lambda: counts)
    assert status.level == WARN == health.camera_level(camera)
    assert status.message.endswith('; driver offers /image as best_effort, volatile')
    clock.now_s += 3
    assert health.camera_level(camera) == ERROR


def test_message_carries_every_status() -> None:
    statuses = [Status('a', OK, 'fine', {'k': 'v'}), Status('b', ERROR, 'bad')]
    message = health.diagnostics_message(statuses, '/perception', Time(sec=7))
    assert message.header.stamp.sec == 7
    assert [(s.name, s.level, s.message) for s in message.status] == [
        ('a', OK, 'fine'), ('b', ERROR, 'bad')
    ]  # fmt: skip
    assert [(v.key, v.value) for v in message.status[0].values] == [('k', 'v')]
    assert {s.hardware_id for s in message.status} == {'/perception'}


def test_the_counters_fit_together_at_every_moment() -> None:
    """Read while frames flow: each frame is in exactly one of the counters, or in work."""
    slots: NewestSlots[int] = NewestSlots(['camera'])
    camera = CameraHealth(1.0, 2.0)
    ending = (lambda: camera.frame_done({}, None), lambda: camera.frame_rejected('x'),
              camera.frame_failed, camera.frame_unwanted)  # fmt: skip

    def work() -> None:
        while (taken := slots.take()) is not None:
            ending[taken[1] % 4]()

    def feed() -> None:
        for number in range(20_000):
            slots.put('camera', number)
        slots.close()

    threads = [threading.Thread(target=run) for run in (work, feed)]
    for thread in threads:
        thread.start()
    sums = []
    while threads[1].is_alive():
        values = camera.values(partial(slots.counts, 'camera'))
        ended = ('processed', 'replaced', 'rejected', 'failed', 'unwanted', 'pending')
        sums.append(int(values['received']) - sum(int(values[name]) for name in ended))
    for thread in threads:
        thread.join()

    assert sums
    assert set(sums) == {0}


@pytest.mark.parametrize(
    ('good', 'rejected', 'level'), [(20, 0, OK), (20, 1, OK), (20, 10, WARN), (0, 3, WARN)]
)
def test_many_rejected_frames_are_a_warning_while_they_come(
    clock: HandClock, good: int, rejected: int, level: bytes
) -> None:
    camera = CameraHealth(10.0, 20.0, clock)
    for _ in range(good):
        camera.frame_done({}, None)
    for _ in range(rejected):
        camera.frame_rejected('step is 0')
    counts = SlotCounts(good + rejected, good + rejected, 0, 0)

    status = health.camera_status('perception: camera', '/image', 1, camera, lambda: counts)

    assert status.level == level
    if level == WARN:
        assert f'{rejected} of {good + rejected} images of the last 5 s' in status.message
        assert 'step is 0' in status.message
        clock.now_s += 6
        assert health.camera_level(camera) == OK
