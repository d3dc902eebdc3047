# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The report of a study: statistics against known values, and pages of made-up cells."""

import json
import math

import pytest

torch = pytest.importorskip('torch', reason='training extras are not installed')
pytest.importorskip('timm', reason='training extras are not installed')

from made_study import finish, made_study, write_study  # noqa: E402

from training.study.__main__ import main  # noqa: E402
from training.study.analysis import mean_matrix, paired_ratio  # noqa: E402
from training.study.cells import plan  # noqa: E402
from training.study.config import load_study  # noqa: E402
from training.study.pages import sections  # noqa: E402
from training.study.plots import pareto_front  # noqa: E402
from training.study.records import task_figures  # noqa: E402
from training.study.report import make_report, write_study_report  # noqa: E402
from training.study.significance import (  # noqa: E402
    compare,
    estimate,
    gain,
    holm,
    t_quantile,
    two_sided,
)


def test_students_t_is_that_of_the_tables():
    for freedom, value in ((1, 12.7062047), (2, 4.30265273), (9, 2.26215716), (120, 1.97993041)):
        assert t_quantile(0.975, freedom) == pytest.approx(value, rel=1e-7)
    assert two_sided(2.0, 5) == pytest.approx(0.10193948, rel=1e-6)
    assert two_sided(0.0, 3) == pytest.approx(1.0) and two_sided(-2.0, 5) == two_sided(2.0, 5)


def test_the_interval_of_a_mean():
    found = estimate([1.0, 2.0, 3.0])
    half = 4.30265273 / math.sqrt(3)
    assert (found.mean, found.n) == (2.0, 3)
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half))
    assert estimate([1.0]).low is None


def test_seeds_in_common_make_pairs():
    found = compare({0: 1.0, 1: 2.0, 2: 3.0}, {2: 3.5, 0: 1.1, 1: 2.3})
    assert found.test == 'paired t' and found.difference == pytest.approx(0.3)
    assert found.effect == pytest.approx(1.5)
    assert found.p == pytest.approx(two_sided(1.5 * math.sqrt(3), 2))


def test_other_seeds_are_tested_by_welch():
    """Two samples whose t and degrees of freedom are worked out by hand."""
    found = compare({0: 1.0, 1: 3.0}, {5: 4.0, 6: 6.0, 7: 8.0})
    spread, freedom = 1 + 4 / 3, (1 + 4 / 3) ** 2 / (1 / 1 + (4 / 3) ** 2 / 2)
    assert found.test == 'Welch t'
    assert found.p == pytest.approx(two_sided(4 / math.sqrt(spread), freedom))


@pytest.mark.parametrize('after', [{0: 2.0}, {0: 2.0, 1: 3.0}])
def test_without_spread_or_with_one_seed_there_is_no_test(after):
    before = {seed: value - 1 for seed, value in after.items()}
    found = compare(before, after)
    assert found.p is None and found.difference == 1.0


def test_holm_steps_down():
    assert holm([0.01, None, 0.04, 0.03]) == [pytest.approx(0.03), None, 0.06, 0.06]
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_gains_count_errors_with_the_other_sign():
    gains = [gain(0.44, 0.40, False), gain(0.55, 0.50, True)]
    assert gains == pytest.approx([0.1, -0.1])
    assert gain(0.1, 0.0, False) is None
    assert gain(0.04, 0.0199, False) is None and gain(0.5, 0.0, True) is None
    assert gain(0.04, 0.02, False) == pytest.approx(1) and gain(1e-3, 2e-3, True) == 0.5


def test_figures_are_means_over_data_sets_and_coarse_classes_count_for_their_task():
    results = {
        'a': {'semantic': {'miou': 0.4}, 'coarse7': {'miou': 0.8}, 'drivable': {'miou': 0.9}},
        'b': {'coarse7': {'miou': 0.6}, 'depth': {'abs_error': 2.0, 'delta1': None}},
    }
    assert task_figures(results, ['semantic', 'depth']) == {
        'semantic': {'miou': 0.4, 'coarse7_miou': pytest.approx(0.7)},
        'depth': {'abs_error': 2.0},
    }


def test_no_point_of_the_front_is_beaten():
    points = [{'x': x, 'y': y} for x, y in ((1, 0.1), (2, 0.05), (3, 0.3), (3, 0.2), (4, 0.3))]
    assert [(p['x'], p['y']) for p in pareto_front(points)] == [(1, 0.1), (3, 0.3)]


