# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""A bag through the real node process over real DDS, and what happens when that fails."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from red_drive import EXPECTED, PERIOD_NS, START_NS, write_red_drive

pytest.importorskip('rclpy', reason='needs ROS 2 (make test installs the Jazzy wheels)')
pytest.importorskip('vision_msgs.msg', reason='needs vision_msgs (make test builds it)')

import live_node

from mtl_evaluation.bags.bag import DriveBag
from mtl_evaluation.bags.bag_file import open_bag
from mtl_evaluation.bags.outputs import answer_topic, joined, recorded_results
from mtl_evaluation.live import node_process
from mtl_evaluation.live.node_process import LiveError
from mtl_evaluation.live.session import LiveSession, LiveSettings, run_live
from mtl_evaluation.live.timing import Pace, frame_counts, rate_hz, stages
from mtl_evaluation.scores import Scores
from mtl_perception import kinds
from mtl_perception.bundle import Bundle
from mtl_perception.cli import main
from mtl_perception.node.topics import output_topic
from mtl_perception.pipeline import Pipeline

pytestmark = pytest.mark.ros


@pytest.fixture(scope='module', autouse=True)
def private_ros(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A DDS domain of our own, for this process and its children."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp('log')
        for name, value in live_node.private_ros_environment(folder).items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope='module')
def bundle(tiny_bundle: Path) -> Bundle:
    """The tiny bundle with its engine built."""
    Pipeline.open(tiny_bundle, 'onnxruntime', build=True).close()
    return Bundle.open(tiny_bundle)


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list]:
    """Every process that a test starts; none may be left when it ends."""
    processes = []
    start = node_process.subprocess.Popen

    def remember(*args, **kwargs):
        processes.append(start(*args, **kwargs))
        return processes[-1]

    monkeypatch.setattr(node_process.subprocess, 'Popen', remember)
    yield processes
    assert all(process.returncode is not None for process in processes), 'a node was left behind'


def live(tmp_path, bundle, progress=lambda played, answered: None, **settings):
    """Play the red drive in `tmp_path`."""
    options = {'model': str(bundle.path), 'engine': 'onnxruntime', **settings}
    with DriveBag(tmp_path / 'drive') as bag:
        return run_live(
            bag, bundle, LiveSettings(**options), tmp_path / 'outputs', tmp_path / 'node.log',
            progress,
        )  # fmt: skip


def test_every_frame_is_answered_recorded_and_scored(tmp_path, bundle, started):
    write_red_drive(tmp_path / 'drive')
    before = dict(os.environ)

    run = live(tmp_path, bundle)

    counts = frame_counts(run)
    # On a busy machine the node may drop frames for newer ones; none may go without a trace.
    assert (counts['played'], counts['received'], counts['unaccounted']) == (12, 12, 0)
    assert counts['processed'] + counts['replaced'] == 12
    assert counts['answered'] == counts['processed'] >= 4
    answered = counts['answered']
    assert [frame.source_stamp_ns for frame in run.frames] == [
        START_NS + i * PERIOD_NS for i in range(12)
    ]
    offsets = {frame.stamp_ns - frame.source_stamp_ns for frame in run.frames}
    assert len(offsets) == 1, 'played stamps keep the distances of the bag'
    assert all(0 < latency < 5000 for _, latency in run.latencies_ms())
    assert {'engine', 'decode', 'publish'} <= stages(run.counters).keys()
    assert os.environ == before
    assert started[0].returncode == 0

    reader = open_bag(tmp_path / 'outputs')
    counts = {item.topic: item.msgcount for item in reader.connections}
    reader.close()
    assert counts['/perception/drivable/label_info'] == 1
    assert counts['/perception/scene/timeofday'] == answered

    scores = Scores(bundle.manifest.tasks)
    played = {frame.source_stamp_ns: frame.stamp_ns for frame in run.frames}
    with DriveBag(tmp_path / 'drive') as bag:
        results = recorded_results(run.outputs, bundle.manifest.tasks)
        for frame, result in joined(bag, played, results):
            if result is not None:
                scores.update(str(frame.index), result, frame.truth(), (96, 64))
    found = scores.result()
    for task, expected in EXPECTED.items():
        assert {name: found[task][name] for name in expected} == pytest.approx(expected), task


def test_ctrl_c_stops_early_and_keeps_what_there_is(tmp_path, bundle):
    write_red_drive(tmp_path / 'drive', frames=200)

    def interrupt(played: int, answered: int) -> None:
        if played == 5 and not stopped:
            stopped.append(played)
            raise KeyboardInterrupt

    stopped: list[int] = []
    run = live(tmp_path, bundle, interrupt)

    assert not run.complete
    assert len(run.frames) == 5
    assert 1 <= len(list(recorded_results(run.outputs, bundle.manifest.tasks))) <= 5


