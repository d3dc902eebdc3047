# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What tasks give each other, from made-up results with known transfers."""

import json
import random

import numpy as np
import pytest
from scipy import stats

pytest.importorskip('torch', reason='training extras are not installed')
pytest.importorskip('timm', reason='training extras are not installed')

from made_study import finish, write_study

from training.study.cells import plan
from training.study.config import load_study
from training.study.pages import sections
from training.study.report import make_report, write_study_report
from training.study.transfer import NONE, UNFINISHED, less_one, spearman

TASKS = ('semantic', 'detection', 'depth', 'weather')
FIGURES = {'semantic': 'miou', 'detection': 'AP50', 'depth': 'abs_error', 'weather': 'accuracy'}
BASE = {'semantic': 0.40, 'detection': 0.22, 'depth': 2.4, 'weather': 0.6}
GIVES = {
    ('semantic', 'detection'): 0.15, ('semantic', 'depth'): 0.08, ('detection', 'semantic'): -0.12,
    ('depth', 'semantic'): 0.10, ('weather', 'detection'): -0.06,
}  # fmt: skip
"""Relative gain of the second task from having the first; of all other pairs none."""

SETS = {'all': list(TASKS), 'first': list(TASKS[:3]), 'x': ['weather', 'depth', 'semantic'],
        'y': ['detection', 'depth', 'weather'], 'z': ['weather', 'semantic', 'detection'],
        'pair': ['depth', 'weather']}  # fmt: skip
AXES = {'trunks': ['pvt_v2_b0'], 'sharing': ['hard'], 'balancing': ['equal'], 'exclude': None,
        'reference': None, 'tasks': SETS, 'seeds': [0, 1, 2, 3, 4]}  # fmt: skip


def value(task, others, noise):
    gain = sum(GIVES.get((other, task), 0.0) for other in others) + noise.gauss(0, 0.01)
    return BASE[task] * (1 - gain if task == 'depth' else 1 + gain)


def affinity(tasks, noise):
    """Look-ahead says what the transfer is; the cosine says nothing."""
    ahead = [[1e-3 * GIVES.get((a, b), 0.0) + noise.gauss(0, 2e-6) for b in tasks] for a in tasks]
    # Of the pairs with and without transfer alike, in the same way in every seed.
    cosine = [[0.1 * ((3 * i + 3 * j + i * j) % 5) for j in range(4)] for i in range(4)]
    return [{'step': 0, 'tasks': list(tasks), 'cosine': cosine, 'lookahead': ahead}]


@pytest.fixture(scope='module')
def study(tmp_path_factory):
    study = load_study(write_study(tmp_path_factory.mktemp('made'), **AXES))
    noise = random.Random(1)
    for cell in plan(study):
        tasks = cell.model.task_names
        figures = {
            task: {FIGURES[task]: value(task, [x for x in tasks if x != task], noise)}
            for task in tasks
        }
        finish(cell, figures, affinity(tasks, noise) if cell.model.tasks == 'all' else None)
    return study


@pytest.fixture(scope='module')
def report(study):
    return make_report(study)


def test_sets_are_told_by_their_members_not_their_names():
    assert less_one(SETS) == {
        'all': {'semantic': 'y', 'detection': 'x', 'depth': 'z', 'weather': 'first'},
        'x': {'semantic': 'pair'},
        'y': {'detection': 'pair'},
    }
    assert less_one({'a': ['semantic', 'depth'], 'b': ['detection', 'weather']}) == {}


def test_known_transfers_are_found(report):
    rows = {row['tasks']: row for row in report['leave_one_out']['matrices']}
    assert set(rows) == {'all', 'x', 'y'} and rows['all']['missing'] == []
    found = {(x['from'], x['to']): x for x in rows['all']['transfers']}
    assert len(found) == 12
    # Relative to the runs without the task, which have the gains of the other ones.
    for (source, task), x in found.items():
        others = sum(GIVES.get((other, task), 0.0) for other in TASKS if other != source)
        expected = GIVES.get((source, task), 0.0) / (1 - others if task == 'depth' else 1 + others)
        assert x['gain'] == pytest.approx(expected, abs=0.02)
        assert x['test'] == 'paired t' and x['n'] == [5, 5]
    assert set(GIVES) <= {pair for pair, x in found.items() if x['clear']}
    assert sum(x['clear'] for x in found.values()) <= len(GIVES) + 2
    singles = {x['to']: x['gain'] for x in rows['all']['singles']}
    assert singles['detection'] == pytest.approx(0.09, abs=0.02)


