# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Runs on disk: what goes in comes out bit by bit, whatever interrupts the writing."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mtl_evaluation.kinds import of
from mtl_evaluation.metrics import average_precision
from mtl_evaluation.metrics.detection import DetectionMetric
from mtl_evaluation.metrics.temporal import BOX_COUNTS, MASK_COUNTS, Stability
from mtl_evaluation.runs.part import pack, unpack
from mtl_evaluation.runs.run import (
    FrameRecord,
    Run,
    RunError,
    frame_key,
    merged,
    part_file,
)
from mtl_evaluation.runs.writer import RunWriter
from mtl_perception.camera_model import CameraModel
from mtl_perception.frame import Detections
from mtl_perception.tasks import DETECTION, SEMANTIC, TIME_OF_DAY

TASKS = (DETECTION, SEMANTIC, TIME_OF_DAY)
CAMERA_MODEL = CameraModel(
    96, 64, 500.1, 500.2, 320.3, 240.4, 'plumb_bob', (-0.2, 0.04, 1e-3, -2e-3, 0.1)
)


def a_record(bag: str, index: int, camera: str = '/camera/image_raw') -> FrameRecord:
    """A frame of random answers, the same for the same bag and index."""
    rng = np.random.default_rng([len(bag), index])
    detection, semantic, time = (of(task).metric(task) for task in TASKS)
    corner = rng.uniform(0, 60, (5, 2))
    truth = np.concatenate([corner, corner + rng.uniform(5, 30, (5, 2))], 1)
    labels = rng.integers(0, 3, 5)
    found = Detections(
        (truth + rng.normal(0, 2, truth.shape)).astype(np.float32),
        rng.random(5).astype(np.float32), labels,
    )  # fmt: skip
    # Truth that does not fit into float32 has to come back all the same.
    detection.update(
        frame_key(bag, camera, index), found, truth, labels, rng.random(5) < 0.2,
        width=96, height=64,
    )  # fmt: skip
    semantic.update(*rng.integers(0, 19, (2, 8, 8)).astype(np.uint8))
    time.update(index % 3, int(rng.integers(0, 3)))
    return FrameRecord(
        bag, camera, index, 1_700_000_000_000_000_000 + index, f'{index}.png', (96, 64),
        f'{index:064x}', {'weather': 'rainy' if index % 2 else 'clear'},
        {'engine': 0.1 + index / 3, 'decode': 1e-9},
        {'detection': detection, 'semantic': semantic, 'timeofday': time},
        Stability({'semantic': np.arange(len(MASK_COUNTS))}, {'detection': np.arange(4)}),
        CAMERA_MODEL if index % 2 else 'no CameraInfo',
    )  # fmt: skip


def assert_same(one: FrameRecord, other: FrameRecord) -> None:
    for name in ('key', 'stamp_ns', 'name', 'size', 'digest', 'camera_model'):
        assert getattr(one, name) == getattr(other, name), name
    assert dict(one.slices) == dict(other.slices)
    assert dict(one.timings_ms) == dict(other.timings_ms)
    assert one.pieces.keys() == other.pieces.keys()
    pairs = [(piece, other.pieces[name]) for name, piece in one.pieces.items()]
    for ours, theirs in [*pairs, (one.stability, other.stability)]:
        mine, yours = ours.to_arrays(), theirs.to_arrays()
        assert mine.keys() == yours.keys()
        for name, array in mine.items():
            assert array.dtype == yours[name].dtype and array.tobytes() == yours[name].tobytes()


def write(path: Path, records, tasks=TASKS, **options) -> Run:
    with RunWriter(path, tasks, **options) as writer:
        for record in records:
            writer.add(record)
        return writer.finish({'command': 'test'})


def test_records_come_back_bit_by_bit_and_in_order(tmp_path):
    records = [a_record(bag, index) for bag in ('b', 'a/1 ä') for index in range(4)]

    run = write(tmp_path / 'run', records, bags=[{'name': 'b'}, {'name': 'a/1 ä'}])

    assert run.bags == ['b', 'a/1 ä']
    assert run.tasks == TASKS
    for one, other in zip(records, run.records(), strict=True):
        assert_same(one, other)