def test_a_node_that_cannot_be_configured_says_why(tmp_path, bundle):
    write_red_drive(tmp_path / 'drive', frames=2)

    with pytest.raises(LiveError, match=r"could not be configured(.|\n)*no model 'nowhere'"):
        live(tmp_path, bundle, model='nowhere')

    assert not (tmp_path / 'outputs').exists()


def test_a_node_that_ends_says_why(tmp_path, bundle):
    write_red_drive(tmp_path / 'drive', frames=2)

    with pytest.raises(LiveError, match=r'ended with code 2(.|\n)*precision must be one of'):
        live(tmp_path, bundle, precision='bogus')


def test_topics_are_where_the_node_publishes_them(bundle):
    for task in bundle.manifest.tasks:
        assert task.kind in kinds.KINDS
        assert answer_topic(task, '~') == output_topic('', task)


def test_in_simulation_time_frames_keep_their_stamps(tmp_path, bundle):
    write_red_drive(tmp_path / 'drive')

    run = live(tmp_path, bundle, sim_time=True)

    assert [frame.stamp_ns for frame in run.frames] == [
        frame.source_stamp_ns for frame in run.frames
    ]
    assert all(0 < latency < 5000 for _, latency in run.latencies_ms())
    assert run.latencies_ms()
    # The node's clock is the bag's: no frame is years old.
    assert float(run.counters['age_ms_p99']) < 5000


def test_one_node_is_played_to_again_and_again_at_a_rate(tmp_path, bundle):
    write_red_drive(tmp_path / 'drive')
    settings = LiveSettings(str(bundle.path), 'onnxruntime')
    with DriveBag(tmp_path / 'drive') as bag:
        frames = [(frame.stamp_ns, frame.cdr) for frame in bag.frames(truth=False)]
        with LiveSession(bag.image, bundle, settings, tmp_path / 'node.log') as session:
            runs = [
                session.play(frames, Pace(rate_hz=rate), lambda n, m: None) for rate in (10, 40)
            ]

    for run, rate in zip(runs, (10, 40), strict=True):
        counts = frame_counts(run)
        # Each run's own counts, though the node's go on.
        assert (counts['played'], counts['received'], counts['unaccounted']) == (12, 12, 0)
        assert rate_hz(run) == pytest.approx(rate)
        assert len(run.latencies_ms()) == counts['answered'] == counts['processed']


def test_the_command_keeps_latency_beside_accuracy(tmp_path, bundle, capsys):
    write_red_drive(tmp_path / 'drive', frames=30)
    arguments = ['replay', str(tmp_path / 'drive'), '--model', str(bundle.path), '--engine',
                 'onnxruntime', '--output', str(tmp_path / 'run')]  # fmt: skip

    assert main(arguments) == 0
    accuracy = (tmp_path / 'run' / 'run.json').read_text()
    assert main([*arguments, '--live', '--rate', '20']) == 0

    results = json.loads((tmp_path / 'run' / 'live.json').read_text())
    assert (tmp_path / 'run' / 'run.json').read_text() == accuracy
    assert results['frames']['played'] == 30 and results['frames']['unaccounted'] == 0
    assert results['rate_in_hz'] == pytest.approx(20)
    assert results['latency_ms']['p50'] > 0 and results['age_ms']['p50'] > 0
    assert 0 <= results['dropped'] < 1 and results['peak'] is None
    assert 'accuracy' not in results
    assert 'replaced by a newer frame' in capsys.readouterr().out


def test_a_node_that_runs_already_is_played_to_and_left_alone(tmp_path, bundle):
    write_red_drive(tmp_path / 'drive')
    parameters = {'model': bundle.path, 'engine': 'onnxruntime', 'autostart': 'true'}
    settings = LiveSettings(str(bundle.path), node='/perception')
    with (
        node_process.NodeProcess('/camera/image_raw', parameters, tmp_path / 'theirs.log') as node,
        DriveBag(tmp_path / 'drive') as bag,
    ):
        with LiveSession(bag.image, bundle, settings, tmp_path / 'none.log') as session:
            run = session.play(
                [(f.stamp_ns, f.cdr) for f in bag.raw_frames()], Pace(), lambda n, m: None
            )
        node.check()

    assert frame_counts(run)['unaccounted'] == 0 and run.latencies_ms()
    assert not (tmp_path / 'none.log').exists()
