# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""`mtl-perception replay`: by hand-known scores, the same however it is run; bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from block_drive import write_block_drive
from drive_bags import jpeg
from red_drive import EXPECTED, START_NS, write_red_drive

from mtl_evaluation.accuracy import (
    GENERATED_NOTE,
    NO_TRUTH_NOTE,
    ROAD_ONLY_NOTE,
    note,
    percent,
)
from mtl_evaluation.bags.bag import DriveBag
from mtl_evaluation.bags.bag_writer import DriveWriter, EncodedImage
from mtl_evaluation.commands.replay import ReplayError, find_bags
from mtl_evaluation.messages.cdr import BagError
from mtl_evaluation.runs import bag_replay, part
from mtl_evaluation.runs.bag_replay import BagJob, Interrupted, bag_state, replay_bag
from mtl_evaluation.runs.fleet import EngineSettings
from mtl_evaluation.runs.run import Run
from mtl_evaluation.runs.writer import RunWriter
from mtl_evaluation.truth.truth import Truth
from mtl_perception.cli import main
from mtl_perception.pipeline import Inference, Pipeline


@pytest.fixture(autouse=True)
def read_here(monkeypatch):
    """Bags are read in this process, which starts faster; `test_fleet.py` reads as users do."""
    monkeypatch.setattr(bag_replay, 'GuardedBag', DriveBag)


ENGINE = ('--engine', 'onnxruntime', '--build')


def replay(bags, model, output, *options) -> tuple[int, dict]:
    """Exit code and run.json of the command."""
    bags = [bags] if isinstance(bags, Path) else bags
    code = main(['replay', *map(str, bags), '--model', str(model), '--output', str(output),
                 *ENGINE, '--no-report', *options])  # fmt: skip
    return code, json.loads((output / 'run.json').read_text())


def same_figures(one: dict, other: dict) -> bool:
    names = ('accuracy', 'published', 'slices', 'road', 'temporal', 'frames', 'answers_sha256')
    return all(one[name] == other[name] for name in names)


def test_scores_are_those_worked_out_by_hand_and_the_same_twice(tmp_path, tiny_bundle, capsys):
    bag = write_red_drive(tmp_path / 'bag')

    code, run = replay(bag, tiny_bundle, tmp_path / 'a')
    _, again = replay(bag, tiny_bundle, tmp_path / 'b')

    assert code == 0 and run['complete']
    assert run['frames']['processed'] == 12
    assert run['frames']['labelled'] == 10
    for task, expected in EXPECTED.items():
        found = {name: run['accuracy'][task][name] for name in expected}
        assert found == pytest.approx(expected), task
    assert run['accuracy']['weather']['accuracy'] is None
    assert run['accuracy']['detection']['frames'] == 10
    assert run['slices']['timeofday=night']['semantic']['frames'] == 10
    assert run['temporal']['semantic']['changed'] == 0.0
    assert run['road']['detection']['height_px']['16-32 px']['recall'] == 1.0
    assert run['published']['detection']['frames'] == 10
    assert run['published']['detection']['right'] == 80
    assert same_figures(run, again)
    out = capsys.readouterr().out
    assert 'not measured' in out and run['answers_sha256'] in out
    # The labels are all road: the strict drivable figure is said to be unfair.
    assert ROAD_ONLY_NOTE in run['accuracy_note']


def test_a_report_and_recordings_are_written_when_asked(tmp_path, tiny_bundle):
    bag = write_red_drive(tmp_path / 'bag [1]')

    code = main(['replay', str(bag), '--model', str(tiny_bundle), '--output', str(tmp_path / 'a'),
                 *ENGINE, '--answers'])  # fmt: skip

    assert code == 0
    assert 'tiny over bag [1]' in (tmp_path / 'a' / 'report.html').read_text()
    (answers,) = (tmp_path / 'a' / 'recordings').glob('*/answers')
    with DriveBag(answers) as recorded:
        assert recorded.frames_total == 12


def test_the_hash_depends_on_the_answers(tmp_path, tiny_bundle):
    _, run = replay(write_block_drive(tmp_path / 'x'), tiny_bundle, tmp_path / 'a')
    _, other = replay(write_block_drive(tmp_path / 'y', seed=1), tiny_bundle, tmp_path / 'b')

    assert run['answers_sha256'] != other['answers_sha256']


