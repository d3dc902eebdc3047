# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Writes the report of a study: report.json, report.html and plots, from the files of its cells.

    OUTPUT/report/
        report.json     every figure, every seed
        report.html     one page, opens offline
        plots/          what the page shows, as PNG and SVG

Cells that are missing or failed are named; the rest is reported. The same files give the same
report to the byte. A report.json alone gives a new report too, with today's statistics: it holds
every figure of every seed, and what else was measured is taken over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mtl_evaluation.report.page import machine_facts, write_page
from training.study import plots
from training.study.analysis import (
    affinity_rows,
    combination_rows,
    cost_rows,
    transfer_rows,
)
from training.study.answers import Measured, answers, pvt_trunk
from training.study.cells import EVALUATION, Cell, plan, read_json, replace_text
from training.study.comparisons import named_in_time, notices, primary_rows
from training.study.config import StudyConfig, StudyError
from training.study.cost import COST
from training.study.pages import ASSETS, head, sections
from training.study.plots import saved
from training.study.records import Combination, read_records, reported_records
from training.study.transfer import parts_of, transfer_matrices

FOLDER = 'report'


def write_study_report(study: StudyConfig, earlier: Path | None = None) -> Path:
    """Write all of it; returns the page. Raises StudyError, ConfigError, OSError.

    earlier: a report.json to take the figures from instead of the cells; the new report replaces
    it, in its folder.
    """
    if earlier is None:
        report, folder = make_report(study), study.output / FOLDER
    else:
        report, folder = recomputed_report(study, earlier), earlier.parent
    pictures = folder / 'plots'
    pictures.mkdir(parents=True, exist_ok=True)
    for old in pictures.iterdir():
        if old.suffix in ('.png', '.svg') and old.name.startswith(
            ('delta_mtl', 'pareto', 'transfer', 'cosines')
        ):
            old.unlink()
    replace_text(folder / 'report.json', json.dumps(report, indent=1) + '\n')
    page = folder / 'report.html'
    write_page(page, f'Study: {study.name}', head(report), sections(report), ASSETS)
    for axis in report['deltas']:
        saved(plots.deltas(axis['rows']), pictures, f'delta_mtl_{axis["name"]}')
    for axis in report['pareto']:
        saved(plots.pareto(axis['points']), pictures, f'pareto_{axis["name"]}')
    for row in report['leave_one_out']['matrices']:
        if all(x['gain'] is None for x in row['transfers']):
            continue
        saved(plots.transfers(row), pictures, f'transfer_{row["model"]}.{row["balancing"]}')
    plain = next(iter(study.balancing))
    for row in report['affinity']:
        if row['balancing'] == plain:
            saved(plots.cosines(row['through']), pictures, f'cosines_{row["model"]}')
    return page


def make_report(study: StudyConfig) -> dict[str, Any]:
    """Everything that report.json holds."""
    cells = plan(study)
    for cell in cells:
        cell.check()
    combinations = read_records(cells)
    costs = read_json(study.output / COST)
    states = {cell.id: cell.state() for cell in cells}
    finished = {
        'planned': len(cells),
        'finished': sum(state == 'finished' for state in states.values()),
        'failed': [
            {'id': cell.id, 'error': cell.status()['error']}
            for cell in cells
            if states[cell.id] == 'failed'
        ],
        'missing': [name for name, state in states.items() if state in ('new', 'begun')],
    }
    taken = {
        'note': _note(study, cells),
        'in_time': named_in_time(study, cells),
        'cells': finished,
        'costs': cost_rows(combinations, costs),
        'affinity': affinity_rows(combinations),
        'made': _made(study, cells, costs),
    }
    return _report(study, combinations, taken, costs, {})


def recomputed_report(study: StudyConfig, earlier: Path) -> dict[str, Any]:
    """The same from a report.json; raises StudyError when it is none, or of another study."""
    found = read_json(earlier)
    if found.get('name') != study.name:
        raise StudyError(
            f'{earlier}: expected the report.json of study {study.name!r}, found '
            f'{found.get("name")!r}'
        )
    combinations = reported_records(found)
    costs = {
        answer['question']: [line for line in answer['lines'] if line['kind'] == 'cost']
        for answer in found['answers']
    }
    primary = study.primary.as_dict() if study.primary else None
    taken = {key: found[key] for key in ('note', 'cells', 'costs', 'affinity', 'made')}
    before = found.get('primary', {})
    taken['in_time'] = bool(before.get('in_time')) and before.get('named') == primary
    return _report(replace(study, seeds=found['seeds']), combinations, taken, {}, costs)


