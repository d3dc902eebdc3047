# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Several frames in one run of the engine: only where that is faster, each with its own answer."""

from __future__ import annotations

import time

import numpy as np
import pytest

from mtl_perception import engine_pool
from mtl_perception.bundle import Bundle
from mtl_perception.engine_pool import Batch, Variant, open_batch
from mtl_perception.engines import EngineError, Options, open_engine
from mtl_perception.engines.fake import FakeEngine, Step
from mtl_perception.frame import Frame
from mtl_perception.letterbox import Letterbox
from mtl_perception.pipeline import Inference, Pipeline


class Echo(FakeEngine):
    """The brightness of each picture comes back as its first weather probability."""

    def run(self, batch):
        outputs = super().run(batch)
        outputs['weather'][:, 0] = batch.mean(axis=(1, 2, 3)) / 255
        return outputs


@pytest.fixture(scope='module')
def bundle(tiny_bundle):
    return Bundle.open(tiny_bundle)


def frames():
    """Four of different sizes, brightness and channel order; padding is of no size of theirs."""
    sizes = [(64, 96), (128, 192), (32, 48), (640, 960)]
    return [
        Frame(np.full((*size, 3), 10 + 60 * i, np.uint8), ('rgb', 'bgr')[i % 2])
        for i, size in enumerate(sizes)
    ]


def variant(bundle, single, several, least=2):
    """Both engines behind pipelines; a batch is run from `least` frames on."""
    return Variant(Pipeline(bundle, single), batch=Batch(Pipeline(bundle, several), least))


def answers(model, pictures):
    return [outcome.decode() for outcome in model.infer(pictures)]


def test_each_frame_gets_its_own_answer_in_one_run(bundle):
    several = Echo(bundle, batch=4)
    single = Echo(bundle)
    model = variant(bundle, single, several)

    found = [result.probabilities['weather'][0] for result in answers(model, frames())]

    np.testing.assert_allclose(found, [(10 + 60 * i) / 255 for i in range(4)], atol=1e-6)
    assert (several.runs, single.runs) == (1, 0)


