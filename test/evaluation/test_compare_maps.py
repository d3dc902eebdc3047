# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Depth and normals compared: figures, units, gate, worst frames and pages, as of other kinds."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mtl_evaluation.compare.comparison import compare, headlines
from mtl_evaluation.compare.gate import GateError, read_gate
from mtl_evaluation.compare.paired import CompareError, Pair, Side
from mtl_evaluation.kinds import figure, new_metrics, of
from mtl_evaluation.report.review import galleries, review
from mtl_evaluation.report.run_report import write_report
from mtl_evaluation.runs.run import FrameRecord, Run, frame_key, merged
from mtl_evaluation.runs.writer import RunWriter
from mtl_evaluation.scores import Scores
from mtl_evaluation.truth.truth import Truth
from mtl_perception.cli import main
from mtl_perception.frame import Result
from mtl_perception.tasks import DEPTH, NORMALS

TASKS = (DEPTH, NORMALS)
FRAMES = 40
SIZE = (32, 24)


def truth_of(index: int) -> Truth:
    """A wall that comes nearer, seen from the front; the upper half is unknown."""
    depth = np.full(SIZE[::-1], 20 - index / 4, np.float32)
    normals = np.zeros((*SIZE[::-1], 3), np.float32)
    normals[..., 2] = -1
    depth[:12], normals[:12] = 0, 0
    return Truth(maps={'depth': depth, 'normals': normals})


def answer_to(truth: Truth, index: int, error: float) -> Result:
    """Depth too large, and normals turned, by more in the right half, where it is worse."""
    chance = np.random.default_rng([index, round(100 * error)])
    factor = 1 + error * chance.uniform(0.5, 1.5, SIZE[::-1])
    factor[:, 16:] += error
    turned = truth.maps['normals'].copy()
    turned[..., 0] = factor - 1
    return Result({'depth': (truth.maps['depth'] * factor).astype(np.float32), 'normals': turned})


