# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What the finished cells of a study found, by combination and seed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from training.board import AFFINITY
from training.evaluation.results import ERRORS, HEADLINES, headline
from training.study.cells import EVALUATION, RUN, Cell, Model, read_json
from training.study.config import SINGLE, StudyError

PRIMARY = {'depth': 'abs_error', 'normals': 'mean_error'}
"""The figure that stands for a task in Delta_MTL, where it is not the first of HEADLINES."""

PART_OF = {'coarse7': 'semantic'}
"""Results that are a coarser score of another task, for data sets with its rough classes only."""

Key = tuple[str, str, str, str, str]
"""Labels of trunk, pretraining, tasks, sharing and balancing."""


@dataclass(frozen=True)
class Record:
    """One finished cell; figures: task -> figure -> value, a mean over data sets that have it.

    sources: the values behind it, `source/task/figure` -> value; empty of an older report.
    """

    key: Key
    seed: int
    model: Model
    figures: dict[str, dict[str, float]]
    speed: dict[str, Any]
    affinity: list[dict[str, Any]]
    sources: dict[str, float]


@dataclass(frozen=True)
class Combination:
    """The runs of one combination over its seeds."""

    key: Key
    model: Model
    records: tuple[Record, ...]

    @property
    def single(self) -> bool:
        """Whether these are single-task baselines."""
        return self.model.single

    @property
    def name(self) -> str:
        """For people: what it is beside trunk and pretraining."""
        _, _, tasks, sharing, balancing = self.key
        return f'{tasks}, single-task' if self.single else f'{tasks}, {sharing}, {balancing}'

    def values(self, task: str, figure: str) -> dict[int, float]:
        """Seed -> value, of the runs that have it."""
        return {
            record.seed: record.figures[task][figure]
            for record in self.records
            if figure in record.figures.get(task, {})
        }

    def by_source(self) -> dict[str, list[float]]:
        """`source/task/figure` -> values over the seeds."""
        found: dict[str, list[float]] = {}
        for record in self.records:
            for name, value in record.sources.items():
                found.setdefault(name, []).append(value)
        return found

    def figures(self, task: str) -> list[str]:
        """Figures of a task, the primary one first."""
        found = dict.fromkeys(
            figure for record in self.records for figure in record.figures.get(task, {})
        )
        first = PRIMARY.get(task)
        return sorted(found, key=lambda figure: figure != first) if first in found else list(found)

    def primary(self, task: str) -> str | None:
        """The figure that stands for a task; None when it was not measured."""
        return next(iter(self.figures(task)), None)


def read_records(cells: Iterable[Cell]) -> list[Combination]:
    """Finished cells in the order of the plan; raises StudyError for files that cannot be read."""
    found: dict[Key, list[Record]] = {}
    for cell in cells:
        of_key = found.setdefault(key_of(cell), [])
        if cell.state() == 'finished':
            of_key.append(read_record(cell))
    return [Combination(key, each[0].model, tuple(each)) for key, each in found.items() if each]


def key_of(cell: Cell) -> Key:
    """The labels of a cell's axes."""
    trunk, pretraining, tasks, sharing, balancing = cell.labels().values()
    return trunk, pretraining, tasks, sharing, balancing


def reported_records(report: Mapping[str, Any]) -> list[Combination]:
    """The same from a report.json, which holds every figure of every seed.

    Of the affinities it has means over steps, by seed, which stand as one measurement; reports of
    before have none. Raises StudyError where seeds and values cannot be matched.
    """
    combinations = []
    try:
        affinities = {(row['model'], row['balancing']): row for row in report['affinity']}
        for row in report['combinations']:
            labels = (row['trunk'], row['pretraining'], row['tasks'], row['sharing'])
            model = Model(*labels, tuple(row['task_names']))
            affinity = affinities.get((model.id, row['balancing']), {}).get('by_seed', {})
            records = tuple(
                Record(
                    (*labels, row['balancing']), seed, model,
                    {
                        task: {figure: found['values'][i] for figure, found in figures.items()}
                        for task, figures in row['figures'].items()
                    },
                    row['training'],
                    [{'step': 0, 'tasks': row['task_names'], **affinity[str(seed)]}]
                    if str(seed) in affinity else [],
                    {
                        name: found['values'][i]
                        for name, found in row.get('sources', {}).items()
                    },
                )
                for i, seed in enumerate(row['seeds'])
            )  # fmt: skip
            if any(
                len(found['values']) != len(records)
                for figures in row['figures'].values() for found in figures.values()
            ):  # fmt: skip
                raise StudyError(f'report of {model.id}: a figure has another count than the seeds')
            combinations.append(Combination((*labels, row['balancing']), model, records))
    except (KeyError, TypeError, IndexError) as error:
        raise StudyError(f'the report is none of a study: {error!r} is missing or wrong') from error
    return combinations


def read_record(cell: Cell) -> Record:
    """One cell; raises StudyError."""
    evaluation = read_json(cell.folder / EVALUATION)
    if 'results' not in evaluation:
        raise StudyError(
            f'{cell.folder}: finished without {EVALUATION}; delete the folder and run it again'
        )
    lines = []
    path = cell.folder / RUN / AFFINITY
    if path.is_file():
        lines = [json.loads(line) for line in path.read_text('utf-8').splitlines()]
    return Record(
        key_of(cell),
        cell.seed,
        cell.model,
        task_figures(evaluation['results'], cell.model.task_names),
        read_json(cell.folder / RUN / 'speed.json'),
        lines,
        source_figures(evaluation['results'], cell.model.task_names),
    )


def source_figures(results: Mapping[str, Any], tasks: Iterable[str]) -> dict[str, float]:
    """The headline figures of some tasks: `source/task/figure` -> value."""
    wanted = set(tasks)
    return {
        name: value
        for name, value in headline(results).items()
        if PART_OF.get(task := name.split('/')[1], task) in wanted
    }


def task_figures(results: Mapping[str, Any], tasks: Iterable[str]) -> dict[str, dict[str, float]]:
    """Figures by task from `results` of evaluation.json, in the order of HEADLINES."""
    wanted = set(tasks)
    gathered: dict[str, dict[str, list[float]]] = {}
    values = headline(results)
    for task, figures in HEADLINES.items():
        owner = PART_OF.get(task, task)
        for figure in figures:
            key = figure if owner == task else f'{task}_{figure}'
            for name, value in values.items():
                _, of_task, of_figure = name.split('/')
                if owner in wanted and (of_task, of_figure) == (task, figure):
                    gathered.setdefault(owner, {}).setdefault(key, []).append(value)
    return {
        task: {figure: fmean(each) for figure, each in figures.items()}
        for task, figures in gathered.items()
    }


def lower_is_better(figure: str) -> bool:
    """Whether a figure is an error."""
    return figure in ERRORS


def baseline_of(combinations: Iterable[Combination], trunk: str, pretraining: str, task: str) -> (
    Combination | None
):  # fmt: skip
    """The single-task runs of a task."""
    wanted = (trunk, pretraining, task, SINGLE)
    return next((each for each in combinations if each.key[:4] == wanted), None)
