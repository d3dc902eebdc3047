# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Many bags beside each other: the same run as one after the other, whatever happens to one."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from block_drive import write_block_drive

from mtl_evaluation.bags.bag import DriveBag
from mtl_evaluation.commands import replay as offline
from mtl_evaluation.runs import bag_replay, fleet
from mtl_evaluation.runs.bag_replay import BagJob, Interrupted, bag_state, replay_bag
from mtl_evaluation.runs.cost import cost_model
from mtl_evaluation.runs.fleet import (
    EngineSettings,
    FleetError,
    LocalWorkers,
    Work,
    replay_fleet,
)
from mtl_evaluation.runs.run import Run
from mtl_evaluation.runs.writer import RunWriter
from mtl_perception.cli import main


@pytest.fixture(autouse=True)
def read_here(monkeypatch):
    """This process reads bags itself; its workers read them as users do."""
    monkeypatch.setattr(bag_replay, 'GuardedBag', DriveBag)


FIGURES = ('accuracy', 'published', 'slices', 'road', 'temporal', 'answers_sha256')


def replay(pattern: Path, model: Path, output: Path, *options: str) -> tuple[int, dict]:
    code = main(['replay', str(pattern), '--model', str(model), '--output', str(output),
                 '--engine', 'onnxruntime', '--build', '--no-report', *options])  # fmt: skip
    return code, json.loads((output / 'run.json').read_text())


@pytest.fixture(scope='module')
def bags(tmp_path_factory) -> Path:
    """Three bags of different length, and one that is none."""
    folder = tmp_path_factory.mktemp('bags')
    for name, frames in (('a', 8), ('b', 13), ('d', 5)):
        write_block_drive(folder / name, seed=frames, frames=frames)
    (folder / 'c').mkdir()
    return folder


def test_a_fleet_is_exactly_one_pass_and_one_bad_bag_does_not_stop_it(
    tmp_path, tiny_bundle, bags, capsys
):
    code, fleet = replay(bags / '*', tiny_bundle, tmp_path / 'fleet', '--jobs', '3')
    out = capsys.readouterr().out
    _, single = replay(bags / '*', tiny_bundle, tmp_path / 'single')

    assert code == 1
    assert not fleet['complete'] and fleet['partial_reason'].startswith('c: ')
    assert 'a folder without metadata.yaml' in fleet['bags'][2]['error']
    assert {name: fleet[name] for name in FIGURES} == {name: single[name] for name in FIGURES}
    assert [bag['frames'] for bag in fleet['bags']] == [8, 13, 0, 5]
    for one, other in zip(fleet['bags'], single['bags'], strict=True):
        assert {**one, 'error': ''} == {**other, 'error': ''}
    assert '0, partial' in out and 'PARTIAL' in out
    assert fleet['cost']['workers'] == 3
    # The bad bag is replaced: only that one is still to do.
    write_block_drive(bags / 'c', seed=3, frames=4)
    before = {bag: bag_state(tmp_path / 'fleet', bag) for bag in 'abd'}
    code, whole = replay(bags / '*', tiny_bundle, tmp_path / 'fleet')
    assert code == 0 and whole['complete'] and whole['frames']['processed'] == 30
    assert {bag: bag_state(tmp_path / 'fleet', bag) for bag in 'abd'} == before


def test_a_worker_that_dies_is_named_and_the_others_go_on(tmp_path, tiny_bundle, bags):
    settings = EngineSettings(str(tiny_bundle), 'onnxruntime', threads=1, build=True)
    with settings.open() as pipeline:
        tasks = pipeline.tasks
    workers = LocalWorkers(Work(settings, tmp_path / 'run'))
    killed = []

    def kill_first(running: list[BagJob]) -> None:
        if not killed:
            killed.append(next(iter(workers._running)))
            os.kill(killed[0].pid, signal.SIGKILL)

    with RunWriter(tmp_path / 'run', tasks):
        failures = replay_fleet(
            [BagJob('a', bags / 'a'), BagJob('b', bags / 'b')], 2, workers, kill_first
        )  # fmt: skip

    assert failures == {'a': 'its worker process died of SIGKILL'}
    assert bag_state(tmp_path / 'run', 'b').complete
    assert not bag_state(tmp_path / 'run', 'a').complete


def test_stopping_a_fleet_stops_its_workers_between_two_frames(tmp_path, tiny_bundle):
    bag = write_block_drive(tmp_path / 'long', frames=1000)
    settings = EngineSettings(str(tiny_bundle), 'onnxruntime', threads=1, build=True)
    with settings.open() as pipeline:
        tasks = pipeline.tasks
    workers = LocalWorkers(Work(settings, tmp_path / 'run'))

    def stop_soon(running: list[BagJob]) -> None:
        if bag_state(tmp_path / 'run', 'long').read:
            raise Interrupted

    with RunWriter(tmp_path / 'run', tasks), pytest.raises(Interrupted):
        replay_fleet([BagJob('long', bag)], 1, workers, stop_soon)

    state = bag_state(tmp_path / 'run', 'long')
    assert 0 < state.read < 1000 and not state.complete and not state.error
    assert len(list(Run.open(tmp_path / 'run').records())) == state.read
    assert not any(process.is_alive() for process in workers._running)