def test_the_affinity_that_foretells_the_transfer_is_told_from_the_one_that_does_not(report):
    (row,) = (row for row in report['leave_one_out']['matrices'] if row['tasks'] == 'all')
    ahead, cosine = row['predictions']['lookahead'], row['predictions']['cosine']
    assert ahead['pairs'] == cosine['pairs'] == 12 and ahead['seeds'] == [0, 1, 2, 3, 4]
    assert ahead['correlation'] > 0.6 and ahead['low'] > 0.2
    assert cosine['low'] < 0 < cosine['high'] and abs(cosine['correlation']) < 0.5
    others = [row for row in report['leave_one_out']['matrices'] if row['tasks'] != 'all']
    assert all(set(row['predictions'].values()) == {None} for row in others)  # nothing was logged


def test_rank_correlation_is_scipys_with_ties():
    generator = np.random.default_rng(0)
    first, second = generator.integers(0, 5, (2, 20, 9)).astype(float)
    expected = [stats.spearmanr(a, b).statistic for a, b in zip(first, second, strict=True)]
    assert spearman(first, second) == pytest.approx(expected)
    assert np.isnan(spearman(np.ones((1, 4)), np.arange(4.0)[None])).all()


def test_the_page_has_the_answers_first_then_the_matrix_with_intervals(report):
    parts = list(sections(report))
    titles = [part.title for part in parts]
    assert titles[0] == 'Answers'
    assert titles.index('What tasks give each other (exploratory)') < titles.index(
        'Results (exploratory)'
    )
    text = next(part.html for part in parts if part.title.startswith('What tasks give'))
    assert 'from semantic' in text and 'to detection AP50' in text and 'single-task to all' in text
    assert 'semantic to detection (+' in text and 'Rank correlation' in text
    assert len(report['answers']) == 2  # no set that leaves a task out is asked
    assert {answer['question'][:9] for answer in report['answers']} == {'RQ1, all:', 'RQ2, all:'}


def test_a_report_alone_gives_the_same_matrix_and_correlation(study, report):
    page = write_study_report(study)
    earlier = page.parent / 'report.json'
    assert (page.parent / 'plots' / 'transfer_pvt_v2_b0.scratch.all.hard.equal.png').is_file()
    write_study_report(study, earlier)
    again = json.loads(earlier.read_text())
    assert again['leave_one_out'] == json.loads(json.dumps(report['leave_one_out']))
    assert earlier.stat().st_size < 250_000


def test_half_a_study_says_what_is_missing(tmp_path):
    study = load_study(write_study(tmp_path, **AXES))
    assert UNFINISHED in ''.join(part.html for part in sections(make_report(study)))
    for cell in plan(study):
        model = cell.model
        if cell.seed < 2 and (model.single or model.tasks in ('all', 'first')):
            same = 0.5 + 0.01 * cell.seed
            finish(cell, {task: {FIGURES[task]: same} for task in model.task_names})
    report = make_report(study)
    (row,) = report['leave_one_out']['matrices']
    assert row['missing'] == ['semantic', 'detection', 'depth']
    assert {x['from'] for x in row['transfers']} == {'weather'}
    page = ''.join(part.html for part in sections(report))
    assert 'Not run yet: the set without semantic, without detection, without depth.' in page
    assert 'no transfer is shown' in page and 'not logged' in page


def test_without_such_sets_one_sentence_takes_the_place(tmp_path):
    tasks = {'all': ['semantic', 'depth', 'weather']}
    report = make_report(load_study(write_study(tmp_path, **{**AXES, 'tasks': tasks})))
    assert report['leave_one_out'] == {'planned': [], 'matrices': []}
    (part,) = (part for part in sections(report) if part.title.startswith('What tasks give'))
    assert part.html.unescape().strip() == f'<p class="dim">{NONE}</p>'
