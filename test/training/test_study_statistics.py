# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Statistics of studies: intervals cover what they say, stated effects are found, plans kept."""

import json
import math
from statistics import stdev

import numpy as np
import pytest

pytest.importorskip('torch', reason='training extras are not installed')
pytest.importorskip('timm', reason='training extras are not installed')

from made_study import finish, write_study

from training.study.__main__ import main
from training.study.cells import plan
from training.study.comparisons import RECORD, remember
from training.study.config import StudyError, load_study
from training.study.gains import gain_over
from training.study.report import make_report, write_study_report
from training.study.significance import power, seeds_for, t_quantile, two_sided
from training.study.simulation import coverage, found_share

DRAWS = 10_000
ERROR = 4 * math.sqrt(0.05 * 0.95 / DRAWS)
"""Four standard errors of a share near 0.95."""


@pytest.mark.parametrize('seeds', [3, 5])
@pytest.mark.parametrize('of_seed', [0.0, 0.5])
def test_paired_intervals_hold_the_true_delta_mtl_in_95_percent(seeds, of_seed):
    generator = np.random.default_rng(1)
    found = coverage(generator, 'paired', seeds, 0.05, of_seed, DRAWS)
    assert found == pytest.approx(0.95, abs=ERROR)


@pytest.mark.parametrize('seeds', [3, 5])
@pytest.mark.parametrize('test', ['welch', 'welch joint'])
def test_welch_intervals_hold_it_too_and_are_a_little_wide_with_three_seeds(seeds, test):
    found = coverage(np.random.default_rng(2), test, seeds, 0.05, 0.0, DRAWS)
    assert 0.95 - ERROR < found < (0.98 if seeds == 3 else 0.97)


def test_intervals_that_take_the_single_task_runs_as_exact_do_not():
    """What this project reported before: the simulation tells it from a right procedure."""
    found = coverage(np.random.default_rng(3), 'theirs taken as exact', 5, 0.05, 0.0, DRAWS)
    assert found < 0.90


@pytest.mark.parametrize('level', [0.05, 0.05 / 4])
def test_a_stated_effect_is_found_with_the_stated_power(level):
    effect, deviation = 0.03, 0.02
    seeds = seeds_for(effect, deviation, level, 0.8)
    stated = power(effect, deviation / math.sqrt(seeds), seeds - 1, level)
    fewer = power(effect, deviation / math.sqrt(seeds - 1), seeds - 2, level)
    assert fewer < 0.8 <= stated
    found = found_share(np.random.default_rng(4), effect, deviation, seeds, level, DRAWS)
    assert found == pytest.approx(stated, abs=0.03)
    without = found_share(np.random.default_rng(5), 0.0, deviation, seeds, level, DRAWS)
    assert without == pytest.approx(level, abs=ERROR)


def test_the_power_is_that_of_the_tables():
    """Cohen 1988, table 2.3.5 and G*Power: paired, d = 0.5 needs 34 pairs for 80 %; d = 0.8, 15."""
    assert seeds_for(0.5, 1.0, 0.05, 0.8) == 34 and seeds_for(0.8, 1.0, 0.05, 0.8) == 15
    assert seeds_for(0.01, 1.0, 0.05, 0.8) is None


def test_the_interval_of_one_task_against_exact_baselines_is_students():
    ours = {'a': {0: 1.1, 1: 1.2, 2: 1.6}}
    found = gain_over(ours, {'a': {0: 1.0, 1: 1.0, 2: 1.0}}, {'a': 1}, False)
    half = t_quantile(0.975, 2) * stdev([1.1, 1.2, 1.6]) / math.sqrt(3)
    assert found['mean'] == pytest.approx(0.3) and found['test'] == 'paired t'
    assert (found['low'], found['high']) == pytest.approx((0.3 - half, 0.3 + half))
    assert found['values'] == pytest.approx([0.1, 0.2, 0.6])


