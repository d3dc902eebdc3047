# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The node takes the size that was chosen for a rate, and steps down and back under load."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='needs ROS 2 (make test installs the Jazzy wheels)')
pytest.importorskip('vision_msgs.msg', reason='needs vision_msgs (make test builds it)')

import live_node
import rclpy
from live_node import image
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from tiny_bundle import write_tiny_bundle

from mtl_perception import adaptive
from mtl_perception.bundle import Bundle
from mtl_perception.engines.fake import FakeEngine
from mtl_perception.node import parameter_table
from mtl_perception.node.parameters import ParameterError, Parameters
from mtl_perception.node.perception_node import FAILURE, SUCCESS, PerceptionNode
from mtl_perception.node.topics import Wanted
from mtl_perception.rate_choice import Choice, Measured, save, this_machine

pytestmark = pytest.mark.ros

SIZES = [(256, 384), (192, 320), (128, 192)]
RATE_HZ = 4.0
LATENCY_S = {256: 0.02, 192: 0.01, 128: 0.005}
"""By input height, of an engine without other load."""


class Bench:
    """A node on fake engines of three sizes, whose latency `load` multiplies."""

    def __init__(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, **settings: object) -> None:
        self.load = 1.0
        plain = FakeEngine.run

        def run(engine: FakeEngine, batch):
            time.sleep(LATENCY_S[batch.shape[1]] * self.load)
            return plain(engine, batch)

        monkeypatch.setattr(FakeEngine, 'run', run)
        self.node = PerceptionNode()
        values = {'model': str(bundle.path), 'target_rate_hz': RATE_HZ, **settings}
        self.node.set_parameters([Parameter(name, value=value) for name, value in values.items()])
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.published: list[tuple[int, int]] = []
        self._patch = monkeypatch
        self._number = 0

    def activate(self) -> None:
        """Configure and activate; the size of each published mask is recorded."""
        assert self.node.trigger_configure() == SUCCESS
        for camera in self.node._cameras:
            wanted = Wanted(frozenset({'detection', 'drivable'}))
            self._patch.setattr(camera.topics, 'wanted', lambda wanted=wanted: wanted)
            self._patch.setattr(
                camera.topics,
                'publish',
                lambda _, frame, result, *__: self.published.append(
                    (*result.masks['drivable'].shape, *frame.pixels.shape[:2])
                ),
            )
        assert self.node.trigger_activate() == SUCCESS

    def feed_until(self, condition: Callable[[], bool], what: str) -> None:
        """Frames as fast as they are answered, until the condition holds."""
        deadline = time.monotonic() + 120
        worker = self.node._worker
        assert worker is not None
        while not condition():
            assert time.monotonic() < deadline, f'no {what}: {self.values()}'
            self._number += 1
            worker.put(self.node._cameras[0], image(self._number))
            self.executor.spin_once(timeout_sec=0.005)

    def values(self) -> dict[str, str]:
        """Diagnostic values of the engine."""
        return dict(self.node._statuses()[0].values)

    def is_at(self, size: str) -> bool:
        return self.values()['input'] == size


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Bench]]:
    for name, value in live_node.private_ros_environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(adaptive, 'WINDOW_S', 2.0)
    monkeypatch.setattr(adaptive, 'OVER_S', 2.5)
    monkeypatch.setattr(adaptive, 'BACK_S', 1.5)
    rclpy.init(args=[])
    bundle = Bundle.open(write_tiny_bundle(tmp_path / 'any', *SIZES[0], any_size=True))
    steps = tuple(
        Measured(*size, 'fake', 'fp32', 'auto', 0, 1e3 * LATENCY_S[size[0]],
                 1e3 * LATENCY_S[size[0]], 50.0)
        for size in SIZES
    )  # fmt: skip
    benches: list[Bench] = []

    def build(kept: int = 3, **settings: object) -> Bench:
        save(bundle, Choice(bundle.hash, RATE_HZ, 0.25, (1280, 720), this_machine(), steps[:kept]))
        benches.append(Bench(bundle, monkeypatch, **settings))
        return benches[-1]

    yield build
    for bench in benches:
        bench.node.stop()
        bench.node.destroy_node()
    rclpy.shutdown()


def test_under_load_it_steps_down_and_back_when_the_load_is_gone(start) -> None:
    """The load is the engine's, so that a busy machine can only step down sooner."""
    bench = start(adaptive_size=True)
    bench.activate()
    bench.load = 30.0  # 600, 300 and 150 ms of a period of 250
    bench.feed_until(lambda: bench.is_at('128x192'), 'smallest size')
    assert bench.values()['input_step'] == '2'
    bench.load = 0.0
    bench.feed_until(lambda: bench.is_at('256x384'), 'way back')
    assert set(bench.published) == {(120, 160, 120, 160)}  # source pixels throughout
    camera = bench.node._cameras[0].health
    assert camera.failed == camera.rejected == 0


def test_off_by_default_it_stays_at_the_chosen_size(start) -> None:
    bench = start()
    bench.activate()
    bench.load = 30.0
    deadline = time.monotonic() + 4
    bench.feed_until(lambda: time.monotonic() > deadline, '')
    assert bench.is_at('256x384')
    assert bench.values()['target_rate_hz'] == '4'


def test_without_a_choice_configuring_fails_with_the_command(start) -> None:
    bench = start(target_rate_hz=30.0)
    assert bench.node.trigger_configure() == FAILURE
    message = bench.node._statuses()[0].message
    assert 'no input size was chosen for 30 Hz' in message
    assert '--rate 30' in message


@pytest.mark.parametrize(
    ('settings', 'expected'),
    [
        ({'adaptive_size': True}, 'adaptive_size needs a target_rate_hz above 0'),
        ({'target_rate_hz': 10.0, 'precision': 'int8'}, 'precision must be auto'),
        ({'target_rate_hz': 10.0, 'engine': 'fake', 'device': 'cpu'}, 'engine and device must be'),
        ({'target_rate_hz': -1.0}, 'target_rate_hz must be 0 to 1000'),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, expected: str) -> None:
    with pytest.raises(ParameterError, match=expected):
        Parameters.of(settings)
    assert 'target_rate_hz' in parameter_table.as_yaml()
