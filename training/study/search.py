# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Search for hyperparameters: `python -m training.study search STUDY.yaml`.

    search:
      trials: 40
      tasks: all                          # labels of the study's axes; by default the first of each
      balancing: UW
      parameters:                         # key of a training configuration -> range or choices
        optimizer.lr: {low: 1.0e-4, high: 3.0e-3, log: true}
        loss_weights.semantic: {low: 0.3, high: 3.0, log: true}
        balancing.lr: {low: 1.0e-4, high: 1.0e-1, log: true}
        balancing.method: {choices: [UW, FAMO]}
      sampler_seed: 0
      pruner: median                      # or hyperband, or none

Each trial is an ordinary run of the cell with the first seed, with other values. Its validations
on `val` are what Optuna (MIT) sees: the score that chooses a run's best weights, so a trial that
falls behind is pruned, and no test split is touched. Everything lies under OUTPUT/search: a journal
that an interrupted search resumes from, the runs, plots, and `best.yaml`, which `training.train`
takes.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import optuna
import optuna.visualization.matplotlib
from matplotlib import pyplot
from matplotlib.axes import Axes
from omegaconf import DictConfig, OmegaConf
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from training.balancing import BalancingError
from training.config import make_config
from training.study.cells import Cell, plan, replace_text
from training.study.config import StudyConfig, StudyError, labels_of
from training.train import NonFiniteLossError, train

matplotlib.use('Agg')
optuna.logging.set_verbosity(optuna.logging.WARNING)

FOLDER, JOURNAL, BEST, RESULT = 'search', 'journal.log', 'best.yaml', 'search.json'
KEYS = ('trials', 'parameters', 'sampler_seed', 'pruner', 'trunk', 'pretraining', 'tasks',
        'sharing', 'balancing')  # fmt: skip
PRUNERS = {
    'median': lambda: optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=0),
    'hyperband': lambda: optuna.pruners.HyperbandPruner(min_resource=1),
    'none': lambda: optuna.pruners.NopPruner(),
}
PLOTS = ('optimization_history', 'slice', 'parallel_coordinate', 'intermediate_values')
"""Functions `plot_...` of optuna.visualization.matplotlib."""


def search(study: StudyConfig, trials: int | None = None) -> int:
    """Run trials up to the wanted number, counting earlier sessions'; writes plots and best.yaml.

    Returns the exit code: 2 when no trial was completed. Raises StudyError, ConfigError.
    """
    settings = checked(study)
    cell = searched_cell(study, settings)
    folder = study.output / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    found = optuna.create_study(
        study_name=study.name,
        direction='maximize',
        storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
        pruner=PRUNERS[settings.get('pruner', 'median')](),
        load_if_exists=True,
    )
    # Of its own for each session, or a resumed search would draw again what it drew first.
    seed = settings.get('sampler_seed', 0) + len(found.trials)
    found.sampler = optuna.samplers.TPESampler(seed=seed)
    _same_search(found, cell, settings['parameters'], folder)
    _end_interrupted(found, folder)
    wanted = trials or settings['trials']
    left = wanted - len(_ended(found))
    parameters = settings['parameters']
    if left > 0:
        found.optimize(lambda trial: objective(trial, cell, parameters, folder), left)
    write_result(found, cell, parameters, folder)
    done = [trial for trial in found.trials if trial.state.name == 'COMPLETE']
    if not done:
        print(f'no trial of {len(found.trials)} was completed; see {folder / RESULT}')
        return 2
    print(f'best of {len(done)} completed trials: {found.best_value:.4f} with {found.best_params}')
    print(f'next: python -m training.train {folder / BEST}')
    return 0


def _same_search(
    found: optuna.Study, cell: Cell, parameters: Mapping[str, Any], folder: Path
) -> None:
    """Raise StudyError when the trials so far are of another cell or other parameters."""
    asked = {'cell': OmegaConf.to_yaml(cell.settings()), 'parameters': dict(parameters)}
    earlier = found.user_attrs.get('asked')
    if earlier is None:
        found.set_user_attr('asked', asked)
    elif earlier != asked:
        raise StudyError(
            f'{folder / JOURNAL}: the study file says something else now than when its '
            f'{len(found.trials)} trials were run; give another output, or delete {folder}'
        )


def checked(study: StudyConfig) -> dict[str, Any]:
    """The `search` part of a study file; raises StudyError."""
    settings = dict(study.search)
    unknown = [key for key in settings if key not in KEYS]
    if unknown:
        raise StudyError(f'search: unknown {unknown}, expected some of {list(KEYS)}')
    for key in ('trials', 'parameters'):
        if not settings.get(key):
            raise StudyError(f'search: {key} is missing; training/study/search.py has an example')
    if settings.get('pruner', 'median') not in PRUNERS:
        raise StudyError(f'search: pruner {settings["pruner"]!r}, expected one of {list(PRUNERS)}')
    for key in ('trials', 'sampler_seed'):
        if not isinstance(settings.get(key, 0), int):
            raise StudyError(f'search: {key}: expected a whole number, found {settings[key]!r}')
    for name, space in settings['parameters'].items():
        if not isinstance(space, Mapping) or not (
            {'low', 'high'} <= {*space} or 'choices' in space
        ):
            raise StudyError(
                f'search: parameters.{name}: expected {{low, high}} (and log) or {{choices}}, '
                f'found {space!r}'
            )
        if 'choices' not in space:
            _check_range(name, space)
    return settings