def test_a_worker_that_somebody_else_stops_leaves_a_partial_run(tmp_path, tiny_bundle, monkeypatch):
    for name in 'ab':
        write_block_drive(tmp_path / name, frames=600 if name == 'b' else 5)
    finished = LocalWorkers.finished

    def stop_b(self, timeout_s):
        for worker, (job, _) in self._running.items():
            if job.name == 'b' and bag_state(tmp_path / 'run', 'b').read:
                worker.terminate()
        return finished(self, timeout_s)

    monkeypatch.setattr(LocalWorkers, 'finished', stop_b)
    code, run = replay(tmp_path / '[ab]', tiny_bundle, tmp_path / 'run', '--jobs', '2')

    assert code == 1 and not run['complete']
    assert run['partial_reason'] == 'b: its worker was stopped; the same command goes on'
    assert [bag['error'] for bag in run['bags']] == [None, run['partial_reason'][3:]]


def test_without_ray_the_way_to_get_it_is_named(tmp_path, tiny_bundle, bags, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'ray', None)

    assert main(['replay', str(bags / 'a'), '--model', str(tiny_bundle), '--engine', 'onnxruntime',
                 '--build', '--output', str(tmp_path / 'r'), '--ray', 'auto']) == 1  # fmt: skip
    assert 'pip install ray' in capsys.readouterr().err


def test_costs_by_hand():
    stages = {'engine': 60.0, 'decode': 20.0, 'read': 25.0, 'wait': 50.0, 'score': 25.0}
    cost = cost_model(stages, 2, 4, 36_000, 1000.0)

    # Two workers, 100 ms per frame each: what the pipeline does, it does beside the rest.
    assert cost['frames_per_s'] == 20.0
    assert cost['frames_per_s_per_core'] == 5.0
    assert cost['limited_by'] == 'engine' and cost['shares']['engine'] == 0.6
    assert cost['ms_per_frame_outside_engine'] == 40.0
    # 10,000 h * 36,000 frames / 20 per second = 18e6 s
    assert cost['fleet']['days_on_machines']['10'] == pytest.approx(18e5 / 86_400)
    assert cost['fleet']['records_gb'] == 360.0
    assert cost_model({}, 1, 1, None, 0.0) == {}
    assert cost_model({'engine': 1.0, 'wait': 1.0}, 1, 1, None, 0.0)['fleet'] is None


def test_progress_counts_all_bags(tmp_path, bags):
    jobs = [BagJob(name, bags / name) for name in 'ab']
    totals = fleet._Totals(jobs, tmp_path)

    assert totals.look([]) == (0, None)
    totals.set('a', 4, 8)
    assert totals.look([]) == (4, 16)  # the other one is taken to be as long


def test_threads_do_not_change_an_answer(tmp_path, tiny_bundle, bags):
    """What a fleet with divided threads relies on; see docs/results/replay_determinism.json."""
    hashes = set()
    for threads in (1, 2, 3):
        settings = EngineSettings(str(tiny_bundle), 'onnxruntime', threads=threads, build=True)
        with (
            settings.open() as pipeline,
            RunWriter(tmp_path / str(threads), pipeline.tasks) as writer,
        ):
            replay_bag(BagJob('a', bags / 'a'), writer.path, pipeline)
            hashes.add(writer.finish({}).summary['answers_sha256'])

    assert len(hashes) == 1


def test_workers_run_what_auto_chose_here(tmp_path, tiny_bundle, bags, monkeypatch):
    """A worker's own machine may prefer another engine, which answers with other digits."""
    seen = []

    def no_workers(work):
        seen.append(work.settings)
        raise FleetError('none today')

    monkeypatch.setattr(offline, 'LocalWorkers', no_workers)
    arguments = ['--model', str(tiny_bundle), '--build', '--jobs', '2', '--output', str(tmp_path)]
    assert main(['replay', str(bags / 'a'), str(bags / 'b'), *arguments]) == 1
    assert seen[0].engine != 'auto' and seen[0].precision == 'fp32'


@pytest.mark.slow
def test_a_ray_cluster_gives_the_same_run(tmp_path, tiny_bundle, bags):
    ray = pytest.importorskip('ray', reason='Ray is an optional dependency: pip install ray')
    # The folder of the fleet test may be whole by now.
    write_block_drive(bags / 'c', seed=3, frames=4)
    try:
        code, cluster = replay(bags / '*', tiny_bundle, tmp_path / 'ray', '--ray', 'local')
    finally:
        ray.shutdown()
    _, single = replay(bags / '*', tiny_bundle, tmp_path / 'single')

    assert code == 0 and cluster['complete']
    assert {name: cluster[name] for name in FIGURES} == {name: single[name] for name in FIGURES}