def test_a_complete_run_is_not_run_again_unless_asked(tmp_path, tiny_bundle, monkeypatch):
    bag = write_red_drive(tmp_path / 'bag')
    _, run = replay(bag, tiny_bundle, tmp_path / 'a')
    answered = []
    digest = bag_replay.answers_digest
    monkeypatch.setattr(
        bag_replay, 'answers_digest', lambda *args: answered.append(1) or digest(*args)
    )

    code, again = replay(bag, tiny_bundle, tmp_path / 'a')
    assert (code, len(answered)) == (0, 0)
    assert same_figures(run, again)

    replay(bag, tiny_bundle, tmp_path / 'a', '--fresh')
    assert len(answered) == 12


def test_every_camera_is_answered_and_is_a_slice(tmp_path, tiny_bundle):
    bag = write_block_drive(tmp_path / 'bag', cameras=('front', 'rear'), frames=10)

    _, run = replay(bag, tiny_bundle, tmp_path / 'a')
    _, front = replay(bag, tiny_bundle, tmp_path / 'b', '--topic', '/front/image_raw')

    assert run['frames']['processed'] == 20
    assert run['bags'][0]['cameras'] == ['/front/image_raw', '/rear/image_raw']
    of_front = run['slices']['camera=/front/image_raw']
    assert of_front == {task: front['accuracy'][task] for task in of_front}
    # Each camera is compared with itself: twice 9 pairs of frames, thinned to 16x24.
    records = list(Run.open(tmp_path / 'a').records())
    assert sum(int(record.stability.masks['drivable'][0]) for record in records) == 18 * 16 * 24


def test_distance_needs_the_height_of_the_camera(tmp_path, tiny_bundle):
    bag = write_block_drive(tmp_path / 'bag', frames=6)

    _, run = replay(bag, tiny_bundle, tmp_path / 'a')
    _, placed = replay(bag, tiny_bundle, tmp_path / 'a', '--camera-height', '1.5')

    assert run['road']['detection']['distance_m'] is None
    bands = placed['road']['detection']['distance_m']
    # Lower edges 26 to 33 and 58 to 65 px at a focal length of 100 px: at 5 m, or over the horizon.
    assert bands['< 10 m']['objects'] > 5


def test_truth_may_come_from_files(tmp_path, tiny_bundle):
    bag = write_block_drive(tmp_path / 'bag', frames=6)
    frames = [
        {'name': f'0_{index:04d}.png', 'labels': [
            {'category': 'car', 'box2d': {'x1': 2, 'y1': 2, 'x2': 22, 'y2': 30}}]}
        for index in (0, 1, 99)
    ]  # fmt: skip
    (tmp_path / 'labels.json').write_text(json.dumps(frames))

    code, run = replay(
        bag, tiny_bundle, tmp_path / 'a', '--truth', str(tmp_path / 'labels.json')
    )  # fmt: skip

    assert code == 0
    assert run['accuracy']['detection']['objects']['car'] == 2
    assert run['accuracy']['semantic']['frames'] == 0
    assert run['frames']['unmatched_truth'] == 1
    assert run['frames']['unmatched_frames'] == 4
    assert run['bags'][0]['unmatched_truth']['first'] == ['0_0099']


def test_labels_that_another_bag_uses_are_not_without_a_frame(tmp_path, tiny_bundle):
    bags = [write_named_drive(tmp_path / name, (f'{name}1.jpg', f'{name}2.jpg')) for name in 'pq']
    names = ('p1.jpg', 'p2.jpg', 'q1.jpg', 'q2.jpg', 'x.jpg')
    (tmp_path / 'labels.json').write_text(json.dumps([{'name': n, 'labels': []} for n in names]))

    code, run = replay(
        bags, tiny_bundle, tmp_path / 'a', '--truth', str(tmp_path / 'labels.json')
    )  # fmt: skip

    assert code == 0
    assert run['frames']['unmatched_truth'] == 1
    assert [bag['unmatched_truth']['first'] for bag in run['bags']] == [['x'], ['x']]