def _check_range(name: str, space: Mapping[str, Any]) -> None:
    low, high = space['low'], space['high']
    numbers = all(isinstance(value, int | float) for value in (low, high))
    if not numbers or not low < high or (space.get('log') and low <= 0):
        raise StudyError(
            f'search: parameters.{name}: expected numbers low < high, above 0 with log, found '
            f'{low!r} and {high!r}'
        )


def searched_cell(study: StudyConfig, settings: Mapping[str, Any]) -> Cell:
    """The cell that trials vary: the labels named, the first ones of the other axes and seeds."""
    labels = {}
    for axis, known in labels_of(study).items():
        labels[axis] = str(settings.get(axis, known[0]))
        if labels[axis] not in known:
            raise StudyError(f'search: {axis} {labels[axis]!r}, expected one of {known}')
    for cell in plan(study):
        if cell.labels() == labels:
            return cell
    raise StudyError(f'search: the study leaves {labels} out')


def trial_settings(cell: Cell, values: Mapping[str, Any], output: Path, name: str) -> DictConfig:
    """The cell's training configuration with a trial's values."""
    settings = cell.settings()
    for key, value in values.items():
        OmegaConf.update(settings, key, value, force_add=True)
    settings['output'], settings['name'] = str(output), name
    return settings


def suggested(trial: optuna.Trial, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A value for each parameter."""
    values: dict[str, Any] = {}
    for name, space in parameters.items():
        if 'choices' in space:
            values[name] = trial.suggest_categorical(name, list(space['choices']))
        else:
            low, high, log = space['low'], space['high'], bool(space.get('log', False))
            whole = isinstance(low, int) and isinstance(high, int)
            suggest = trial.suggest_int if whole else trial.suggest_float
            values[name] = suggest(name, low, high, log=log)
    return values


def objective(
    trial: optuna.Trial, cell: Cell, parameters: Mapping[str, Any], folder: Path
) -> float:
    """The best validation score of a run with the trial's values; raises TrialPruned."""
    output = folder / 'trials' / f'{trial.number:04d}'
    settings = trial_settings(
        cell, suggested(trial, parameters), output, f'{cell.study.name}/trial {trial.number}'
    )
    scores: list[float] = []

    def validated(step: int, score: float) -> None:
        scores.append(score)
        trial.report(score, step)
        if trial.should_prune():
            raise optuna.TrialPruned(f'score {score:.4f} at step {step}')

    try:
        train(make_config(f'trial {trial.number}', settings), validated)
    except (NonFiniteLossError, BalancingError) as error:
        # A run that diverges tells something about its values.
        raise optuna.TrialPruned(str(error)) from error
    finally:
        for name in ('checkpoint', 'best'):
            shutil.rmtree(output / name, ignore_errors=True)
    if not scores:
        raise StudyError(
            f'search: trial {trial.number} was never validated; set validate_every to at most the '
            f'optimizer.steps of the study'
        )
    return max(scores)


def write_result(
    found: optuna.Study, cell: Cell, parameters: Mapping[str, Any], folder: Path
) -> None:
    """search.json, and with a completed trial best.yaml and the plots."""
    done = [trial for trial in found.trials if trial.state.name == 'COMPLETE']
    result = {
        'cell': cell.id,
        'parameters': dict(parameters),
        'trials': [
            {
                'number': trial.number,
                'state': trial.state.name.lower(),
                'score': trial.value,
                'values': trial.params,
                'scores': {str(step): x for step, x in sorted(trial.intermediate_values.items())},
            }
            for trial in found.trials
        ],
        'best': found.best_trial.number if done else None,
    }
    replace_text(folder / RESULT, json.dumps(result, indent=1) + '\n')
    if not done:
        return
    name = f'{cell.study.name}_best'
    best = trial_settings(cell, found.best_params, folder / 'best_run', name)
    replace_text(folder / BEST, OmegaConf.to_yaml(best))
    pictures = folder / 'plots'
    pictures.mkdir(exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', optuna.exceptions.ExperimentalWarning)
        for plot in PLOTS:
            axes = getattr(optuna.visualization.matplotlib, f'plot_{plot}')(found)
            first: Any = axes if isinstance(axes, Axes) else axes.flat[0]
            figure = first.figure
            figure.savefig(pictures / f'{plot}.png', dpi=110, bbox_inches='tight')
            pyplot.close(figure)


def _ended(found: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials that count: not those that an interruption cut short."""
    return [trial for trial in found.trials if trial.state.name in ('COMPLETE', 'PRUNED')]


def _end_interrupted(found: optuna.Study, folder: Path) -> None:
    """Trials that a kill left running are failed, and their values tried anew."""
    for trial in found.trials:
        if trial.state.name == 'RUNNING':
            found.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            found.enqueue_trial(trial.params)
            shutil.rmtree(folder / 'trials' / f'{trial.number:04d}', ignore_errors=True)