def _report(
    study: StudyConfig, combinations: list[Combination], taken: dict[str, Any],
    costs: Mapping[str, Any], earlier: Mapping[str, list[dict[str, Any]]],
) -> dict[str, Any]:  # fmt: skip
    """What follows from the figures, beside what was `taken` from cells or an earlier report."""
    main_trunk = pvt_trunk(study) or next(iter(study.trunks))
    rows = combination_rows(combinations, main_trunk)
    in_time = taken['in_time']
    primary = primary_rows(study, combinations)
    whole = [row for row in rows if row['tasks'] not in parts_of(study.tasks)]
    return {
        'name': study.name,
        'seeds': study.seeds,
        'split': study.split,
        'main_trunk': main_trunk,
        'note': taken['note'],
        'cells': taken['cells'],
        'primary': {
            'named': study.primary.as_dict() if study.primary else None,
            'in_time': in_time,
            'estimate': study.primary.estimate(len(study.seeds)) if study.primary else None,
            'notices': notices(study, in_time),
            'comparisons': primary,
        },
        'answers': answers(Measured(study, combinations, rows, primary, costs, in_time, earlier)),
        'combinations': rows,
        'costs': taken['costs'],
        'deltas': delta_axes(whole),
        'pareto': pareto_axes(whole, taken['costs']),
        'leave_one_out': {
            'planned': sorted(parts_of(study.tasks)),
            'matrices': transfer_matrices(combinations),
        },
        'transfer': transfer_rows(combinations),
        'affinity': taken['affinity'],
        'made': taken['made'],
    }


Axis = tuple[str, str, tuple[str, ...]]
"""Tasks, pretraining, and the tasks that Delta_MTL goes without: what can share an axis."""


def axis_of(row: Mapping[str, Any], delta: str) -> Axis:
    """Of a row whose `delta` is there."""
    return row['tasks'], row['pretraining'], tuple(row[delta]['without'])


def axis_words(axis: Axis) -> dict[str, str]:
    """Title for people and name for files."""
    tasks, pretraining, without = axis
    end = ''.join(f'.without_{task}' for task in without)
    return {
        'title': f'{tasks}, {pretraining}{plots.left_out(without)}',
        'name': f'{tasks}.{pretraining}{end}',
    }


def delta_axes(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Name and Delta_MTL of every combination, by what can share an axis."""
    axes: dict[Axis, list[dict[str, Any]]] = {}
    for row in rows:
        if row.get('delta'):
            axes.setdefault(axis_of(row, 'delta'), []).append(row)
    several = len({row['trunk'] for row in rows}) > 1
    return [
        {
            **axis_words(axis),
            'rows': [
                {
                    'name': (f'{row["trunk"]}, ' if several else '')
                    + f'{row["sharing"]}, {row["balancing"]}',
                    'delta': row['delta'],
                }
                for row in members
            ],
        }
        for axis, members in axes.items()
    ]


def pareto_axes(
    rows: Sequence[Mapping[str, Any]], costs: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """A point for each combination, and one for the single-task networks of the main trunk.

    By what can share an axis: a Delta_MTL without a task, of other tasks, or against baselines of
    another pretraining is another measure.
    """
    by_model = {row['model']: row for row in costs}
    axes: dict[Axis, list[dict[str, Any]]] = {}
    for row in rows:
        if not row.get('delta_main') or row['model'] not in by_model:
            continue
        cost, delta = by_model[row['model']], row['delta_main']
        points = axes.setdefault(axis_of(row, 'delta_main'), [])
        points.append(
            {
                'x': cost['gflop'], 'y': delta['mean'], 'low': delta['low'], 'high': delta['high'],
                'label': row['balancing'], 'group': f'{row["trunk"]}, {row["sharing"]}',
            }
        )  # fmt: skip
        if cost['against_singles'] and delta == row['delta']:
            # The main trunk's own networks: Delta_MTL is against them.
            single = {
                'x': cost['singles']['gflop'], 'y': 0.0, 'low': None, 'high': None,
                'label': 'single-task', 'group': f'{row["trunk"]}, single-task',
            }  # fmt: skip
            if single not in points:
                points.append(single)
    return [{**axis_words(axis), 'points': points} for axis, points in axes.items()]


def _note(study: StudyConfig, cells: Sequence[Cell]) -> str:
    config = cells[0].config()
    opt = config.optimizer
    return (
        f'Every run had {opt.steps} steps of {opt.batch_size} images of '
        f'{config.augment.width}x{config.augment.height}, single-task runs too. Weights are those '
        f'of the best validation on {study.split}, and the figures are of {study.split}: nothing '
        f'here has seen a test split. Differences hold for this schedule and these data.'
    )


def _made(study: StudyConfig, cells: Sequence[Cell], costs: Mapping[str, Any]) -> dict[str, str]:
    config = cells[0].config()
    made = {
        'study': f'{study.name}, {len(cells)} runs in {study.output}',
        'data': ', '.join(f'{layout.name} ({layout.root})' for layout in config.data),
        'trunks': json.dumps(study.trunks),
        'sharing': json.dumps(study.sharing),
        'balancing': json.dumps(study.balancing),
        'optimizer': json.dumps(vars(config.optimizer)),
    }
    statuses = [cell.status() for cell in cells]
    seconds = sum(x.get(key, 0.0) for x in statuses for key in ('training_s', 'evaluation_s'))
    made['hours'] = f'{seconds / 3600:.1f}, of all runs added up: training and evaluation'
    for cell in cells:
        environment = read_json(cell.folder / EVALUATION).get('environment')
        if environment:
            # Loads of the moment say nothing about a study that ran for hours.
            made |= machine_facts(environment | {'load_average': 'not kept'})
            break
    if costs:
        made['times measured at load'] = str(costs['machine']['load_average'])
    return made
