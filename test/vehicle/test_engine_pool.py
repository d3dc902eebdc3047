# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Only the subscribed heads are computed, and no frame waits for the change."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import write_tiny_bundle

from mtl_perception.bundle import Bundle
from mtl_perception.decode import Thresholds
from mtl_perception.engine_pool import SETTLED_S, EnginePool, Variant
from mtl_perception.engines.base import EngineError
from mtl_perception.engines.fake import FakeEngine, Step
from mtl_perception.frame import Frame
from mtl_perception.pipeline import Inference, Pipeline

FRAME = Frame(np.zeros((64, 96, 3), np.uint8))


SIZES = [(256, 384), (192, 320), (128, 192)]


class HandClock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Door:
    """Opens fake engines for subsets, when it may."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.may_open = threading.Event()
        self.may_open.set()
        self.opened: list[Pipeline] = []
        self.script: list[Step] = []
        self.clock = HandClock()
        self.full = Pipeline(bundle, FakeEngine(bundle))
        self.pool = EnginePool(Variant(self.full), self.open, clock=self.clock)

    def open(self, size: int, tasks: Collection[str] | None) -> Variant:
        assert self.may_open.wait(5)
        bundle = self.bundle.at_size(*SIZES[size]) if size else self.bundle
        outputs = [
            spec.name for spec in bundle.manifest.outputs if tasks is None or spec.task in tasks
        ]
        self.opened.append(Pipeline(bundle, FakeEngine(bundle, self.script, 1, outputs)))
        return Variant(self.opened[-1], tasks)

    def pipeline(self, tasks: Collection[str] | None) -> Pipeline:
        """What a frame of which these tasks are requested is run by."""
        [outcome] = self.pool.infer([FRAME], tasks)
        assert isinstance(outcome, Inference)
        return outcome.pipeline

    def settle(self, tasks: set[str] | None) -> None:
        """The same tasks are requested for long enough; returns when nothing is being opened."""
        self.pool.request(tasks)
        self.clock.now_s += SETTLED_S
        self.pool.request(tasks)
        self.wait()

    def wait(self) -> None:
        deadline = time.monotonic() + 5
        while self.pool.is_opening:
            assert time.monotonic() < deadline
            time.sleep(0.001)


@pytest.fixture
def door(tiny_bundle: Path) -> Iterator[Door]:
    made = Door(Bundle.open(tiny_bundle))
    yield made
    made.may_open.set()
    made.pool.close()


def test_a_subset_takes_over_once_it_was_wanted_for_a_while(door: Door) -> None:
    wanted = {'detection', 'weather'}
    door.pool.request(wanted)
    door.clock.now_s += SETTLED_S / 2
    door.pool.request(wanted)
    assert door.opened == []
    door.settle(wanted)

    pipeline = door.pipeline(wanted)

    assert pipeline.info.outputs == ('boxes', 'scores', 'labels', 'weather')
    assert pipeline(FRAME, wanted).probabilities.keys() == {'weather'}
    assert door.pool.subset == wanted


def test_frames_go_on_while_the_subset_is_being_opened(door: Door) -> None:
    door.may_open.clear()
    door.pool.request({'detection'})
    door.clock.now_s += SETTLED_S
    door.pool.request({'detection'})
    assert door.pool.is_opening
    assert door.pipeline({'detection'}) is door.full
    assert 'detection' in door.full(FRAME, {'detection'}).detections
    door.may_open.set()
    door.wait()
    assert door.pipeline({'detection'}) is door.opened[0]


@pytest.mark.parametrize('more', [None, {'detection', 'drivable'}])
def test_more_subscribers_get_the_full_engine_with_the_next_frame(
    door: Door, more: set[str] | None
) -> None:
    door.settle({'detection'})
    assert door.pipeline(more) is door.full
    assert door.pipeline({'detection'}) is door.opened[0]


def test_flapping_subscribers_open_nothing(door: Door) -> None:
    for turn in range(10):
        door.pool.request({'detection'} if turn % 2 else {'drivable'})
        door.clock.now_s += SETTLED_S * 0.9
    assert door.opened == []


ALL = {'detection', 'drivable', 'semantic', 'weather', 'timeofday'}


@pytest.mark.parametrize('tasks', [None, set(), ALL], ids=['all', 'nothing', 'each'])
def test_all_or_nothing_needs_no_subset(door: Door, tasks: set[str] | None) -> None:
    door.settle(tasks)
    assert door.opened == []


def test_the_subset_before_is_closed_by_the_next_frame(door: Door) -> None:
    door.settle({'detection'})
    in_work = door.pipeline({'detection'})
    door.settle({'drivable'})
    assert not in_work.engine.closed  # a frame may be in it
    assert door.pipeline({'drivable'}) is door.opened[1]
    assert in_work.engine.closed


def test_what_cannot_be_opened_or_run_is_said_once_and_not_tried_again(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    door.script = [Step(error=EngineError('out of memory'))]
    caplog.set_level('INFO')
    for _ in range(3):
        door.settle({'detection'})
    assert len(door.opened) == 1
    assert door.opened[0].engine.closed
    assert caplog.text.count('all heads are computed, since: out of memory') == 1
    assert door.pipeline({'detection'}) is door.full


def test_thresholds_reach_every_variant(door: Door) -> None:
    door.settle({'detection'})
    door.pool.thresholds = Thresholds(score=0.9)
    door.settle({'drivable'})
    assert door.full.thresholds.score == 0.9
    assert [pipeline.thresholds.score for pipeline in door.opened] == [0.9, 0.9]


def test_close_frees_every_engine_also_one_that_comes_late(door: Door) -> None:
    door.settle({'detection'})
    door.may_open.clear()
    door.pool.request({'drivable'})
    door.clock.now_s += SETTLED_S
    door.pool.request({'drivable'})
    threading.Timer(0.05, door.may_open.set).start()
    door.pool.close()
    door.wait()
    assert len(door.opened) == 2
    assert all(p.engine.closed for p in (door.full, *door.opened))


@pytest.fixture
def sizes(tmp_path: Path) -> Iterator[Door]:
    """A model whose graph takes any size."""
    made = Door(Bundle.open(write_tiny_bundle(tmp_path, *SIZES[0], any_size=True)))
    yield made
    made.may_open.set()
    made.pool.close()


def resize(door: Door, size: int) -> None:
    door.pool.resize(size)
    door.wait()


def test_another_size_takes_over_between_two_frames(sizes: Door) -> None:
    sizes.may_open.clear()
    sizes.pool.resize(1)
    assert sizes.pipeline(None) is sizes.full
    sizes.may_open.set()
    sizes.wait()
    assert sizes.pool.size == 1
    assert not sizes.full.engine.closed  # a frame may be in it
    smaller = sizes.pipeline(None)
    assert smaller.bundle.manifest.input.height == 192
    assert sizes.full.engine.closed
    result = smaller(Frame(np.zeros((300, 500, 3), np.uint8)))
    assert result.masks['semantic'].shape == (300, 500)  # source pixels, whatever the input
    assert sizes.pool.full is smaller


def test_the_subset_goes_with_its_size_and_comes_back_with_the_next(sizes: Door) -> None:
    sizes.settle({'detection'})
    assert sizes.pipeline({'detection'}) is sizes.opened[0]
    resize(sizes, 2)
    assert sizes.pipeline({'detection'}) is sizes.opened[1]
    assert sizes.opened[0].engine.closed
    sizes.settle({'detection'})
    assert sizes.pipeline({'detection'}).bundle.manifest.input.height == 128


def test_a_size_that_cannot_be_opened_leaves_the_present_one(
    sizes: Door, caplog: pytest.LogCaptureFixture
) -> None:
    sizes.script = [Step(error=EngineError('out of memory'))]
    for _ in range(3):
        resize(sizes, 1)
    assert (sizes.pool.size, len(sizes.opened)) == (0, 1)
    assert caplog.text.count('the input size stays as it is, since: out of memory') == 1
    assert sizes.pipeline(None) is sizes.full