def test_other_seeds_add_the_variances_of_both_sides():
    """Worked out by hand: ours 2, 4 (mean 3), theirs 1, 2, 3 (mean 2), as an error."""
    found = gain_over({'a': {0: 2.0, 1: 4.0}}, {'a': {5: 1.0, 6: 2.0, 7: 3.0}}, {'a': -1}, False)
    parts = (2 / 4) / 2, (1 * (3 / 4) ** 2) / 3
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 1 + parts[1] ** 2 / 2)
    assert found['test'] == 'Welch t' and found['mean'] == pytest.approx(-0.5)
    assert found['error'] == pytest.approx(math.sqrt(sum(parts)))
    assert found['freedom'] == pytest.approx(freedom)
    assert found['p'] == pytest.approx(two_sided(0.5 / math.sqrt(sum(parts)), freedom))


def test_one_seed_has_no_interval_and_no_runs_no_delta():
    found = gain_over({'a': {0: 1.1}}, {'a': {0: 1.0}}, {'a': 1}, False)
    assert found['mean'] == pytest.approx(0.1) and found['low'] is found['p'] is None
    assert gain_over({'a': {0: 1.1}}, {'a': {}}, {'a': 1}, False) is None


PRIMARY = {
    'effect_percent': 3,
    'deviation_percent': 2,
    'comparisons': [{'against': 'single'}, {'balancing': 'UW', 'against': {'balancing': 'equal'}}],
}
AXES = {
    'trunks': ['pvt_v2_b0'], 'sharing': ['hard'], 'balancing': ['equal', 'UW'], 'exclude': None,
    'reference': None, 'tasks': {'all': ['semantic', 'depth']},
}  # fmt: skip


def primary_study(folder, seeds=9, spread=0.01, effect=0.10, record=True, **changes):
    """Finished cells in which sharing brings `effect` and UW nothing more."""
    study = load_study(
        write_study(folder, **AXES, seeds=[*range(seeds)], primary=PRIMARY | changes)
    )
    cells = plan(study)
    if record:
        remember(study, cells)
    noise = np.random.default_rng(0)
    for cell in cells:
        share = 0.4 * (1 + spread * noise.standard_normal() + effect * (not cell.model.single))
        error = 2.0 * (1 + spread * noise.standard_normal() - effect * (not cell.model.single))
        values = {'semantic': {'miou': share}, 'depth': {'abs_error': error}}
        finish(cell, {task: values[task] for task in cell.model.task_names})
    return study


def test_primary_comparisons_alone_get_a_verdict(tmp_path):
    report = make_report(primary_study(tmp_path))
    against_single, against_equal = report['primary']['comparisons']
    assert against_single['verdict'] == 'better' and against_single['power'] > 0.8
    assert against_single['p_holm'] == pytest.approx(2 * against_single['delta']['p'])
    assert against_single['delta']['low'] < 0.1 < against_single['delta']['high']
    assert against_equal['verdict'] == 'not shown'
    assert report['answers'][0]['primary'] == [against_single['words']]
    assert report['primary']['in_time'] and report['primary']['estimate']['warning'] == ''


def test_where_power_is_low_there_is_an_interval_and_no_verdict(tmp_path):
    study = primary_study(tmp_path, seeds=3, spread=0.08)
    row = make_report(study)['primary']['comparisons'][0]
    assert row['verdict'] == 'no verdict' and row['power'] < 0.8
    assert 'no verdict, the power for 3 % is' in row['words'] and '[' in row['words']


def test_fewer_seeds_than_the_estimate_are_a_warning_that_the_report_repeats(tmp_path, capsys):
    study = primary_study(tmp_path, seeds=3)
    assert main(['run', str(tmp_path / 'study.yaml'), '--dry-run']) == 0
    printed = capsys.readouterr().out
    assert '7 seeds are needed (deviation 2 %, stated; 2 primary comparisons, Holm)' in printed
    assert 'warning: 3 seeds planned, 7 needed' in printed
    assert 'Warning: 3 seeds planned, 7 needed' in write_study_report(study).read_text()


def test_comparisons_that_were_named_after_the_run_are_exploratory(tmp_path):
    study = primary_study(tmp_path, record=False)
    remember(study, plan(study))
    assert not (study.output / RECORD).exists()
    report = make_report(study)
    assert not report['primary']['in_time']
    assert 'named or changed after the first run' in report['primary']['notices'][-1]
    assert '>exploratory<' in write_study_report(study).read_text()