def test_figures_are_those_of_one_pass(tmp_path):
    records = [a_record(bag, index) for bag in ('x', 'yy') for index in range(6)]
    run = write(tmp_path / 'run', records)

    whole = merged(records, TASKS)
    rainy = merged([record for record in records if record.index % 2], TASKS)

    for task in TASKS:
        expected = {'kind': task.kind, **whole[task.name].result()}
        assert run.summary['accuracy'][task.name] == expected
        expected = {'kind': task.kind, **rainy[task.name].result()}
        assert run.summary['slices']['weather=rainy'][task.name] == expected
        of_bag = merged(records[:6], TASKS)[task.name].result()
        assert run.summary['bags'][0]['accuracy'][task.name] == {'kind': task.kind, **of_bag}
    assert run.summary['complete'] and run.summary['partial_reason'] is None
    assert run.summary['frames'] == {'processed': 12, 'labelled': 12}
    assert run.summary['temporal']['detection']['linked'] == 0
    assert json.loads((run.path / 'run.json').read_text()) == run.summary


def test_images_without_camera_and_stability_are_records_too(tmp_path):
    record = FrameRecord('set', '', 0, 0, 'a.jpg', (9, 9), 'ab' * 32)

    run = write(tmp_path / 'run', [record])

    (found,) = run.records()
    assert (found.stability, dict(found.pieces)) == (None, {})
    assert found.camera_model == 'no CameraInfo'
    assert run.summary['accuracy']['semantic']['miou'] is None


def test_a_run_that_was_left_says_that_it_is_partial(tmp_path):
    with pytest.raises(KeyError), RunWriter(tmp_path / 'run', TASKS) as writer:
        writer.add(a_record('a', 0))
        raise KeyError

    run = Run.open(tmp_path / 'run')

    assert run.summary['complete'] is False
    assert 'has not finished' in run.summary['partial_reason']
    assert len(list(run.records())) == 1


def test_writing_goes_on_where_it_stopped(tmp_path):
    with RunWriter(tmp_path / 'run', TASKS, {'model': 'm'}) as writer:
        writer.add(a_record('a', 0))

    with RunWriter(tmp_path / 'run', TASKS, {'model': 'm'}) as writer:
        assert len(writer.part('a')) == 1
        with pytest.raises(RunError, match='added twice'):
            writer.add(a_record('a', 0))
        writer.add(a_record('a', 1))
        run = writer.finish({})

    assert [record.index for record in run.records()] == [0, 1]


def test_another_model_another_table_or_fewer_bags_are_another_run(tmp_path):
    write(tmp_path / 'run', [a_record('a', 0)], identity={'model': {'hash': 'm'}},
          bags=[{'name': 'a'}])  # fmt: skip

    with pytest.raises(RunError, match=r"another run: its model.hash is 'm', now it is 'n'"):
        RunWriter(tmp_path / 'run', TASKS, {'model': {'hash': 'n'}})
    with pytest.raises(RunError, match='another run'):
        RunWriter(tmp_path / 'run', (DETECTION,), {'model': {'hash': 'm'}})
    with pytest.raises(RunError, match="also holds 'a'"):
        RunWriter(tmp_path / 'run', TASKS, {'model': {'hash': 'm'}}, [{'name': 'b'}])
    with RunWriter(tmp_path / 'run', (DETECTION,), fresh=True) as writer:
        assert writer.finish({}).bags == []


def test_one_writer_at_a_time(tmp_path):
    with (
        RunWriter(tmp_path / 'run', TASKS),
        pytest.raises(RunError, match='another process writes'),
    ):
        RunWriter(tmp_path / 'run', TASKS)
    with RunWriter(tmp_path / 'run', TASKS):
        pass


def test_a_kill_leaves_what_was_committed(tmp_path):
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_run import *
from mtl_evaluation.runs import part
part.COMMIT_S = -1
writer = RunWriter({str(tmp_path / 'run')!r}, TASKS)
for index in range(5):
    writer.add(a_record('a', index))
part.COMMIT_S = 100
writer.add(a_record('a', 5))
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, '-c', code], timeout=60)

    run = Run.open(tmp_path / 'run')

    assert done.returncode == -9
    assert not run.summary['complete']
    assert [record.index for record in run.records()] == [0, 1, 2, 3, 4]
    with RunWriter(tmp_path / 'run', TASKS) as writer:
        assert len(writer.part('a')) == 5


