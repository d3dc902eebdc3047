# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The cells of a study: one training run and its evaluation each, in a folder of its own.

    OUTPUT/cells/TRUNK.PRETRAINING.TASKS.SHARING.BALANCING.sSEED/
        cell.yaml           what `training.train` is given
        run/                its run folder
        evaluation.json     what `training.evaluate` found with the best weights
        status.json         finished or failed, why, and how long it took
        log.txt             what both printed

A single-task baseline is a run with one task, the same trunk, schedule and batches as the others.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from training.checkpoint import LAST, find_checkpoint
from training.config import RunConfig, make_config
from training.study.config import SINGLE, Overrides, StudyConfig, StudyError
from training.study.primary import is_excluded

State = Literal['new', 'begun', 'finished', 'failed']

CELL, RUN, EVALUATION, STATUS, LOG = (
    'cell.yaml', 'run', 'evaluation.json', 'status.json', 'log.txt',
)  # fmt: skip


@dataclass(frozen=True)
class Model:
    """What decides a network and its cost; `task_names` are the tasks behind the label `tasks`."""

    trunk: str
    pretraining: str
    tasks: str
    sharing: str
    task_names: tuple[str, ...]

    @property
    def single(self) -> bool:
        """Whether it is a single-task network."""
        return self.sharing == SINGLE

    @property
    def id(self) -> str:
        """Labels joined by dots."""
        return '.'.join((self.trunk, self.pretraining, self.tasks, self.sharing))


@dataclass(frozen=True)
class Cell:
    """One run of a study."""

    study: StudyConfig
    model: Model
    balancing: str
    seed: int

    @cached_property
    def id(self) -> str:
        """Name of its folder."""
        return f'{self.model.id}.{self.balancing}.s{self.seed}'

    @cached_property
    def folder(self) -> Path:
        """Where it lies."""
        return self.study.output / 'cells' / self.id

    def labels(self) -> dict[str, str]:
        """Label by axis."""
        model = self.model
        return {
            'trunk': model.trunk,
            'pretraining': model.pretraining,
            'tasks': model.tasks,
            'sharing': model.sharing,
            'balancing': self.balancing,
        }

    def settings(self) -> DictConfig:
        """Its training configuration, as it stands in cell.yaml; raises StudyError."""
        study, model = self.study, self.model
        tasks = list(model.task_names)
        network: Overrides = {**study.trunks[model.trunk], **study.pretraining[model.pretraining]}
        settings = OmegaConf.merge(OmegaConf.create(study.run), {'network': network})
        assert isinstance(settings, DictConfig)
        # Set, not merged: options of another structure or method must not stay.
        settings['network']['sharing'] = {} if model.single else study.sharing[model.sharing]
        if model.single:
            del settings['network']['sharing']
        own_neck = settings['network'].get('own_neck', [])
        if own_neck:
            settings['network']['own_neck'] = [task for task in own_neck if task in tasks]
        settings['balancing'] = (
            {'method': 'equal'} if model.single else study.balancing[self.balancing]
        )
        settings['best_by'] = [
            pattern for pattern in settings.get('best_by', []) if _of(pattern, tasks)
        ]
        settings['name'] = f'{study.name}/{self.id}'
        settings['output'] = str(self.folder / RUN)
        settings['tasks'] = tasks
        settings['seed'] = self.seed
        return settings

    def config(self) -> RunConfig:
        """The same, checked; raises ConfigError."""
        return make_config(f'cell {self.id}', self.settings())

    def prepare(self) -> None:
        """Make the folder and cell.yaml; raises StudyError when it holds another cell's results."""
        self.check()
        path, text = self.folder / CELL, OmegaConf.to_yaml(self.settings())
        if not path.is_file() or path.read_text('utf-8') != text:
            self.folder.mkdir(parents=True, exist_ok=True)
            replace_text(path, text)

    def check(self) -> None:
        """Raise StudyError when the folder holds results of other settings."""
        path = self.folder / CELL
        if self.state() == 'new' or not path.is_file():
            return
        if path.read_text('utf-8') != OmegaConf.to_yaml(self.settings()):
            raise StudyError(
                f'{path}: the study file says something else now than when this cell was run; '
                f'give another output, or delete {self.folder}'
            )

    def state(self) -> State:
        """How far it is, by what lies in its folder."""
        status = self.status()
        if status:
            return 'finished' if status['state'] == 'finished' else 'failed'
        return 'begun' if find_checkpoint(self.folder / RUN / LAST) else 'new'

    def status(self) -> dict[str, Any]:
        """What status.json says; empty without one."""
        return read_json(self.folder / STATUS)


def _of(pattern: str, tasks: list[str]) -> bool:
    """Whether a pattern of `best_by` speaks of some of these tasks."""
    task = pattern.split('/')[1]
    return '*' in task or task in tasks


def plan(study: StudyConfig) -> list[Cell]:
    """All cells: seed by seed, the single-task baselines of each first; raises ConfigError."""
    models = list(_baselines(study))
    combined = [
        (Model(trunk, pretraining, tasks, sharing, tuple(study.tasks[tasks])), balancing)
        for trunk, pretraining, tasks, sharing, balancing in product(
            study.trunks, study.pretraining, study.tasks, study.sharing, study.balancing
        )
    ]
    cells = []
    for seed in study.seeds:
        cells += [Cell(study, model, 'equal', seed) for model in models]
        cells += [
            cell
            for cell in (Cell(study, model, balancing, seed) for model, balancing in combined)
            if not is_excluded(cell.labels(), study.exclude)
        ]
    for cell in cells:
        if cell.seed == study.seeds[0]:
            cell.config()
    return cells


def matching(cells: Iterable[Cell], patterns: Iterable[str]) -> list[Cell]:
    """Those whose ids match a pattern, all without one; raises StudyError for one of no cell."""
    cells, patterns = list(cells), list(patterns)
    found = {pattern: [cell for cell in cells if fnmatch(cell.id, pattern)] for pattern in patterns}
    for pattern in patterns:
        if not found[pattern]:
            raise StudyError(
                f'--only {pattern}: no cell of this study matches, expected a pattern as '
                f'{cells[0].id} or *.s{cells[0].seed} (`list` names them all)'
            )
    chosen = {cell.id for each in found.values() for cell in each}
    return [cell for cell in cells if not patterns or cell.id in chosen]


def _baselines(study: StudyConfig) -> Iterator[Model]:
    tasks = dict.fromkeys(task for names in study.tasks.values() for task in names)
    for trunk, pretraining, task in product(study.trunks, study.pretraining, tasks):
        yield Model(trunk, pretraining, task, SINGLE, (task,))


def replace_text(path: Path, text: str) -> None:
    """Write a file that is whole under its name."""
    partial = path.with_name(f'.{path.name}.partial')
    partial.write_text(text, 'utf-8')
    os.replace(partial, path)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty without the file. Raises StudyError when it cannot be read."""
    if not path.is_file():
        return {}
    try:
        found: dict[str, Any] = json.loads(path.read_text('utf-8'))
    except (OSError, ValueError) as error:
        raise StudyError(
            f'{path} cannot be read: {error}; delete it to have it made anew'
        ) from error
    return found
