"""A bag through the real node process over real DDS, and what happens when that fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from red_drive import EXPECTED, PERIOD_NS, START_NS, write_red_drive

pytest.importorskip('rclpy', reason='needs ROS 2 (make test installs the Jazzy wheels)')
pytest.importorskip('vision_msgs.msg', reason='needs vision_msgs (make test builds it)')

import live_node

from mtl_perception.bundle import Bundle
from mtl_perception.pipeline import Pipeline
from mtl_perception.replay import node_process
from mtl_perception.replay.bag import DriveBag, open_bag
from mtl_perception.replay.live import LiveSettings, run_live
from mtl_perception.replay.node_process import LiveError
from mtl_perception.replay.outputs import _topic, joined, recorded_results
from mtl_perception.replay.timing import frame_counts, stages
from mtl_perception.replay.truth import Scores
from mtl_perception.topics import TYPES, output_topic

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
        assert task.kind in TYPES
        assert _topic(task, '~') == output_topic('', task)