def test_a_full_disk_is_one_sentence_and_keeps_what_was_there(tmp_path):
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_run import *
from mtl_evaluation.runs import part
part.COMMIT_S = -1
with RunWriter({str(tmp_path / 'run')!r}, TASKS) as writer:
    for index in range(200):
        writer.add(a_record('a', index))
"""
    done = subprocess.run(
        [sys.executable, '-c', code], preexec_fn=small_files, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip

    kept = list(Run.open(tmp_path / 'run').records())

    assert 'RunError: cannot write' in done.stderr and 'free some space' in done.stderr
    assert 5 < len(kept) < 200
    assert_same(kept[-1], a_record('a', len(kept) - 1))


def test_a_reader_does_not_hold_up_the_writer(tmp_path, monkeypatch):
    from mtl_evaluation.runs import part

    monkeypatch.setattr(part, 'COMMIT_S', -1)
    with RunWriter(tmp_path / 'run', TASKS) as writer:
        for index in range(3):
            writer.add(a_record('a', index))
        reading = Run.open(tmp_path / 'run').records()
        next(reading)
        writer.add(a_record('a', 3))

        assert [record.index for record in reading] == [1, 2, 3]


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (None, 'no run at'),
        ('{', 'not a readable run'),
        ('[]', 'not a readable run'),
        ('{"schema": 1}', 'schema 1, this version reads'),
    ],
)
def test_what_is_no_run_is_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / 'run.json').write_text(content)
    with pytest.raises(RunError, match=message):
        Run.open(tmp_path)


def test_a_damaged_part_is_named(tmp_path):
    run = write(tmp_path / 'run', [a_record('a', index) for index in range(20)])
    file = part_file(run.path, 'a')
    data = bytearray(file.read_bytes())
    data[3000:9000] = bytes(6000)
    file.write_bytes(data)

    with pytest.raises(RunError, match=r'a\.sqlite is not a readable part'):
        list(run.records())


def test_arrays_are_packed_small_and_exactly():
    arrays = {
        'halves': np.arange(1000) / 2,
        'thirds': np.arange(10) / 3,
        'nan': np.array([np.nan, np.inf, -0.0, 1e300]),
        'wide': np.array([2**40, -(2**40)]),
        'edges': np.array([-128, 127]),
        'none': np.zeros((0, 4)),
        'scalar': np.array(7, np.int64),
        'flags': np.array([True, False]),
    }

    data = pack(arrays)
    again = unpack(data)

    for name, array in arrays.items():
        assert again[name].dtype == array.dtype and again[name].shape == array.shape, name
        assert again[name].tobytes() == array.tobytes(), name
    assert len(data) < 4 * 1000


def test_matches_are_found_once_and_stored(monkeypatch):
    metric = a_record('a', 0).pieces['detection']
    arrays = metric.to_arrays()
    before = {name: arrays[name] for name in arrays if name not in ('right', 'ignored', 'taken_by')}

    anew = DetectionMetric.from_arrays(DETECTION, before)  # a run of before they were stored
    assert anew.result() == metric.result()
    monkeypatch.setattr(average_precision, 'match', None)
    stored = DetectionMetric.from_arrays(DETECTION, arrays)

    assert stored.result() == metric.result()
    ((_, image),) = stored.images.items()
    ((_, other),) = anew.images.items()
    for name in ('right', 'ignored', 'taken_by'):
        assert np.array_equal(getattr(image.matches, name), getattr(other.matches, name)), name


def test_metrics_of_many_images_come_back():
    metric = DetectionMetric(DETECTION)
    for index in range(3):
        metric.merge(a_record('a', index).pieces['detection'])

    again = DetectionMetric.from_arrays(DETECTION, metric.to_arrays())
    empty = DetectionMetric.from_arrays(DETECTION, DetectionMetric(DETECTION).to_arrays())

    assert again.result() == metric.result()
    assert list(again.images) == list(metric.images)
    assert empty.frames == 0
    assert len(BOX_COUNTS) == 4
