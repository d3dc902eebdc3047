# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Writes the report of a study: report.json, report.html and plots, from the files of its cells.

    OUTPUT/report/
        report.json     every figure, every seed
        report.html     one page, opens offline
        plots/          what the page shows, as PNG and SVG

Cells that are missing or failed are named; the rest is reported. The same files give the same
report to the byte.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
from training.study.config import StudyConfig
from training.study.cost import COST
from training.study.pages import ASSETS, head, sections
from training.study.plots import saved
from training.study.records import read_records

FOLDER = 'report'


def write_study_report(study: StudyConfig) -> Path:
    """Write all of it; returns the page. Raises StudyError, ConfigError, OSError."""
    report = make_report(study)
    folder = study.output / FOLDER
    pictures = folder / 'plots'
    pictures.mkdir(parents=True, exist_ok=True)
    replace_text(folder / 'report.json', json.dumps(report, indent=1) + '\n')
    page = folder / 'report.html'
    write_page(page, f'Study: {study.name}', head(report), sections(report), ASSETS)
    rows = plots.renamed([row for row in report['combinations'] if row.get('delta')])
    if rows:
        saved(plots.deltas(rows), pictures, 'delta_mtl')
    if report['pareto']:
        saved(plots.pareto(report['pareto']), pictures, 'pareto')
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
    main_trunk = pvt_trunk(study) or next(iter(study.trunks))
    rows = combination_rows(combinations, main_trunk)
    by_cost = cost_rows(combinations, costs)
    states = {cell.id: cell.state() for cell in cells}
    return {
        'name': study.name,
        'seeds': study.seeds,
        'split': study.split,
        'main_trunk': main_trunk,
        'note': _note(study, cells),
        'cells': {
            'planned': len(cells),
            'finished': sum(state == 'finished' for state in states.values()),
            'failed': [
                {'id': cell.id, 'error': cell.status()['error']}
                for cell in cells
                if states[cell.id] == 'failed'
            ],
            'missing': [name for name, state in states.items() if state in ('new', 'begun')],
        },
        'answers': answers(Measured(study, combinations, rows, costs)),
        'combinations': rows,
        'costs': by_cost,
        'pareto': pareto_points(rows, by_cost),
        'transfer': transfer_rows(combinations),
        'affinity': affinity_rows(combinations),
        'made': _made(study, cells, costs),
    }


def pareto_points(
    rows: Sequence[Mapping[str, Any]], costs: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """A point a combination, and one for the single-task networks of each trunk together."""
    by_model = {row['model']: row for row in costs}
    points = []
    for row in rows:
        if row.get('delta_main') and row['model'] in by_model:
            cost = by_model[row['model']]
            without = plots.left_out(row['delta_main']['without'])
            points.append(
                {
                    'x': cost['gflop'],
                    'y': row['delta_main']['mean'],
                    'label': row['balancing'],
                    'group': f'{row["trunk"]}, {row["tasks"]}{without}, {row["sharing"]}',
                }
            )
            if cost['against_singles'] and row['delta']:
                # What the tasks' own networks reach against the main trunk's, which reach 0.
                own = row['delta_main'] == row['delta']
                single = {
                    'x': cost['singles']['gflop'], 'y': 0.0, 'label': 'single-task',
                    'group': f'{row["trunk"]}, {row["tasks"]}{without}, single-task',
                }  # fmt: skip
                if own and single not in points:
                    points.append(single)
    return points


def _note(study: StudyConfig, cells: Sequence[Cell]) -> str:
    config = cells[0].config()
    opt = config.optimizer
    seeds = len(study.seeds)
    return (
        f'Every run had {opt.steps} steps of {opt.batch_size} images of '
        f'{config.augment.width}x{config.augment.height}, single-task runs too. Weights are those '
        f'of the best validation on {study.split}, and the figures are of {study.split}: nothing '
        f'here has seen a test split. Differences hold for this schedule and these data; '
        f'{seeds} seed{"s" * (seeds != 1)} show large effects only.'
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
    for cell in cells:
        environment = read_json(cell.folder / EVALUATION).get('environment')
        if environment:
            # Loads of the moment say nothing about a study that ran for hours.
            made |= machine_facts(environment | {'load_average': 'not kept'})
            break
    if costs:
        made['times measured at load'] = str(costs['machine']['load_average'])
    return made