def test_labels_that_changed_are_another_run(tmp_path, tiny_bundle, capsys):
    bag = write_named_drive(tmp_path / 'bag', ('a.jpg',))
    labels = tmp_path / 'labels.json'
    options = ('--truth', str(labels))
    labels.write_text(json.dumps([{'name': 'a.jpg', 'attributes': {'weather': 'rainy'}}]))
    assert replay(bag, tiny_bundle, tmp_path / 'a', *options)[0] == 0
    assert replay(bag, tiny_bundle, tmp_path / 'a', *options)[0] == 0

    labels.write_text(json.dumps([{'name': 'a.jpg', 'attributes': {'weather': 'clear'}}]))
    code, run = replay(bag, tiny_bundle, tmp_path / 'a', *options)

    assert code == 1 and 'weather=rainy' in run['slices']
    assert 'holds another run: its truth_sha256 is ' in capsys.readouterr().err


def write_named_drive(path: Path, names: tuple[str, ...]) -> Path:
    with DriveWriter(path) as writer:
        for index, name in enumerate(names):
            image = EncodedImage(np.zeros((64, 96, 3), np.uint8))
            writer.write_frame(START_NS + index, image, Truth(), name=name)
    return path


def stop_after(frames: int):
    """A `Notify` that stops there."""

    def notify(done: int, total: int) -> None:
        if done == frames:
            raise Interrupted

    return notify


@pytest.mark.parametrize('commit_s', [-1, 100])
def test_an_interrupted_replay_goes_on_to_the_same_result(
    tmp_path, tiny_bundle, monkeypatch, commit_s
):
    monkeypatch.setattr(part, 'COMMIT_S', commit_s)
    bag = write_block_drive(tmp_path / 'bag', cameras=('front', 'rear'), frames=12)
    _, whole = replay(bag, tiny_bundle, tmp_path / 'whole')
    (job,) = find_bags([str(bag)])
    settings = EngineSettings(str(tiny_bundle), 'onnxruntime')
    identity = whole['identity']

    for frames in (3, 8, 9):  # in the middle of a stamp, too
        with (
            settings.open() as pipeline,
            RunWriter(tmp_path / 'run', pipeline.tasks, identity, [{'name': 'bag'}]),
            pytest.raises(Interrupted),
        ):
            replay_bag(job, tmp_path / 'run', pipeline, stop_after(frames))
        assert bag_state(tmp_path / 'run', 'bag').read == frames
        assert not Run.open(tmp_path / 'run').summary['complete']
    code, run = replay(bag, tiny_bundle, tmp_path / 'run')

    assert code == 0
    assert same_figures(run, whole)
    records = zip(
        Run.open(tmp_path / 'run').records(), Run.open(tmp_path / 'whole').records(), strict=True
    )
    for one, other in records:
        assert one.key == other.key and one.digest == other.digest
        assert one.stability.result() == other.stability.result()
        ids = [record.tracks['detection'].tracks.ids.tolist() for record in (one, other)]
        assert ids[0] == ids[1]
    assert run['tracking'] == whole['tracking'] and run['tracking']['detection']['truth'] > 50


def test_a_killed_replay_goes_on_to_the_same_result(tmp_path, tiny_bundle):
    bag = write_block_drive(tmp_path / 'bag')
    _, whole = replay(bag, tiny_bundle, tmp_path / 'whole')
    code = f"""
import os, signal, sys
from mtl_perception.cli import main
from mtl_evaluation.runs import fleet
from mtl_evaluation.runs import part
part.COMMIT_S = -1
replay = fleet.replay_bag
def killed(job, run, pipeline, notify, record):
    def count(done, total):
        if done == 10:
            os.kill(os.getpid(), signal.SIGKILL)
    replay(job, run, pipeline, count)
fleet.replay_bag = killed
main(['replay', {str(bag)!r}, '--model', {str(tiny_bundle)!r}, '--output',
      {str(tmp_path / 'run')!r}, '--engine', 'onnxruntime'])
"""
    done = subprocess.run([sys.executable, '-c', code], timeout=60)
    partial = Run.open(tmp_path / 'run').summary
    exit_code, run = replay(bag, tiny_bundle, tmp_path / 'run')

    assert done.returncode == -signal.SIGKILL
    assert not partial['complete'] and 'killed' in partial['partial_reason']
    assert exit_code == 0
    assert same_figures(run, whole)


def test_ctrl_c_keeps_what_there_is_and_says_so(tmp_path, tiny_bundle, monkeypatch, capsys):
    bag = write_block_drive(tmp_path / 'bag')
    digest, answered = bag_replay.answers_digest, []

    def interrupt(*args) -> str:
        answered.append(1)
        if len(answered) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return digest(*args)

    monkeypatch.setattr(bag_replay, 'answers_digest', interrupt)
    code, run = replay(bag, tiny_bundle, tmp_path / 'a')

    assert code == 130
    assert not run['complete'] and 'it was stopped' in run['partial_reason']
    assert run['frames']['processed'] == 5 and run['frames']['not_reached'] == 19
    assert run['accuracy']['detection']['frames'] == 4
    assert 'PARTIAL' in capsys.readouterr().out


