# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Search for hyperparameters: its file, resuming, pruning, and the configuration it ends with."""

import json

import pytest

torch = pytest.importorskip('torch', reason='training extras are not installed')
optuna = pytest.importorskip('optuna', reason='training extras are not installed')

from made_study import write_study  # noqa: E402

from training.config import load_config  # noqa: E402
from training.study import search as module  # noqa: E402
from training.study.config import StudyError, load_study  # noqa: E402
from training.study.search import search, searched_cell  # noqa: E402
from training.train import NonFiniteLossError  # noqa: E402

SPACE = {
    'trials': 8,
    'balancing': 'UW',
    'parameters': {
        'optimizer.lr': {'low': 1e-4, 'high': 1e-1, 'log': True},
        'loss_weights.semantic': {'low': 0.5, 'high': 2.0},
        'optimizer.warmup_steps': {'low': 1, 'high': 5},
        'balancing.log_variance': {'choices': [-0.5, 0.0]},
    },
}


def study_of(folder, **changes):
    return load_study(write_study(folder, search={**SPACE, **changes}))


@pytest.fixture
def runs(monkeypatch):
    """No training: a score with its best at lr 0.01, reported twice; the configurations seen."""
    seen = []

    def train(config, validated):
        seen.append(config)
        if config.optimizer.lr > 0.05:
            raise NonFiniteLossError('step 1')
        score = 1 - abs(torch.tensor(config.optimizer.lr).log10().item() + 2) / 3
        validated(1, score / 2)
        validated(2, score)

    monkeypatch.setattr(module, 'train', train)
    return seen


def result(study):
    return json.loads((study.output / 'search/search.json').read_text())


def test_the_best_trial_is_written_as_a_configuration(tmp_path, runs):
    study = study_of(tmp_path)
    assert search(study) == 0
    found = result(study)
    completed = [trial for trial in found['trials'] if trial['state'] == 'complete']
    best = max(completed, key=lambda trial: trial['score'])
    assert found['best'] == best['number']
    config = load_config(study.output / 'search/best.yaml')
    assert config.optimizer.lr == best['values']['optimizer.lr']
    assert config.loss_weights == {'semantic': best['values']['loss_weights.semantic']}
    assert config.balancing['method'] == 'UW'
    assert config.balancing['log_variance'] == best['values']['balancing.log_variance']
    assert config.seed == 0 and config.tasks == ['semantic', 'detection', 'depth', 'weather']
    names = {path.stem for path in (study.output / 'search/plots').iterdir()}
    assert names == set(module.PLOTS)
    assert len({config.output for config in runs}) == len(runs)


def test_a_search_goes_on_where_it_was_killed(tmp_path, runs, monkeypatch):
    study = study_of(tmp_path, pruner='none')
    train = module.train

    def killed(config, validated):
        if len(runs) == 3:
            raise KeyboardInterrupt
        train(config, validated)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, 'train', killed)
        search(study)
    assert search(study) == 0
    assert len(runs) == 8
    states = [trial['state'] for trial in result(study)['trials']]
    assert states.count('complete') + states.count('pruned') == 8 and len(states) == 9
    assert search(study, 8) == 0 and len(runs) == 8


def test_a_resumed_search_draws_anew_and_knows_its_trials(tmp_path, runs):
    search(study_of(tmp_path), 3)
    study = study_of(tmp_path)
    search(study, 6)

    values = [tuple(trial['values'].items()) for trial in result(study)['trials']]
    assert len(set(values)) == 6
    changed = {'parameters': {'optimizer.lr': {'low': 0.1, 'high': 0.2}}}
    with pytest.raises(StudyError, match='says something else now than when its 6 trials'):
        search(study_of(tmp_path, **changed), 7)


def test_a_trial_that_falls_behind_is_pruned(tmp_path, runs, monkeypatch):
    scores = iter([0.9] * 5 + [0.1] * 3)
    steps = []

    def train(config, validated):
        score = next(scores)
        for step in (1, 2):
            steps.append(step)
            validated(step, score)

    monkeypatch.setattr(module, 'train', train)
    study = study_of(tmp_path)
    search(study)
    assert [trial['state'] for trial in result(study)['trials']] == ['complete'] * 5 + [
        'pruned'
    ] * 3
    assert steps == [1, 2] * 5 + [1] * 3


def test_trials_that_all_diverge_are_an_error(tmp_path, monkeypatch, capsys):
    def train(config, validated):
        raise NonFiniteLossError('step 0')

    monkeypatch.setattr(module, 'train', train)
    assert search(study_of(tmp_path, trials=2)) == 2
    assert 'no trial of 2 was completed' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'trials': 0}, 'trials is missing'),
        ({'prunner': 'median'}, r"unknown \['prunner'\]"),
        ({'pruner': 'best'}, "pruner 'best'"),
        ({'parameters': {'optimizer.lr': 3}}, r'parameters\.optimizer\.lr: expected'),
        ({'trials': 'many'}, "trials: expected a whole number, found 'many'"),
        ({'parameters': {'optimizer.lr': {'low': 'small', 'high': 1}}}, "found 'small' and 1"),
        ({'balancing': 'DWA'}, "balancing 'DWA', expected one of"),
        ({'sharing': 'mtan'}, 'the study leaves'),
    ],
)
def test_what_cannot_be_searched_is_refused(tmp_path, changes, message):
    with pytest.raises(StudyError, match=message):
        search(study_of(tmp_path, **changes))


def test_the_cell_that_is_searched_is_the_first_unless_named(tmp_path):
    cell = searched_cell(study_of(tmp_path), {})
    assert cell.id == 'pvt_v2_b0.scratch.all.hard.equal.s0'