def test_a_real_engine_answers_a_batch_as_one_by_one(bundle):
    """Pictures with objects in other places, in two sizes."""
    rng = np.random.default_rng(5)
    cells = [rng.choice(np.array([0, 114, 255], np.uint8), (8, 8, 3)) for _ in range(3)]
    pictures = [
        Frame(cell.repeat(height // 8, axis=0).repeat(16, axis=1), 'bgr')
        for cell, height in zip(cells, (64, 128, 64), strict=True)
    ]
    single = open_engine(bundle, 'onnxruntime', build=True)
    several = open_engine(bundle, 'onnxruntime', Options(batch=4), build=True)
    model = variant(bundle, single, several)
    together = answers(model, pictures)
    alone = [model.single(picture) for picture in pictures]
    model.close()

    assert any(len(result.detections['detection']) for result in alone)
    for one, other in zip(together, alone, strict=True):
        for name, value in vars(other.detections['detection']).items():
            np.testing.assert_allclose(getattr(one.detections['detection'], name), value, atol=1e-5)
        np.testing.assert_array_equal(one.masks['semantic'], other.masks['semantic'])
        np.testing.assert_allclose(
            one.probabilities['weather'], other.probabilities['weather'], atol=1e-5
        )


@pytest.mark.parametrize('count', [1, 2, 5])
def test_fewer_than_pay_and_more_than_fit_are_run_one_by_one(bundle, count):
    several, single = Echo(bundle, batch=4), Echo(bundle)
    model = variant(bundle, single, several, least=3)

    assert len(answers(model, (frames() * 2)[:count])) == count
    assert (several.runs, single.runs) == (0, count)
    assert model.batch_range == (3, 4)


def test_a_batch_that_fails_loses_no_frame_and_is_given_up(bundle, caplog):
    several = Echo(bundle, [Step(error=EngineError('out of memory'))], batch=4)
    single = Echo(bundle)
    model = variant(bundle, single, several)

    for _ in range(2):
        assert len(answers(model, frames())) == 4

    assert (several.runs, several.closed, single.runs) == (1, True, 8)
    assert model.batch_range == (1, 1)
    assert caplog.text.count('a batch failed: out of memory') == 1


def test_one_frames_senseless_answer_leaves_the_others(bundle):
    class OneBad(Echo):
        def run(self, batch):
            outputs = super().run(batch)
            outputs['scores'][1] = np.nan
            return outputs

    outcomes = variant(bundle, Echo(bundle), OneBad(bundle, batch=4)).infer(frames())

    with pytest.raises(EngineError, match='NaN'):
        outcomes[1].decode()
    for row in (0, 2, 3):
        assert outcomes[row].decode().probabilities


def test_a_frame_that_cannot_be_letterboxed_costs_only_itself(bundle, monkeypatch):
    several = Echo(bundle, batch=4)
    model = variant(bundle, Echo(bundle), several)
    pictures = frames()
    plain = Letterbox.fit

    def fit(width, height, *sizes):
        if (height, width) == pictures[2].pixels.shape[:2]:
            raise MemoryError('no room')
        return plain(width, height, *sizes)

    monkeypatch.setattr(Letterbox, 'fit', fit)

    outcomes = model.infer(pictures)

    assert [type(outcome) for outcome in outcomes] == [Inference, Inference, MemoryError, Inference]
    assert model.batch_range == (2, 4)  # the engine is not to blame


def test_frames_go_straight_into_an_engines_own_buffer(bundle):
    """What is pinned for a GPU is filled in place, also by a batch."""
    seen = []

    class Pinned(Echo):
        def run(self, batch):
            seen.append(batch is self.input)
            return super().run(batch)

    single, several = Pinned(bundle), Pinned(bundle, batch=4)
    for engine in (single, several):
        engine.input = np.empty((engine.info.batch, 64, 96, 3), np.uint8)
    model = variant(bundle, single, several)

    model.single(frames()[1])
    answers(model, frames())

    assert seen == [True, True]
    assert several.input[3].mean() == pytest.approx(190)


@pytest.mark.parametrize(('batch_s', 'least'), [(0.008, 2), (0.026, 3), (0.034, 4), (0.060, None)])
def test_a_batch_is_taken_from_where_it_is_faster(bundle, monkeypatch, caplog, batch_s, least):
    """Single runs take 10 ms. On a clock that only engines move, since a machine may be busy."""
    now_s = [0.0]

    class Timed(FakeEngine):
        def run(self, batch):
            now_s[0] += 0.01 if len(batch) == 1 else batch_s
            return super().run(batch)

    monkeypatch.setattr(engine_pool.time, 'perf_counter', lambda: now_s[0])
    several = Timed(bundle, batch=4)
    monkeypatch.setattr(engine_pool, 'open_engine', lambda *_: several)
    caplog.set_level('INFO')

    found = open_batch(bundle, Timed(bundle), Options(batch=4), build=False)

    assert (found and found.least) == least
    assert several.closed == (least is None)
    logged = 'answered one by one' if least is None else f'from {least} waiting cameras on'
    assert logged in caplog.text


def test_the_measurement_is_kept_with_the_engine_until_that_is_built_again(bundle, monkeypatch):
    measured = []
    monkeypatch.setattr(engine_pool, 'measure', lambda *_: measured.append(0.5) or measured[-1])
    single = open_engine(bundle, 'onnxruntime', build=True)
    options = Options(batch=3, threads=1)
    for _ in range(2):
        found = open_batch(bundle, single, options, build=True)
        assert found is not None
        assert found.least == 2
    assert len(measured) == 1


def test_a_measurement_that_cannot_be_kept_is_used_all_the_same(bundle, monkeypatch, caplog):
    caplog.set_level('INFO')

    def refuse(*_):
        raise EngineError('read-only')

    monkeypatch.setattr(engine_pool, 'measure', lambda *_: 0.5)
    monkeypatch.setattr(engine_pool.cache, 'keep', refuse)
    single = open_engine(bundle, 'onnxruntime', build=True)

    assert open_batch(bundle, single, Options(batch=5, threads=1), build=True) is not None

    assert 'measured again next time: read-only' in caplog.text


def test_a_batch_that_is_not_built_is_left_out_with_the_command(bundle, caplog):
    caplog.set_level('INFO')
    single = open_engine(bundle, 'onnxruntime', build=True)

    assert open_batch(bundle, single, Options(batch=7), build=False) is None

    assert '7 cameras are answered one by one' in caplog.text
    assert '--engine onnxruntime --precision fp32 --batch 7' in caplog.text


def test_measuring_ends_in_time(bundle, monkeypatch):
    monkeypatch.setattr(engine_pool, 'MEASURE_S', 0.0)
    single, several = FakeEngine(bundle), FakeEngine(bundle, batch=2)
    started_s = time.monotonic()
    assert engine_pool.measure(bundle, single, several) > 0
    assert several.runs == 1 + engine_pool.MIN_PAIRS
    assert time.monotonic() - started_s < 5