def test_comparisons_that_were_changed_after_the_first_run_are_exploratory(tmp_path):
    primary_study(tmp_path)
    changed = write_study(
        tmp_path, **AXES, seeds=[*range(9)], primary=PRIMARY | {'effect_percent': 9}
    )
    assert not make_report(load_study(changed))['primary']['in_time']


def test_a_report_alone_gives_the_same_report(tmp_path):
    study = primary_study(tmp_path)
    path = write_study_report(study).with_name('report.json')
    before = json.loads(path.read_text())
    assert main(['report', str(tmp_path / 'study.yaml'), '--recompute', str(path)]) == 0
    assert json.loads(path.read_text()) == before
    other = write_study(tmp_path, **AXES, name='another')
    with pytest.raises(StudyError, match=r"expected the report\.json of study 'another'"):
        write_study_report(load_study(other), path)


def test_a_pilot_gives_the_deviation(tmp_path):
    report = write_study_report(primary_study(tmp_path)).with_name('report.json')
    rows = [x['delta'] for x in json.loads(report.read_text())['combinations'] if x.get('delta')]
    primary = {key: value for key, value in PRIMARY.items() if key != 'deviation_percent'}
    path = write_study(tmp_path, **AXES, primary=primary | {'pilot': 'study/report/report.json'})
    expected = math.sqrt(np.mean([row['deviation'] ** 2 for row in rows]))
    assert load_study(path).primary.deviation == pytest.approx(expected)


def test_partial_and_full_delta_mtl_and_pretrainings_have_axes_of_their_own(tmp_path):
    tasks = {'all': ['semantic', 'depth'], 'boxes': ['semantic', 'detection']}
    changes = AXES | {'tasks': tasks, 'pretraining': {'scratch': {}, 'scenes': {}}}
    study = load_study(write_study(tmp_path, **changes))
    for cell in plan(study):
        values = {
            'semantic': {'miou': 0.4 + 0.01 * cell.seed}, 'depth': {'abs_error': 2.0 + cell.seed},
            'detection': {'AP50': 0.001 if cell.model.pretraining == 'scratch' else 0.3},
        }  # fmt: skip
        finish(cell, {task: values[task] for task in cell.model.task_names})
    report = make_report(study)
    assert {axis['name'] for axis in report['deltas']} == {
        'all.scratch', 'boxes.scratch.without_detection', 'all.scenes', 'boxes.scenes',
    }  # fmt: skip
    best = next(x['best'] for x in report['answers'] if x['question'].startswith('RQ1, boxes'))
    assert 'combinations with scratch the largest' in best
    assert 'combinations with scenes the largest' in best


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'comparisons': []}, 'comparisons: expected a list of at least one'),
        ({'comparisons': [{'balancing': 'UV', 'against': 'single'}]}, "'UV', expected one of"),
        ({'comparisons': [{}]}, "missing .'against'"),
        ({'comparisons': [{'against': 'other'}]}, 'expected single, or the labels'),
        ({'comparisons': [{'against': {'tasks': 'all'}}]}, "unknown key 'tasks'"),
        ({'comparisons': [{'against': {'balancing': 'equal'}}]}, 'are the same combination'),
        ({'effect_percent': 0}, 'expected a number above 0'),
        ({'effect': 3}, "unknown key 'effect'"),
        ({'pilot': 'report.json'}, 'expected deviation_percent or pilot, one of both'),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused(tmp_path, changes, said):
    path = write_study(tmp_path, **AXES, primary=PRIMARY | changes)
    with pytest.raises(StudyError, match=said):
        load_study(path)


def test_a_pilot_that_is_none_and_an_excluded_combination_are_refused(tmp_path):
    primary = {'effect_percent': 3, 'pilot': 'gone.json', 'comparisons': [{'against': 'single'}]}
    with pytest.raises(StudyError, match=r'gone\.json: pilot: expected the report.json'):
        load_study(write_study(tmp_path, **AXES, primary=primary))
    excluded = AXES | {'exclude': [{'balancing': ['UW']}], 'primary': PRIMARY}
    with pytest.raises(StudyError, match='the study leaves'):
        load_study(write_study(tmp_path, **excluded))