def test_other_answers_than_before_are_an_error(tmp_path, tiny_bundle):
    bag = write_block_drive(tmp_path / 'bag')
    with pytest.MonkeyPatch.context() as patch:
        digest = bag_replay.answers_digest
        answered = []

        def other(*args) -> str:
            answered.append(1)
            if len(answered) == 6:
                os.kill(os.getpid(), signal.SIGINT)
            return digest(*args)[::-1]

        patch.setattr(bag_replay, 'answers_digest', other)
        replay(bag, tiny_bundle, tmp_path / 'a')

    code, run = replay(bag, tiny_bundle, tmp_path / 'a')

    assert code == 1
    assert 'is answered otherwise than before' in run['partial_reason']
    assert run['frames']['processed'] == 6


def test_another_bag_under_the_same_path_is_an_error(tmp_path, tiny_bundle, capsys):
    bag = write_block_drive(tmp_path / 'bag')
    with RunWriter(tmp_path / 'a', ()) as _:
        pass
    with EngineSettings(str(tiny_bundle), 'onnxruntime', build=True).open() as pipeline:
        job = BagJob('bag', bag)
        (tmp_path / 'b' / 'frames').mkdir(parents=True)
        with pytest.raises(Interrupted):
            replay_bag(job, tmp_path / 'b', pipeline, stop_after(3))
        write_block_drive(bag, frames=30)

        with pytest.raises(part.RunError, match='is not the bag that'):
            replay_bag(job, tmp_path / 'b', pipeline)


def test_a_finished_bag_that_was_replaced_is_an_error(tmp_path, tiny_bundle):
    bag = write_block_drive(tmp_path / 'bag', frames=4)
    replay(bag, tiny_bundle, tmp_path / 'a')
    write_block_drive(bag, frames=6)

    code, run = replay(bag, tiny_bundle, tmp_path / 'a')

    assert code == 1
    assert not run['complete'] and 'is not the bag that' in run['partial_reason']


@pytest.mark.parametrize('station', [(Pipeline, 'infer'), (Inference, 'decode')])
def test_frames_are_run_and_decoded_while_an_earlier_one_is_measured(
    tmp_path, tiny_bundle, monkeypatch, station
):
    bag = write_block_drive(tmp_path / 'bag', frames=4)
    taken, beside = threading.Semaphore(0), []
    work, digest = getattr(*station), bag_replay.answers_digest

    def count(*args, **options):
        taken.release()
        return work(*args, **options)

    def wait_for_the_next(*args) -> str:
        if not beside:
            taken.acquire()  # its own
        beside.append(len(beside) == 3 or taken.acquire(timeout=10))
        return digest(*args)

    monkeypatch.setattr(*station, count)
    monkeypatch.setattr(bag_replay, 'answers_digest', wait_for_the_next)
    code, _ = replay(bag, tiny_bundle, tmp_path / 'a')

    assert code == 0
    assert beside == [True] * 4


def test_a_frame_that_is_undecodable_leaves_the_others_in_their_places(tmp_path, tiny_bundle):
    picture = EncodedImage(data=jpeg(), format='jpeg')
    broken = EncodedImage(data=b'\xff\xd8\xff broken', format='jpeg')
    with DriveWriter(tmp_path / 'bag') as writer:
        for index in range(6):
            writer.write_frame(START_NS + index, picture if index % 3 else broken, Truth())

    code, run = replay(tmp_path / 'bag', tiny_bundle, tmp_path / 'a')

    assert code == 0
    assert run['frames']['processed'] == 4 and run['frames']['undecodable'] == 2
    assert [record.index for record in Run.open(tmp_path / 'a').records()] == [1, 2, 4, 5]


def test_undecodable_frames_are_counted_and_named(tmp_path, tiny_bundle):
    with DriveWriter(tmp_path / 'jpegs') as writer:
        for index in range(4):
            image = EncodedImage(data=b'\xff\xd8\xff broken', format='jpeg')
            writer.write_frame(START_NS + index, image, Truth())

    code, run = replay(tmp_path / 'jpegs', tiny_bundle, tmp_path / 'a')

    assert code == 1  # nothing could be processed
    assert run['frames']['undecodable'] == 4
    assert 'JPEG' in run['undecodable'][0]