def test_ratios_of_time_are_of_the_same_frames():
    measured = {'a': {'frame_ms': [1, 10, 2]}, 'b': {'frame_ms': [2, 20, 4]}}
    assert paired_ratio(measured, ['a'], ['a', 'b']) == pytest.approx(1 / 3)


def test_tasks_that_never_met_have_no_affinity():
    lines = [{'step': 0, 'tasks': ['a', 'b'], 'cosine': [[1, 0.5], [0.5, 1]]}]
    lines += [{'step': 1, 'tasks': ['b', 'c'], 'cosine': [[1, -0.5], [-0.5, 1]]}]
    assert mean_matrix(lines, 'cosine', 'abc') == [[1, 0.5, None], [0.5, 1, -0.5], [None, -0.5, 1]]


@pytest.fixture(scope='module')
def study(tmp_path_factory):
    return load_study(made_study(tmp_path_factory.mktemp('made')))


@pytest.fixture(scope='module')
def report(study):
    return make_report(study)


def row(report, **wanted):
    (found,) = [
        each
        for each in report['combinations']
        if all(each[key] == value for key, value in wanted.items())
    ]
    return found


def test_delta_mtl_of_a_combination_is_the_mean_gain_over_its_single_tasks(report):
    ours = row(report, trunk='pvt_v2_b0', sharing='hard', balancing='PCGrad')
    gains = []
    for task, figure, sign in (
        ('semantic', 'miou', 1), ('detection', 'AP50', 1), ('depth', 'abs_error', -1),
        ('weather', 'accuracy', 1),
    ):  # fmt: skip
        before = row(report, trunk='pvt_v2_b0', tasks=task, single=True)['figures'][task][figure]
        after = ours['figures'][task][figure]
        gains.append(sign * (after['mean'] / before['mean'] - 1))
    assert ours['delta']['mean'] == pytest.approx(sum(gains) / 4)
    assert ours['delta']['n'] == 3 and ours['delta']['low'] < ours['delta']['mean']
    other = row(report, trunk='regnet_bifpn', sharing='hard', balancing='PCGrad')
    assert other['delta_main'] != other['delta'] and ours['delta_main'] == ours['delta']


def test_every_data_set_has_its_own_figures(report):
    ours = row(report, trunk='pvt_v2_b0', sharing='hard', balancing='PCGrad')
    for task, figures in ours['figures'].items():
        for figure, found in figures.items():
            assert ours['sources'][f'made/{task}/{figure}'] == found, 'there is one data set only'
    assert row(report, tasks='depth', trunk='pvt_v2_b0', single=True)['sources'].keys() == {
        'made/depth/abs_error', 'made/depth/rel_error', 'made/depth/delta1',
    }  # fmt: skip


def test_the_hurt_task_is_named_with_its_interval_and_marked_exploratory(report):
    lines = {(x['trunk'], x['name'], x['task']): x for x in report['transfer']}
    hurt = lines['pvt_v2_b0', 'all, hard, FAMO', 'detection']
    assert hurt['gain_low'] < hurt['gain'] < hurt['gain_high'] < 0 and hurt['effect'] < 0
    assert hurt['clear'] and hurt['p'] < 0.05 and hurt['worse_seeds'] == 3
    untested = lines['pvt_v2_b0', 'all, mtan, equal', 'detection']
    assert untested['p'] is None and not untested['clear']
    assert all(x['better'] for x in report['transfer'] if x['task'] == 'depth')
    assert not any('p_holm' in x for x in report['transfer'])


def test_the_questions_are_answered_plainly(report):
    first, second = report['answers']
    assert first['question'].startswith('RQ1')
    assert first['answer'].startswith('No primary comparison asks this. Task by task, exploratory')
    assert 'An interval leaves zero out on' in first['answer']
    assert 'detection AP50 (worse)' in first['answer'] and '0.31 of the param' in first['answer']
    assert 'detection AP ' not in first['answer']  # one figure per task; the rest is in the table
    assert 'Picked after measuring' in first['best']
    verdicts = {line['metric']: line['verdict'] for line in first['lines']}
    assert verdicts['detection AP'] == 'worse' and verdicts['inference time'] == 'better'
    assert 'regnet_bifpn' in second['theirs'] and 'Task by task, expl' in second['answer']
    assert first['primary'] == second['primary'] == []
    assert 'no primary comparison is named' in report['primary']['notices'][0]