def write_run(path, error: float, farther: float = 0.0) -> Run:
    """A run of `FRAMES` frames at 10 Hz."""
    with RunWriter(path, TASKS) as writer:
        for index in range(FRAMES):
            truth = truth_of(index)
            if farther:
                truth.maps['depth'][:12] = farther
            scores = Scores(TASKS)
            key = frame_key('wall', '/camera', index)
            scores.update(key, answer_to(truth, index, error), truth, SIZE)
            writer.add(
                FrameRecord(
                    'wall', '/camera', index, index * 10**8, f'{index}.jpg', SIZE,
                    f'{index:032x}{round(100 * error):032x}', pieces=scores.metrics,
                )
            )  # fmt: skip
        return writer.finish({'model': {'name': f'off by {error}'}})


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Over the same frames: as it was, and worse."""
    folder = tmp_path_factory.mktemp('maps')
    write_run(folder / 'was', 0.1)
    write_run(folder / 'worse', 0.2)
    return folder


def pair(runs) -> Pair:
    return Pair(*(Side(Run.open(runs / name)) for name in ('was', 'worse')))


def test_figures_of_a_table_are_those_of_the_metric(runs):
    run = Run.open(runs / 'was')
    metrics = merged(run.records(), run.tasks)
    for task in TASKS:
        table = of(task).table(task)
        for record in run.records():
            table.add(record.pieces[task.name])
        figures = table.figures(np.ones((1, FRAMES), np.float32))
        result = metrics[task.name].result()
        assert {*figures} == {*of(task).figure_names(task)} <= {*result}
        for name, values in figures.items():
            assert values[0] == pytest.approx(result[name], rel=1e-12), name


def test_a_weight_counts_a_frame_as_often(runs):
    records = list(Run.open(runs / 'was').records())[:4]
    for task in TASKS:
        table, whole = of(task).table(task), of(task).metric(task)
        for record, times in zip(records, (2, 0, 1, 3), strict=True):
            table.add(record.pieces[task.name])
            for _ in range(times):
                whole.merge(record.pieces[task.name])
        figures = table.figures(np.array([[2, 0, 1, 3]], np.float32))
        for name, values in figures.items():
            assert values[0] == pytest.approx(whole.result()[name], rel=1e-12), name


def test_without_a_truth_there_is_no_figure():
    for metric in new_metrics(TASKS).values():
        result = metric.result()
        assert result['frames'] == result['labelled_pixels'] == 0
        figures = {key: value for key, value in result.items() if key in of(metric.task).figures}
        assert figures and {*figures.values()} == {None}


def test_a_worse_run_is_worse_in_all_of_them(runs):
    comparison = compare(pair(runs), block_s=0.2, samples=100)
    found = {item.metric: item for item in comparison.differences}
    assert {'depth/delta1', 'depth/rmse', 'normals/within_30', 'normals/mean_error'} <= {*found}
    for item in found.values():
        if item.difference:
            assert (item.difference > 0) is item.lower_is_better, item.metric
    error = found['depth/abs_error']
    assert error.shown(0.5) == '0.50 m' and found['depth/delta1'].shown(0.5) == '50.00'
    low, high = error.interval()
    assert 0 < low < error.difference < high


def test_headlines_and_changed_frames(runs):
    comparison = compare(pair(runs), block_s=0.2, samples=100)
    assert [item.metric for item in headlines(comparison)] == [
        'depth/delta1', 'depth/abs_error', 'depth/rel_error',
        'normals/within_11_25', 'normals/mean_error',
    ]  # fmt: skip
    assert 'depth within a factor of 1.25' in comparison.verdict.lines[1]
    (first, *_) = comparison.changed['depth']
    assert first.second.badness > first.first.badness
    assert '% within a factor of 1.25, absolute error' in first.second.text


def test_a_gate_speaks_in_metres_and_degrees(runs, tmp_path):
    path = tmp_path / 'gate.yaml'
    path.write_text(
        'schema: 1\nrules:\n'
        '  - {metric: depth/abs_error, max_rise: 0.1}\n'
        '  - {metric: normals/mean_error, max_rise: 30}\n'
    )
    rulings = compare(pair(runs), read_gate(path), block_s=0.2, samples=100).rulings
    assert [ruling.word for ruling in rulings] == ['FAIL', 'PASS']
    assert 'may rise by at most 0.1 m' in str(rulings[0].rule) and ' m (' in rulings[0].why
    path.write_text('schema: 1\nrules:\n  - {metric: depth/abs_error, max_drop: 0.1}\n')
    with pytest.raises(GateError, match='less is better: use max_rise'):
        read_gate(path)


def test_other_truth_is_no_comparison(runs, tmp_path):
    write_run(tmp_path / 'other', 0.1, farther=9.0)
    with pytest.raises(CompareError, match='different labels: depth'):
        Pair(Side(Run.open(runs / 'was')), Side(Run.open(tmp_path / 'other')))


def test_pages_show_them(runs):
    run = Run.open(runs / 'worse')
    reviews = review(run)
    assert {*galleries(run, reviews)} == {'depth', 'normals'}
    page = write_report(run).read_text()
    assert 'fewest pixels within a factor of 1.25' in page and '1 - share within' in page
    command = ['compare', str(runs / 'was'), str(runs / 'worse'), '--samples', '100']
    assert main([*command, '--block-s', '0.2', '--no-pictures']) == 0
    folder = runs / 'worse/against_was'
    assert 'absolute error' in (folder / 'compare.html').read_text()
    listed = json.loads((folder / 'compare.json').read_text())['differences']
    assert 'depth/abs_error' in [item['metric'] for item in listed]


def test_panels_show_what_is_far_off():
    truth = truth_of(0)
    answer = answer_to(truth, 0, 0.2)
    picture = np.full((*SIZE[::-1], 3), 90, np.uint8)
    for task in TASKS:
        known = of(task).truth(truth, task)
        panels = list(of(task).panels(picture, answer.answers[task.name], known, task))
        assert [panel.title for panel in panels[:2]] == ['predicted', 'truth']
        assert panels[2].title.startswith('not within')
        red = panels[2].image[..., 0] > 150
        assert red[12:, 16:].any() and not red[:12].any()


def test_units_are_those_of_the_figures():
    assert figure('abs_error').shown(1.5) == '1.50 m' and figure('mean_error').unit == '°'
    assert figure('iou/road').title == 'IoU' and figure('iou/road').points(0.5) == '50.00 points'
