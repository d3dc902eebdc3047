# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The node inside this process, with a scripted engine: faults, and what is tuned around ROS."""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='needs ROS 2 (make test installs the Jazzy wheels)')
pytest.importorskip('vision_msgs.msg', reason='needs vision_msgs (make test builds it)')

import live_node
import numpy as np
import rclpy
from live_node import image
from numpy.typing import NDArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter

from mtl_perception import process, shared_memory
from mtl_perception.bundle import Bundle
from mtl_perception.engine_pool import Batch, EnginePool, Variant
from mtl_perception.engines.base import EngineError
from mtl_perception.engines.fake import FakeEngine, Step
from mtl_perception.node import health
from mtl_perception.node import perception_node as node_module
from mtl_perception.node import worker as worker_module
from mtl_perception.node.perception_node import SUCCESS, PerceptionNode
from mtl_perception.node.topics import Wanted
from mtl_perception.pipeline import Pipeline

pytestmark = pytest.mark.ros

Start = Callable[..., 'Bench']
EVERYTHING = Wanted(frozenset({'detection', 'drivable'}))


class Rows(FakeEngine):
    """Zeros as well, but for the rows of a batch that are `invalid`."""

    invalid: tuple[int, ...] = ()

    def run(self, batch: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        outputs = super().run(batch)
        outputs['scores'][list(self.invalid)] = np.nan
        return outputs


class Bench:
    """A node on a scripted engine, fed without DDS: the callback is called by hand."""

    def __init__(
        self, script: list[Step], bundle: Bundle, monkeypatch: pytest.MonkeyPatch, cameras: str
    ) -> None:
        self.engine = FakeEngine(bundle, script)
        self.batched = Rows(bundle, batch=max(1, len(cameras)))
        self.batch = Batch(Pipeline(bundle, self.batched), 2) if len(cameras) > 1 else None
        self._patch = monkeypatch
        self.variant = Variant(Pipeline(bundle, self.engine), batch=self.batch)
        monkeypatch.setattr(
            node_module.EnginePool,
            'open',
            lambda *_, **__: EnginePool(self.variant, lambda *_: self.variant),
        )
        self.node = PerceptionNode()
        self.node.set_parameters([Parameter('cameras', value=list(cameras) or [''])])
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.published: list[object] = []

    def activate(self) -> None:
        """Configure and activate; what would be published is recorded, as if all were wanted."""
        assert self.node.trigger_configure() == SUCCESS
        for camera in self.node._cameras:
            self._patch.setattr(camera.topics, 'wanted', lambda: EVERYTHING)
            self._patch.setattr(
                camera.topics, 'publish', lambda header, *_: self.published.append(header)
            )
        assert self.node.trigger_activate() == SUCCESS

    def put(self, number: int, camera: str = '', **fields: object) -> None:
        """One frame, as the subscription would hand it over."""
        worker = self.node._worker
        assert worker is not None
        message = image(number)
        for name, value in fields.items():
            setattr(message, name, value)
        worker.put(worker.cameras[camera], message)

    def feed(self, number: int) -> None:
        """One frame, and the time to handle it."""
        seen = self.engine.runs
        self.put(number)
        self.until(lambda: self.engine.runs > seen, 'run of the engine')

    def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 5
        while not condition():
            assert time.monotonic() < deadline, f'no {what}'
            self.executor.spin_once(timeout_sec=0.01)

    def camera(self) -> dict[str, str]:
        """The camera's diagnostic values."""
        return dict(self.node._statuses()[1].values)


@pytest.fixture
def start(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Start]:
    for name, value in live_node.private_ros_environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    rclpy.init(args=[])
    benches: list[Bench] = []

    def build(*script: Step, cameras: str = '') -> Bench:
        benches.append(Bench(list(script), Bundle.open(tiny_bundle), monkeypatch, cameras))
        return benches[-1]

    yield build
    for bench in benches:
        bench.node.stop()
        bench.node.destroy_node()
    rclpy.shutdown()


OUT_OF_MEMORY = Step(error=EngineError('engine fake: out of memory'))


def test_one_failure_skips_the_frame(start: Start) -> None:
    bench = start(Step(), OUT_OF_MEMORY, Step())
    bench.activate()
    for number in range(3):
        bench.feed(number)
    bench.until(lambda: len(bench.published) == 2, 'the two good frames')
    assert bench.published == [image(0).header, image(2).header]
    assert bench.camera()['failed'] == '1'
    assert bench.node.state == 'active'


def test_three_failures_in_a_row_end_in_inactive_and_error(start: Start) -> None:
    bench = start(*[OUT_OF_MEMORY] * 3, Step())
    bench.activate()
    for number in range(3):
        bench.feed(number)
    bench.until(lambda: bench.node.state == 'inactive', 'deactivation')
    status = bench.node._statuses()[0]
    assert status.level == b'\x02'
    assert 'out of memory' in status.message
    assert bench.node.trigger_activate() == SUCCESS
    assert bench.node._statuses()[0].level == b'\x00'
    bench.feed(3)
    bench.until(lambda: len(bench.published) == 1, 'a frame after the second start')


def test_an_engine_that_fails_on_an_empty_picture_too_asks_for_a_new_process(
    start: Start,
) -> None:
    bench = start(OUT_OF_MEMORY)
    bench.activate()
    for number in range(3):
        bench.feed(number)
    bench.until(lambda: bench.node.lost, 'request for a new process')
    assert bench.engine.runs == 4
    assert not bench.published


def test_a_frame_that_hangs_in_the_engine_is_an_error_while_it_does(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, 'HUNG_S', 0.1)
    bench = start(Step(latency_s=0.5), Step())
    bench.activate()
    bench.feed(0)
    bench.until(lambda: bench.node._levels[0] == health.ERROR, 'error')
    assert 'in work for' in bench.node._statuses()[0].message
    bench.until(lambda: bench.node._levels[0] == health.OK, 'end of the error')


def test_an_engine_that_is_given_up_harms_no_later_configuration(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_module, 'WORKER_EXIT_S', 0.2)
    bench = start(Step(latency_s=1.0), Step())
    bench.activate()
    bench.put(0)
    bench.until(lambda: bench.engine.runs == 1, 'run')
    lost = bench.node._worker
    assert lost is not None
    started_s = time.monotonic()

    bench.node.trigger_deactivate()

    assert time.monotonic() - started_s < 0.4  # waited once, not again for the release
    assert bench.node.state == 'unconfigured'
    bench.activate()
    bench.until(lambda: not lost.is_running, 'end of the lost run')
    assert not bench.published and not bench.node._engine.fault
    bench.put(1)
    bench.until(lambda: len(bench.published) == 1, 'answer after the lost engine')


@pytest.mark.parametrize('error', [RuntimeError('boom'), MemoryError(), ValueError('shape')])
def test_whatever_an_engine_throws_the_worker_survives(start: Start, error: Exception) -> None:
    bench = start(Step(error=error), Step())
    bench.activate()
    bench.feed(0)
    bench.feed(1)
    bench.until(lambda: len(bench.published) == 1, 'the good frame')
    assert bench.camera()['failed'] == '1'


def test_cameras_that_wait_share_a_batch_and_none_harms_another(start: Start) -> None:
    """One broken image and one invalid answer among four: the other two are published."""
    bench = start(Step(latency_s=0.3), Step(), cameras='abcd')
    bench.batched.invalid = (1,)
    bench.activate()
    bench.put(0, 'a')
    bench.until(lambda: bench.engine.runs == 1, 'the first frame in work')
    for number, camera in enumerate('bcda', 1):
        bench.put(number, camera, **({'step': 0} if camera == 'c' else {}))
    bench.until(lambda: len(bench.published) == 3, 'three answers')
    assert bench.published == [image(n).header for n in (0, 1, 4)]
    assert (bench.engine.runs, bench.batched.runs) == (1, 1)
    counts = {camera.name: camera.health for camera in bench.node._cameras}
    assert [counts[name].processed for name in 'abcd'] == [2, 1, 0, 0]
    assert (counts['c'].rejected, counts['d'].failed) == (1, 1)
    assert bench.node._statuses()[0].values['batch'] == '4, from 2 waiting cameras on'


HOPS = ['wanted', 'decode_image', 'choose', 'letterbox', 'engine', 'decode', 'publish', 'health']
"""Where a frame can be lost between `take` and the end of `publish`."""


def break_once(
    bench: Bench, pipeline: Pipeline, hop: str, monkeypatch: pytest.MonkeyPatch
) -> threading.Event:
    """Make a hop of the first camera's next frame raise, or of `pipeline`'s; set when it did."""
    assert bench.node._worker is not None
    camera = bench.node._cameras[0]
    owner, name = {
        'wanted': (camera.topics, 'wanted'),
        'decode_image': (worker_module, 'decode_image'),
        'choose': (bench.node._worker.pool, '_choose'),
        'letterbox': (pipeline, '_letterbox'),
        'engine': (pipeline.engine, 'run'),
        'decode': (pipeline, 'requested'),
        'publish': (camera.topics, 'publish'),
        'health': (camera.health, 'frame_done'),
    }[hop]
    plain, broken = getattr(owner, name), threading.Event()

    def raising(*arguments: object) -> object:
        if not broken.is_set() and threading.current_thread().name == 'perception':
            broken.set()
            raise ValueError(f'broken {hop}')
        return plain(*arguments)

    monkeypatch.setattr(owner, name, raising)
    return broken


@pytest.mark.parametrize('hop', HOPS)
def test_whatever_raises_between_take_and_publish_costs_one_frame(
    start: Start, monkeypatch: pytest.MonkeyPatch, hop: str
) -> None:
    bench = start(Step())
    bench.activate()
    broken = break_once(bench, bench.variant.single, hop, monkeypatch)
    bench.put(0)
    bench.until(lambda: bench.camera()['failed'] == '1', f'failure; broken: {broken.is_set()}')
    bench.put(1)
    bench.until(lambda: bench.camera()['processed'] == '1', 'the next frame')
    assert bench.published[-1] == image(1).header
    assert bench.node._engine.failures == 0
    assert bench.node.state == 'active'


@pytest.mark.parametrize('hop', HOPS)
def test_whatever_raises_in_a_batch_costs_only_its_frames(
    start: Start, monkeypatch: pytest.MonkeyPatch, hop: str
) -> None:
    """Four cameras wait; a broken choice of the engine is of no frame in particular, so of all."""
    bench = start(Step(latency_s=0.3), Step(), cameras='abcd')
    bench.activate()
    bench.put(0, 'b')
    bench.until(lambda: bench.engine.runs == 1, 'the first frame in work')
    assert bench.batch is not None
    broken = break_once(bench, bench.batch.pipeline, hop, monkeypatch)
    for number, camera in enumerate('abcd', 1):
        bench.put(number, camera)
    health = {camera.name: camera.health for camera in bench.node._cameras}
    bench.until(
        lambda: sum(each.processed + each.failed for each in health.values()) == 5, 'five outcomes'
    )
    assert broken.is_set()
    failed = sum(each.failed for each in health.values())
    assert failed == {'choose': 4, 'engine': 0}.get(hop, 1)
    bench.put(5, 'a')
    bench.until(lambda: bench.published[-1:] == [image(5).header], 'the next frame')
    assert bench.node.state == 'active'


def test_a_worker_that_ends_all_the_same_says_so(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = start(Step())
    bench.activate()
    worker = bench.node._worker
    assert worker is not None
    monkeypatch.setattr(worker, '_take', lambda: 1 / 0)
    bench.put(0)  # the thread waits in the real one
    bench.until(lambda: bench.node.state == 'inactive', 'deactivation')
    status = bench.node._statuses()[0]
    assert status.level == health.ERROR
    assert 'the worker ended: ZeroDivisionError' in status.message


def test_burst_on_a_slow_engine_is_answered_with_the_newest(start: Start) -> None:
    """Ten frames while one is in work: the last one is next, eight are counted as replaced."""
    bench = start(Step(latency_s=0.3), Step())
    bench.activate()
    bench.feed(0)
    for number in range(1, 10):
        bench.put(number)
    bench.until(lambda: len(bench.published) == 2, 'two frames')
    assert bench.published == [image(0).header, image(9).header]
    assert bench.camera()['replaced'] == '8'


def test_lifecycle_cycles_leave_nothing_behind(start: Start) -> None:
    """Publishers, subscriptions and the worker thread are as many after as before."""
    bench = start(Step())
    node = bench.node
    before = (len(list(node.publishers)), len(list(node.subscriptions)))
    for _ in range(3):
        bench.activate()
        bench.feed(0)
        worker = node._worker
        assert node.trigger_deactivate() == SUCCESS
        assert worker is not None
        assert not worker.is_running
        assert node.trigger_cleanup() == SUCCESS
        bench.engine.closed = False
    assert (len(list(node.publishers)), len(list(node.subscriptions))) == before


def test_unexpected_error_in_configure_leaves_the_node_alive(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = start(Step())

    def fail(*_: object, **__: object) -> Pipeline:
        raise OSError('disk on fire')

    monkeypatch.setattr(node_module.EnginePool, 'open', fail)
    assert bench.node.trigger_configure() != SUCCESS
    assert bench.node.state == 'unconfigured'
    assert 'disk on fire' in bench.node._statuses()[0].message


def test_diagnostics_have_one_status_for_the_engine_and_one_a_camera(start: Start) -> None:
    bench = start(Step())
    bench.activate()
    names = [status.name for status in bench.node._statuses()]
    assert names == ['perception: engine', 'perception: camera']
    assert 'waiting' in bench.node._statuses()[1].message


def test_profile_is_ours_unless_the_user_named_one(tmp_path: Path) -> None:
    folder = tmp_path / 'share' / 'mtl_perception' / 'config'
    folder.mkdir(parents=True)
    for name in shared_memory.PROFILES:
        (folder / name).write_text('<dds/>')
    named = {'FASTRTPS_DEFAULT_PROFILES_FILE': '/mine.xml', 'AMENT_PREFIX_PATH': str(tmp_path)}
    assert shared_memory.use_profile(named) is None
    assert named['FASTRTPS_DEFAULT_PROFILES_FILE'] == '/mine.xml'
    environment = {'AMENT_PREFIX_PATH': str(tmp_path)}
    found = shared_memory.use_profile(environment)
    assert found is not None
    assert environment['FASTRTPS_DEFAULT_PROFILES_FILE'] == str(found)


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='mallopt is glibc only')
def test_allocator_takes_the_settings() -> None:
    assert process.tune_allocator() is True
