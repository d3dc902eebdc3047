# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""`mtl-perception compare`: what a better, an equal, a worse and a foreign run come to."""

from __future__ import annotations

import json
from copy import copy
from dataclasses import replace

import numpy as np
import pytest
from made_runs import TASK_LIST, write_made_run

from mtl_evaluation.commands.compare import CODES, to_json
from mtl_evaluation.compare.comparison import compare, headlines, most_changed
from mtl_evaluation.compare.gate import read_gate
from mtl_evaluation.compare.paired import Pair, Side
from mtl_evaluation.runs.run import Run
from mtl_evaluation.runs.writer import RunWriter
from mtl_perception.cli import main
from mtl_perception.tasks import Task

GATE = """
schema: 1
rules:
  - {metric: detection/AP50, max_drop: 0.03}
  - {metric: semantic/miou, max_drop: 0.03}
  - {metric: semantic/flicker, max_rise: 0.03}
"""

COMMON: dict = {'frames': 60, 'bags': ('town', 'hill')}


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Over the same frames: as it was, as good by other mistakes, and worse."""
    folder = tmp_path_factory.mktemp('runs')
    write_made_run(folder / 'was', **COMMON)
    write_made_run(folder / 'like', model=1, **COMMON)
    write_made_run(folder / 'worse', model=2, error=0.5, **COMMON)
    return folder


@pytest.fixture(scope='module')
def sides(runs):
    """The same, read."""
    return {name: side(runs / name) for name in ('was', 'like', 'worse')}


def gate_of(folder, text=GATE):
    path = folder / 'gate.yaml'
    path.write_text(text)
    return path


def side(path):
    return Side(Run.open(path))


def compared(first, second, folder, text=GATE):
    """Two sides, with a gate."""
    gate = read_gate(gate_of(folder, text)) if text else None
    return compare(Pair(first, second), gate, block_s=0.5, samples=100)


def command(first, second, output, *more):
    """Exit code and what compare.json says (None when it was not written)."""
    code = main(
        ['compare', str(first), str(second), '--output', str(output), '--block-s', '0.5',
         '--samples', '300', '--no-pictures', *map(str, more)]
    )  # fmt: skip
    file = output / 'compare.json'
    return code, json.loads(file.read_text()) if file.exists() else None


def test_a_run_against_itself_is_exactly_zero_and_passes(sides, tmp_path):
    comparison = compared(sides['was'], sides['was'], tmp_path)

    assert comparison.verdict.word == 'PASS'
    assert {'same, bit for bit' in ruling.why for ruling in comparison.rulings} == {True}
    measured = [item for item in comparison.differences if item.difference is not None]
    assert len(measured) > 50
    assert {item.difference for item in measured} == {0.0}
    assert {item.interval() or (0.0, 0.0) for item in measured} == {(0.0, 0.0)}


def test_a_worse_run_fails_and_says_where(runs, tmp_path, capsys):
    gate = gate_of(tmp_path)

    code, results = command(runs / 'was', runs / 'worse', tmp_path / 'out', '--gate', gate)

    shown = capsys.readouterr().out.replace('\n', ' ')
    assert code == 1
    assert results['verdict']['word'] == 'FAIL'
    assert 'detection/AP50' in results['verdict']['lines'][0]
    assert [rule['verdict'] for rule in results['gate']['rules']][:2] == ['FAIL', 'FAIL']
    assert 'missed' in results['changed']['detection'][0]['b']
    assert shown.startswith('FAIL')
    assert 'may not replace' in shown
    page = (tmp_path / 'out' / 'compare.html').read_text()
    assert 'verdict bad' in page
    assert 'may not replace' in page


def test_a_better_run_passes(sides, tmp_path):
    comparison = compared(sides['worse'], sides['was'], tmp_path)

    assert comparison.verdict.word == 'PASS'
    assert {ruling.word for ruling in comparison.rulings} == {'PASS'}


@pytest.mark.parametrize('allowed', [False, True])
def test_what_the_frames_cannot_tell_is_undecided(sides, tmp_path, allowed):
    text = 'schema: 1\nrules: [{metric: detection/AP50, max_drop: 0.0, allow_undecided: %s}]'

    comparison = compared(sides['was'], sides['like'], tmp_path, text % str(allowed).lower())

    assert comparison.verdict.word == ('PASS' if allowed else 'UNDECIDED')
    assert 'too few frames to tell' in comparison.rulings[0].why
    assert CODES[comparison.verdict.word] == (0 if allowed else 2)


def test_a_slice_without_frames_is_undecided(sides, tmp_path):
    text = 'schema: 1\nrules: [{metric: detection/AP50, max_drop: 0.5, slice: %s}]'

    comparison = compared(sides['was'], sides['like'], tmp_path, text % 'timeofday=dawn/dusk')

    assert comparison.verdict.word == 'UNDECIDED'
    assert 'no paired frame' in comparison.rulings[0].why


def test_a_gate_asks_for_any_figure_in_any_slice(sides, tmp_path):
    text = (
        'schema: 1\nrules: [{metric: detection/AP/car, max_drop: 0.9, slice: bag=hill},'
        ' {metric: "detection/recall/32-64 px", max_drop: 0.9, slice: timeofday=daytime},'
        ' {metric: drivable/miou, max_drop: 0.9, slice: camera=/front}]'
    )
    front = replace_all(sides['was'], camera='/front')

    comparison = compared(front, replace_all(sides['like'], camera='/front'), tmp_path, text)

    found = {(item.slice, item.metric): item.frames for item in comparison.differences}
    assert 0 < found['bag=hill', 'detection/AP/car'] <= 60
    assert 0 < found['timeofday=daytime', 'detection/recall/32-64 px'] <= 80
    assert found['camera=/front', 'drivable/miou'] == 120


def replace_all(read: Side, **slices: str) -> Side:
    """The same side with slices added to every frame."""
    changed = copy(read)
    changed.slices = [{**row, **slices} for row in read.slices]
    return changed


def test_without_a_gate_it_is_only_compared(sides, tmp_path):
    comparison = compared(sides['was'], sides['worse'], tmp_path, text='')

    assert comparison.verdict.word == 'COMPARED'
    assert CODES['COMPARED'] == 0


def test_figures_are_those_of_the_runs_themselves(sides, tmp_path):
    comparison = compared(sides['was'], sides['like'], tmp_path)
    found = {(item.slice, item.metric): item for item in comparison.differences}

    for name, which in (('was', 'first'), ('like', 'second')):
        summary = sides[name].run.summary
        accuracy, night = summary['accuracy'], summary['slices']['timeofday=night']
        of_bag = next(bag for bag in summary['bags'] if bag['name'] == 'hill')['accuracy']
        for key, expected in {
            ('', 'detection/AP'): accuracy['detection']['AP'],
            ('', 'detection/AP50/car'): accuracy['detection']['per_class']['car']['AP50'],
            ('', 'semantic/iou/road'): accuracy['semantic']['iou']['road'],
            ('', 'drivable/official_miou'): accuracy['drivable']['official_miou'],
            ('', 'drivable/two_class_miou'): accuracy['drivable']['two_class_miou'],
            ('', 'timeofday/accuracy'): accuracy['timeofday']['accuracy'],
            ('', 'semantic/flicker'): summary['temporal']['semantic']['flicker'],
            ('timeofday=night', 'detection/AP50'): night['detection']['AP50'],
            ('bag=hill', 'drivable/miou'): of_bag['drivable']['miou'],
        }.items():
            assert getattr(found[key], which) == pytest.approx(expected, abs=1e-12), key
    assert {item.task for item in headlines(comparison)} == {task.name for task in TASK_LIST}


def test_frames_pair_by_key_whatever_the_order_of_bags(sides, tmp_path):
    other = write_made_run(tmp_path / 'other', frames=60, bags=('hill', 'town'), model=1)

    reordered = compared(sides['was'], Side(other), tmp_path)
    straight = compared(sides['was'], sides['like'], tmp_path)

    assert [item.to_json() for item in reordered.differences] == [
        item.to_json() for item in straight.differences
    ]


@pytest.mark.parametrize('allowed', [0, 4])
def test_unpaired_frames_are_listed_and_hold_the_gate(sides, tmp_path, allowed):
    short = write_made_run(tmp_path / 'short', skip=(3, 50), **COMMON)
    text = GATE.replace('schema: 1', f'schema: 1\nmax_unpaired: {allowed}')

    comparison = compared(sides['was'], Side(short), tmp_path, text)

    assert comparison.verdict.word == ('PASS' if allowed else 'UNDECIDED')
    assert to_json(comparison, 1.0)['frames']['only_a'] == [
        'hill#000000003', 'hill#000000050', 'town#000000003', 'town#000000050'
    ]  # fmt: skip
    assert '4 in one only' in comparison.verdict.lines[2]


def test_a_partial_run_does_not_pass(sides, tmp_path):
    partial = write_made_run(
        tmp_path / 'partial', complete=False, partial_reason='the disk was full', **COMMON
    )

    comparison = compared(sides['was'], Side(partial), tmp_path)

    assert comparison.verdict.word == 'UNDECIDED'
    assert 'the disk was full' in comparison.verdict.lines[2]


def refused(first, second, tmp_path, capsys) -> str:
    code, results = command(first, second, tmp_path / 'out')
    error = capsys.readouterr().err
    assert code == 2
    assert results is None
    assert 'Traceback' not in error
    return error


def test_runs_of_other_bags_are_refused(runs, tmp_path, capsys):
    write_made_run(tmp_path / 'lake', frames=5, bags=('lake',))

    error = refused(runs / 'was', tmp_path / 'lake', tmp_path, capsys)

    assert 'share no frame' in error
    assert 'town (60 frames)' in error
    assert 'lake (5 frames)' in error


def rewritten(source, path, change, tasks=TASK_LIST):
    """A copy of a run with every record changed."""
    with RunWriter(path, tasks) as writer:
        for record in Run.open(source).records():
            writer.add(change(record))
        return writer.finish({'model': {'name': 'changed'}})


def test_runs_with_other_labels_are_refused(runs, tmp_path, capsys):
    def move_a_label(record):
        metric = record.pieces['semantic']
        if record.key == 'town#000000007':
            metric.confusion[0, 0] -= 1
            metric.confusion[1, 0] += 1
        return record

    rewritten(runs / 'was', tmp_path / 'other', move_a_label)

    error = refused(runs / 'was', tmp_path / 'other', tmp_path, capsys)

    assert 'different labels' in error
    assert 'semantic of 1 frames' in error
    assert 'town#000000007' in error


def test_runs_with_other_class_tables_are_refused(runs, tmp_path, capsys):
    def only_boxes(record):
        return replace(record, pieces={}, stability=None)

    detection = TASK_LIST[0]
    renamed = Task('detection', 'detection', ('person', *detection.classes[1:]))
    rewritten(runs / 'was', tmp_path / 'other', only_boxes, (renamed,))

    error = refused(runs / 'was', tmp_path / 'other', tmp_path, capsys)

    assert 'different class tables' in error
    assert 'pedestrian, rider' in error
    assert 'person, rider' in error


def test_only_tasks_that_both_answer_are_compared(runs, sides, tmp_path):
    def without_semantic(record):
        pieces = {name: piece for name, piece in record.pieces.items() if name != 'semantic'}
        return replace(record, pieces=pieces, stability=None)

    fewer = tuple(task for task in TASK_LIST if task.name != 'semantic')
    rewritten(runs / 'was', tmp_path / 'fewer', without_semantic, fewer)

    pair = Pair(sides['was'], side(tmp_path / 'fewer'))

    assert [task.name for task in pair.tasks] == ['detection', 'drivable', 'timeofday']


def test_frames_without_labels_in_one_run_count_in_neither(runs, sides, tmp_path):
    def unlabelled(record):
        return replace(record, pieces={}) if record.index % 2 else record

    rewritten(runs / 'like', tmp_path / 'half', unlabelled)

    pair = Pair(sides['was'], side(tmp_path / 'half'))
    found = {
        item.metric: item
        for item in compare(pair, block_s=0.5, samples=100).differences
        if item.slice == ''
    }

    assert pair.measured_by_one('detection') == 60
    assert found['semantic/miou'].frames == 60


def test_what_one_run_has_no_labels_for_is_undecided(runs, sides, tmp_path):
    rewritten(runs / 'like', tmp_path / 'blind', lambda record: replace(record, pieces={}))
    blind = side(tmp_path / 'blind')

    for first, second in ((sides['was'], blind), (blind, sides['was'])):
        assert compared(first, second, tmp_path).verdict.word == 'UNDECIDED'


@pytest.mark.parametrize(
    ('arguments', 'told'),
    [
        (['none', 'none'], 'no run at none'),
        (['.', '.'], 'no run at .'),
    ],
)
def test_what_is_no_run_is_said(tmp_path, monkeypatch, capsys, arguments, told):
    monkeypatch.chdir(tmp_path)

    assert main(['compare', *arguments]) == 2
    assert told in capsys.readouterr().err


def test_a_wrong_gate_costs_no_time(runs, tmp_path, capsys):
    gate = tmp_path / 'gate.yaml'
    gate.write_text('schema: 1\nrules: [{metric: semantic/mIoU, max_drop: 0}]')

    code, _ = command(runs / 'was', runs / 'was', tmp_path / 'out', '--gate', gate)

    assert code == 2
    assert "did you mean 'semantic/miou'" in capsys.readouterr().err


def test_frames_that_changed_most_are_worse_first_and_no_neighbours(sides):
    changed = most_changed(Pair(sides['was'], sides['worse']))

    grew = [item.second.badness - item.first.badness for item in changed['detection']]
    assert grew[:6] == sorted(grew[:6], reverse=True)
    assert grew[0] > 3
    places = [int(item.key[-9:]) for item in changed['detection'][:6]]
    assert np.diff(sorted(places)).min() > 0