def test_cells_that_failed_or_are_missing_are_named(study, report):
    assert [each['error'] for each in report['cells']['failed']] == [
        'exit code 1: error: out of luck'
    ]
    assert len(report['cells']['missing']) == 1
    assert report['cells']['finished'] == report['cells']['planned'] - 2


def test_a_report_made_twice_is_the_same(study):
    page = write_study_report(study)
    folder, text = page.parent, page.read_text()
    assert 'out of luck' in text and '1 not run yet' in text
    first = {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()}
    write_study_report(study)
    assert {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()} == first
    assert {path.suffix for path in first} == {'.json', '.html', '.png', '.svg'}
    assert sum(len(content) for content in first.values()) < 1.5e6


def test_what_was_not_measured_is_said(tmp_path):
    path = write_study(tmp_path, reference=None, tasks={'all': ['semantic', 'depth']})
    study = load_study(path)
    report = make_report(study)
    assert [each['answer'][:13] for each in report['answers']] == ['Not measured:'] * 2
    for cell in plan(study)[:11]:
        figures = {'semantic': {'miou': 0.0}, 'depth': {'abs_error': 1.0 + cell.seed}}
        finish(cell, {task: figures[task] for task in cell.model.task_names})
    first, second = make_report(study)['answers']
    assert 'Not measured: accuracy, AP, parameters' in first['answer']
    assert 'names no reference' in second['answer']
    assert 'Not measured' in ''.join(section.html for section in sections(make_report(study)))


def test_a_baseline_that_does_not_work_makes_no_gain_and_leaves_delta_mtl_named(tmp_path):
    """AP50 of 0.0005 against 0.0505: no gain of 10,000 % in any figure."""
    axes = {'trunks': ['pvt_v2_b0'], 'sharing': ['hard'], 'balancing': ['equal', 'UW']}
    tasks = {'all': ['semantic', 'detection', 'depth']}
    study = load_study(write_study(tmp_path, reference=None, exclude=None, tasks=tasks, **axes))
    for cell in plan(study):
        noise = 1e-3 * (1 + cell.seed)
        figures = {
            'semantic': {'miou': 0.4 + noise + 0.04 * (not cell.model.single)},
            'detection': {'AP50': 0.0005 if cell.model.single else 0.05 + noise},
            'depth': {'abs_error': 2.0 + noise},
        }
        finish(cell, {task: figures[task] for task in cell.model.task_names})
    report = make_report(study)

    ours = row(report, sharing='hard', balancing='equal')
    reason = {'detection': 'single-task AP50 is 0.0005, too small for a relative gain'}
    assert ours['delta']['without'] == ours['delta_main']['without'] == reason
    assert ours['delta']['mean'] == pytest.approx(0.5 * 0.04 / 0.402)
    line = next(x for x in report['transfer'] if x['task'] == 'detection')
    assert line['gain'] is None and line['difference'] == pytest.approx(0.0515)
    assert line['clear'] and line['gain_low'] is None
    answer = report['answers'][0]
    small = 'The other side’s detection AP50 (0.0005; ours 0.052) is too small for a relative gain'
    assert small in answer['answer']
    assert 'undefined over all tasks, and goes without detection: single-task' in answer['best']
    page = ''.join(section.html for section in sections(report))
    assert '(without detection)' in page and '<td>(+5.15*)</td>' in page and '>+5.15 [+4.90' in page
    assert 'undefined over all tasks and goes without detection: single-task AP50' in page
    assert max(x['gain'] or 0 for x in report['transfer']) < 0.2


def test_the_commands(tmp_path, capsys):
    axes = {'sharing': ['hard'], 'balancing': ['equal'], 'exclude': None, 'reference': None}
    path = made_study(tmp_path, trunks=['pvt_v2_b0'], tasks={'all': ['semantic', 'depth']}, **axes)
    assert main(['list', str(path)]) == 0
    assert '9 cells: 9 finished' in capsys.readouterr().out
    assert main(['run', str(path)]) == 0
    assert '0 to do' in capsys.readouterr().out
    assert json.loads((tmp_path / 'study/report/report.json').read_text())['name'] == 'made up'
    path.write_text('name: a\n')
    assert main(['report', str(path)]) == 1
    assert 'missing' in capsys.readouterr().err
