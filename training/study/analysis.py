# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The numbers of a study's report, from its records: means, Delta_MTL, transfer, costs, affinity.

Everything here is a function of the files of the study, so a report made twice is the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean, median
from typing import Any

import numpy as np

from training.study.config import SINGLE
from training.study.records import Combination, baseline_of, lower_is_better
from training.study.significance import compare, delta_mtl, estimate, gain, has_gain, holm

SIGNIFICANT = 0.05
PHASES = ('first third', 'middle third', 'last third')


def combination_rows(combinations: Sequence[Combination], main_trunk: str) -> list[dict[str, Any]]:
    """Every combination: figures with their intervals, gains over the single-task runs, Delta_MTL.

    delta is against baselines of the same trunk; delta_main against those of `main_trunk`, so that
    trunks can be compared by it.
    """
    rows = []
    for each in combinations:
        row: dict[str, Any] = {
            **labels(each),
            'single': each.single,
            'seeds': [record.seed for record in each.records],
            'figures': {
                task: {
                    figure: asdict(estimate(list(each.values(task, figure).values())))
                    for figure in each.figures(task)
                }
                for task in each.model.task_names
            },
            'training': training_figures(each),
        }
        if not each.single:
            for key, of in (('delta', each.model.trunk), ('delta_main', main_trunk)):
                row[key] = delta_over_seeds(combinations, each, of)
        rows.append(row)
    return rows


def labels(each: Combination) -> dict[str, Any]:
    """What a combination is."""
    trunk, pretraining, tasks, sharing, balancing = each.key
    return {
        'trunk': trunk, 'pretraining': pretraining, 'tasks': tasks, 'sharing': sharing,
        'balancing': balancing, 'name': each.name, 'model': each.model.id,
        'task_names': list(each.model.task_names),
    }  # fmt: skip


def training_figures(each: Combination) -> dict[str, float]:
    """Images per second and peak memory while training, medians over the seeds that have them."""
    found = {}
    for key in ('images_per_s', 'peak_memory_mb'):
        values = [record.speed[key] for record in each.records if key in record.speed]
        if values:
            found[key] = median(values)
    return found


def baseline_mean(
    combinations: Sequence[Combination], trunk: str, pretraining: str, task: str, figure: str
) -> float | None:
    """Mean over seeds of the single-task runs."""
    baseline = baseline_of(combinations, trunk, pretraining, task)
    values = baseline.values(task, figure) if baseline else {}
    return fmean(values.values()) if values else None


def delta_over_seeds(
    combinations: Sequence[Combination], each: Combination, trunk: str
) -> dict[str, Any] | None:
    """Delta_MTL as an Estimate; a seed's value is held against the baselines' mean over seeds.

    A task whose baseline is too small for a relative gain leaves it undefined over all tasks. Then
    it is that of the others, and `without` names the task with the reason, to be said wherever the
    figure is. None where a task or its baseline was not measured, or no task is left.
    """
    baselines: dict[str, tuple[str, float]] = {}
    without: dict[str, str] = {}
    for task in each.model.task_names:
        figure = each.primary(task) or ''
        before = baseline_mean(combinations, trunk, each.key[1], task, figure)
        if before is None:
            return None
        if has_gain(before, lower_is_better(figure)):
            baselines[task] = figure, before
        else:
            without[task] = f'single-task {figure} is {before:.2g}, too small for a relative gain'
    deltas = []
    for record in each.records:
        gains = [
            gain(record.figures[task][figure], before, lower_is_better(figure))
            if figure in record.figures.get(task, {}) else None
            for task, (figure, before) in baselines.items()
        ]  # fmt: skip
        found = delta_mtl(gains)
        if found is not None:
            deltas.append(found)
    return {**asdict(estimate(deltas)), 'without': without} if deltas else None


def transfer_rows(combinations: Sequence[Combination]) -> list[dict[str, Any]]:
    """Every task of every combination against its single-task runs, Holm-corrected over all rows.

    verdict: hurt or helped when the corrected p is below 0.05, otherwise lower or higher, which
    says nothing but the sign; untested without two seeds on a side.
    """
    rows: list[dict[str, Any]] = []
    for each in combinations:
        if each.single:
            continue
        trunk, pretraining, *_ = each.key
        for task in each.model.task_names:
            figure = each.primary(task)
            baseline = baseline_of(combinations, trunk, pretraining, task)
            before = baseline.values(task, figure) if baseline and figure else {}
            after = each.values(task, figure) if figure else {}
            if not figure or not before or not after:
                continue
            rows.append(
                labels(each)
                | {
                    'task': task,
                    'figure': figure,
                    'single_task': fmean(before.values()),
                    'multi_task': fmean(after.values()),
                    **tested(before, after, lower_is_better(figure)),
                }
            )
    corrected = holm([row['p'] for row in rows])
    for row, p in zip(rows, corrected, strict=True):
        row['p_holm'] = p
        row['verdict'] = verdict(row['better'], p, row['p'])
    return rows