def test_a_truncated_bag_is_one_sentence(tmp_path, tiny_bundle, capsys):
    bag = write_block_drive(tmp_path / 'bag', frames=40)
    file = next(bag.glob('*.mcap'))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    code, run = replay(bag, tiny_bundle, tmp_path / 'a')

    assert code == 1
    assert not run['complete'] and 'truncated or damaged' in run['partial_reason']
    assert 'truncated or damaged' in capsys.readouterr().out


def test_every_frame_before_the_damage_is_kept(tmp_path, tiny_bundle):
    bag = write_block_drive(tmp_path / 'bag')
    about = bag / 'metadata.yaml'
    lie = about.read_text().replace('message_count: 24', 'message_count: 25')
    about.write_text(lie)
    with DriveBag(bag) as opened, pytest.raises(BagError, match='its index promises'):
        readable = 0
        for _ in opened.frames():
            readable += 1

    code, run = replay(bag, tiny_bundle, tmp_path / 'a')

    assert code == 1
    assert run['frames']['processed'] == readable == 24
    assert not run['complete'] and 'its index promises' in run['partial_reason']


def test_class_tables_that_differ_are_one_sentence(tmp_path, tiny_bundle):
    with DriveWriter(tmp_path / 'bag') as writer:
        for index in range(3):
            mask = np.full((64, 96), 3 * index, np.uint8)  # drivable has classes 0 to 2
            image = EncodedImage(np.zeros((64, 96, 3), np.uint8))
            writer.write_frame(START_NS + index, image, Truth(masks={'drivable': mask}))

    code, run = replay(tmp_path / 'bag', tiny_bundle, tmp_path / 'a')

    assert code == 1
    assert 'frame 1' in run['partial_reason'] and 'class table' in run['partial_reason']
    assert run['frames']['processed'] == 1


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['none'], 'nothing is there'),
        (['*.mcap'], "no bag matches '*.mcap'"),
        (['.', '.'], 'more than once'),
        (['.', '--jobs', '0'], 'expected at least 1'),
        (['.', '--camera-height', '-1'], 'more than 0 m above the road'),
        (['.', '--model', 'no_such_model'], "no model 'no_such_model'"),
        (['.', '--truth', 'x', '--truth-tolerance-ms', '-1'], 'expected 0 or more'),
        (['.', '--truth', 'no_labels.json'], 'Give a Scalabel or COCO JSON'),
    ],
)
def test_bad_input_is_one_sentence_and_a_code(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)

    assert main(['replay', *arguments]) == 1

    error = capsys.readouterr().err
    assert message in error
    assert 'Traceback' not in error
    assert not list(tmp_path.iterdir())


def test_what_is_no_bag_is_named_and_no_table_is_printed(tmp_path, tiny_bundle, capsys):
    code, run = replay(tmp_path, tiny_bundle, tmp_path / 'a')

    out = capsys.readouterr().out
    assert code == 1
    assert 'a folder without metadata.yaml' in run['partial_reason']
    assert 'PARTIAL' in out and 'accuracy' not in out


def test_names_tell_bags_apart(tmp_path):
    for name in ('monday/drive', 'tuesday/drive', 'tuesday/other.mcap'):
        (tmp_path / name).mkdir(parents=True)

    jobs = find_bags([str(tmp_path / '*' / 'drive'), str(tmp_path / 'tuesday' / 'other.mcap')])

    assert [job.name for job in jobs] == ['monday/drive', 'tuesday/drive', 'tuesday/other.mcap']
    assert [job.name for job in find_bags([str(tmp_path / 'tuesday' / 'other.mcap')])] == ['other']
    with pytest.raises(ReplayError, match='no bag matches'):
        find_bags([str(tmp_path / '*' / 'nothing')])


def test_generated_scenes_are_said_to_be_no_evidence():
    measured = {'semantic': {'frames': 3}}

    assert note('generated', measured) == GENERATED_NOTE
    assert note('images', measured) != GENERATED_NOTE
    assert note('generated', {'semantic': {'frames': 0}}) == NO_TRUTH_NOTE
    assert percent(None) == 'not measured'
    assert percent(0.0) == '0.0 %'
