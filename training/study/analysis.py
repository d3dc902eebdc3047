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
from training.study.gains import gain_over
from training.study.records import Combination, baseline_of, lower_is_better
from training.study.significance import compare, estimate, gain, has_gain

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
            'sources': {
                name: asdict(estimate(values)) for name, values in each.by_source().items()
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


def delta_over_seeds(
    combinations: Sequence[Combination], each: Combination, trunk: str
) -> dict[str, Any] | None:
    """Delta_MTL over the single-task networks of a trunk, as `delta_between` gives it."""
    baselines = {
        task: baseline_of(combinations, trunk, each.key[1], task) for task in each.model.task_names
    }
    return delta_between(each, baselines)


def delta_between(
    ours: Combination, theirs: Combination | Mapping[str, Combination | None]
) -> dict[str, Any] | None:
    """Delta_MTL of ours, as `gains.gain_over` describes it, with `without`.

    theirs: one network, or one for each task. A task whose figure of theirs is too small for a
    relative gain leaves it undefined over all tasks. Then it is that of the others, and `without`
    names the task with the reason, to be said wherever the figure is. None where a task of a side
    was not measured, or no task is left.
    """
    joint = isinstance(theirs, Combination)
    signs: dict[str, int] = {}
    before: dict[str, dict[int, float]] = {}
    after: dict[str, dict[int, float]] = {}
    without: dict[str, str] = {}
    for task in ours.model.task_names:
        other = theirs if isinstance(theirs, Combination) else theirs.get(task)
        figure = ours.primary(task) or ''
        before[task] = other.values(task, figure) if other else {}
        after[task] = ours.values(task, figure)
        if not before[task] or not after[task]:
            return None
        mean = fmean(before[task].values())
        if has_gain(mean, lower_is_better(figure)):
            signs[task] = -1 if lower_is_better(figure) else 1
        else:
            side = 'the other side’s' if joint else 'single-task'
            without[task] = f'{side} {figure} is {mean:.2g}, too small for a relative gain'
    found = gain_over(after, before, signs, joint) if signs else None
    return {**found, 'without': without} if found else None


def transfer_rows(combinations: Sequence[Combination]) -> list[dict[str, Any]]:
    """Every task of every combination against its single-task runs: exploratory, uncorrected.

    Rows of one task share their single-task runs, so that they agree with each other shows little.
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
                    **compared(before, after, lower_is_better(figure)),
                }
            )
    return rows


def compared(before: dict[int, float], after: dict[int, float], errors: bool) -> dict[str, Any]:
    """Difference, relative gain where there is one, both with intervals, p and effect size.

    difference, low, high: after less before, in the figure's unit. better: what its sign means.
    clear: whether the interval leaves zero out, of the gain where there is one. p is not corrected.
    """
    found = compare(before, after)
    sign = -1 if errors else 1
    shared = before.keys() & after.keys()
    mean = fmean(before.values())
    relative = (
        gain_over({'': after}, {'': before}, {'': sign}, False) if has_gain(mean, errors) else None
    )
    return {
        'difference': found.difference,
        'low': found.low,
        'high': found.high,
        'gain': gain(fmean(after.values()), mean, errors),
        'gain_low': relative['low'] if relative else None,
        'gain_high': relative['high'] if relative else None,
        'better': sign * found.difference > 0,
        'clear': _leaves_zero_out(relative or asdict(found)),
        'test': found.test,
        'p': found.p,
        'effect': None if found.effect is None else sign * found.effect,
        'n': list(found.n),
        'worse_seeds': sum(sign * (after[seed] - before[seed]) < 0 for seed in shared),
        'shared_seeds': len(shared),
    }


def _leaves_zero_out(found: Mapping[str, Any]) -> bool:
    return found['low'] is not None and bool(found['low'] * found['high'] > 0)


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
    in a batch. by_seed: means over steps. through: mean over seeds of every measured step's cosine,
    by pair.
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
        row['by_seed'] = {
            str(record.seed): {
                kind: mean_matrix(record.affinity, kind, tasks) for kind in ('cosine', 'lookahead')
            }
            for record in each.records if record.affinity
        }  # fmt: skip
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
    found = [
        line[kind][line['tasks'].index(first)][line['tasks'].index(second)]
        for line in lines
        if first in line['tasks'] and second in line['tasks']
    ]
    return [value for value in found if value is not None]


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