def tested(before: dict[int, float], after: dict[int, float], errors: bool) -> dict[str, Any]:
    """Difference, relative gain where there is one, test, p and effect size of two sides.

    difference: after less before, in the figure's unit. better: what its sign means.
    """
    found = compare(before, after)
    sign = -1 if errors else 1
    shared = before.keys() & after.keys()
    return {
        'difference': found.difference,
        'gain': gain(fmean(after.values()), fmean(before.values()), errors),
        'better': sign * found.difference > 0,
        'test': found.test,
        'p': found.p,
        'effect': None if found.effect is None else sign * found.effect,
        'n': list(found.n),
        'worse_seeds': sum(sign * (after[seed] - before[seed]) < 0 for seed in shared),
        'shared_seeds': len(shared),
    }


def verdict(better: bool, p_corrected: float | None, p: float | None) -> str:
    """One word."""
    if p is None or p_corrected is None:
        return 'untested'
    if p_corrected < SIGNIFICANT:
        return 'helped' if better else 'hurt'
    return 'higher' if better else 'lower'


def cost_rows(
    combinations: Sequence[Combination], costs: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Every multi-task network's cost, and its ratio to the sum of its single-task networks."""
    measured = costs.get('models', {})
    rows = []
    for model in dict.fromkeys(each.model for each in combinations):
        if model.single or model.id not in measured:
            continue
        singles = [
            f'{model.trunk}.{model.pretraining}.{task}.{SINGLE}' for task in model.task_names
        ]
        row: dict[str, Any] = {
            'model': model.id, 'trunk': model.trunk, 'pretraining': model.pretraining,
            'tasks': model.tasks, 'sharing': model.sharing, **absolute(measured[model.id]),
            'against_singles': None,
        }  # fmt: skip
        if all(name in measured for name in singles):
            row['singles'] = {
                key: sum(absolute(measured[name])[key] for name in singles)
                for key in ('parameters', 'gflop', 'memory_mb')
            }
            row['against_singles'] = {
                key: row[key] / row['singles'][key] for key in row['singles']
            } | {'latency': paired_ratio(measured, [model.id], singles)}
        rows.append(row)
    return rows


def absolute(cost: Mapping[str, Any]) -> dict[str, float]:
    """The figures of one network; latency is the median of this machine."""
    return {
        'parameters': cost['parameters'], 'gflop': cost['gflop'], 'memory_mb': cost['memory_mb'],
        'latency_ms': float(np.median(cost['frame_ms'])),
    }  # fmt: skip


def paired_ratio(measured: Mapping[str, Any], ours: Sequence[str], theirs: Sequence[str]) -> float:
    """Median over frames of the sum of our times over the sum of theirs."""
    mine, others = (
        np.sum([measured[name]['frame_ms'] for name in names], axis=0) for names in (ours, theirs)
    )
    return float(np.median(mine / others))


def affinity_rows(combinations: Sequence[Combination]) -> list[dict[str, Any]]:
    """How the tasks of each multi-task combination agreed, by thirds of the training and all steps.

    Each matrix is a mean over steps and seeds, [from task, to task]; None where two tasks never met
    in a batch. through: mean over seeds of every measured step's cosine, by pair.
    """
    rows = []
    for each in combinations:
        lines = [line for record in each.records for line in record.affinity]
        if each.single or not lines:
            continue
        tasks = list(each.model.task_names)
        last = max(line['step'] for line in lines) + 1
        row: dict[str, Any] = labels(each) | {'measurements': len(lines), 'phases': {}}
        for index, phase in enumerate(PHASES):
            chosen = [line for line in lines if line['step'] * 3 // last == index]
            row['phases'][phase] = {
                kind: mean_matrix(chosen, kind, tasks) for kind in ('cosine', 'lookahead')
            }
        row['all'] = {kind: mean_matrix(lines, kind, tasks) for kind in ('cosine', 'lookahead')}
        row['through'] = {
            f'{first} and {second}': through(lines, first, second)
            for i, first in enumerate(tasks)
            for second in tasks[i + 1 :]
        }
        rows.append(row)
    return rows


def mean_matrix(
    lines: Sequence[Mapping[str, Any]], kind: str, tasks: Sequence[str]
) -> list[list[float | None]]:
    """Mean over measurements of the entries that they have."""
    return [[_mean(_entries(lines, kind, a, b)) for b in tasks] for a in tasks]


def through(lines: Sequence[Mapping[str, Any]], first: str, second: str) -> list[tuple[int, float]]:
    """(step, cosine) of a pair, seeds averaged."""
    steps = sorted({line['step'] for line in lines})
    by_step = [
        (step, _mean(_entries([x for x in lines if x['step'] == step], 'cosine', first, second)))
        for step in steps
    ]
    return [(step, value) for step, value in by_step if value is not None]


def _entries(lines: Sequence[Mapping[str, Any]], kind: str, first: str, second: str) -> list[float]:
    return [
        line[kind][line['tasks'].index(first)][line['tasks'].index(second)]
        for line in lines
        if first in line['tasks'] and second in line['tasks']
    ]


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
