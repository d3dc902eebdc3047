# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Which task helps which, by leaving one out, and whether the measured affinities foretell it.

The transfer from task i to task j within a set X is the relative gain of j in the runs of X over
those of X without i, which is how Standley et al. (ICML 2020) and Fifty et al. (NeurIPS 2021) judge
groupings. Sets are told by their members; all other labels are the same on both sides. Everything
here is exploratory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from training.study.analysis import compared, labels, mean_matrix
from training.study.records import Combination, Record, baseline_of, lower_is_better
from training.study.significance import LEVEL

MEASURES = ('cosine', 'lookahead')
DRAWS = 10_000

NONE = (
    'No task set of this study is another one without one of its tasks, so which task helps which '
    'was not measured.'
)
UNFINISHED = 'Not measured yet: no set of tasks and the same without one of them are both finished.'

Floats = NDArray[np.float64]


def less_one(tasks: Mapping[str, Sequence[str]]) -> dict[str, dict[str, str]]:
    """Label of a task set -> the task that is left out -> label of the set without it."""
    members = {label: frozenset(names) for label, names in tasks.items()}
    return {
        whole: found
        for whole, names in tasks.items()
        if (found := {
            task: label
            for task in names for label, left in members.items()
            if left == members[whole] - {task}
        })
    }  # fmt: skip


def parts_of(tasks: Mapping[str, Sequence[str]]) -> set[str]:
    """Labels of the task sets that are there for the transfer: others without one task."""
    return {label for found in less_one(tasks).values() for label in found.values()}


def transfer_matrices(combinations: Sequence[Combination]) -> list[dict[str, Any]]:
    """For every combination that others leave one task of out: transfers and their predictors.

    transfers: `from`, `to`, the figure, and what `analysis.compared` gives; singles: the same from
    the single-task networks to the whole set, without `from`; missing: tasks that no finished run
    leaves out; predictions: `predicted` for each of MEASURES.
    """
    by_key = {each.key: each for each in combinations}
    sets = {each.model.tasks: each.model.task_names for each in combinations if not each.single}
    found = []
    for whole, parts in less_one(sets).items():
        for each in (x for x in combinations if x.key[2] == whole and not x.single):
            trunk, pretraining, _, *rest = each.key
            without = {
                task: by_key[key]
                for task, label in parts.items()
                if (key := (trunk, pretraining, label, *rest)) in by_key
            }
            if without:
                found.append(_matrix(combinations, each, without))
    return found


def _matrix(
    combinations: Sequence[Combination], whole: Combination, without: Mapping[str, Combination]
) -> dict[str, Any]:
    trunk, pretraining, *_ = whole.key
    tasks = whole.model.task_names
    transfers, singles = [], []
    for source, part in without.items():
        for task in part.model.task_names:
            if row := _change(part, whole, task):
                transfers.append({'from': source, **row})
    for task in tasks:
        baseline = baseline_of(combinations, trunk, pretraining, task)
        if baseline and (row := _change(baseline, whole, task)):
            singles.append(row)
    return labels(whole) | {
        'transfers': transfers,
        'singles': singles,
        'missing': [task for task in tasks if task not in without],
        'predictions': {measure: predicted(whole, without, measure) for measure in MEASURES},
    }


def _change(before: Combination, after: Combination, task: str) -> dict[str, Any] | None:
    figure = after.primary(task) or ''
    old, new = before.values(task, figure), after.values(task, figure)
    if not old or not new:
        return None
    return {'to': task, 'figure': figure, **compared(old, new, lower_is_better(figure))}


def predicted(
    whole: Combination, without: Mapping[str, Combination], measure: str
) -> dict[str, Any] | None:
    """Spearman's correlation between an affinity i -> j and the transfer i -> j.

    Over ordered pairs of tasks with both, means over the seeds that all runs share. low and high at
    LEVEL, of a percentile bootstrap: each of DRAWS draws seeds with replacement (the same for
    every run), computes affinities and transfers from them anew, and draws pairs with replacement.
    None for the bounds with fewer than two seeds, and for all with fewer than three pairs.
    """
    by_seed = {record.seed: record for record in whole.records}
    seeds = sorted(
        {seed for seed, record in by_seed.items() if record.affinity}.intersection(
            *({record.seed for record in each.records} for each in without.values())
        )
    )
    columns = [
        column
        for source, part in without.items()
        for task in part.model.task_names
        if (column := _pair(whole, part, (source, task), measure, [by_seed[x] for x in seeds]))
    ]
    if not seeds or len(columns) < 3:
        return None
    before, after, affinity = (
        np.array([column[i] for column in columns], float) for i in range(3)
    )  # [pairs, seeds] each
    signs = np.array([column[3] for column in columns], float)

    def transfers(chosen: NDArray[np.int64]) -> Floats:
        """[draws, pairs] with seeds [draws, n]."""
        old, new = (x[:, chosen].mean(-1).T for x in (before, after))
        return np.asarray(signs * (new - old) / old)

    everything = np.arange(len(seeds))[None]
    row: dict[str, Any] = {
        'correlation': float(spearman(affinity.mean(-1)[None], transfers(everything))[0]),
        'low': None, 'high': None, 'pairs': len(columns), 'seeds': seeds,
    }  # fmt: skip
    if np.isnan(row['correlation']):
        return None
    if len(seeds) > 1:
        generator = np.random.default_rng(0)
        chosen = generator.integers(len(seeds), size=(DRAWS, len(seeds)))
        pairs = generator.integers(len(columns), size=(DRAWS, len(columns)))
        drawn = spearman(
            np.take_along_axis(affinity[:, chosen].mean(-1).T, pairs, 1),
            np.take_along_axis(transfers(chosen), pairs, 1),
        )
        low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        row |= {'low': float(low), 'high': float(high)}
    return row


def _pair(
    whole: Combination, part: Combination, pair: tuple[str, str], measure: str,
    records: Sequence[Record],
) -> tuple[list[float], list[float], list[float], int] | None:  # fmt: skip
    """Figures without and with the task, and affinities, by seed, and the sign of a gain."""
    figure = whole.primary(pair[1]) or ''
    before, after = part.values(pair[1], figure), whole.values(pair[1], figure)
    seeds = [record.seed for record in records]
    found = [mean_matrix(record.affinity, measure, pair)[0][1] for record in records]
    affinity = [value for value in found if value is not None]
    errors = lower_is_better(figure)
    if not (before.keys() & after.keys()).issuperset(seeds) or len(affinity) < len(seeds):
        return None
    if compared(before, after, errors)['gain'] is None:
        return None
    return [before[x] for x in seeds], [after[x] for x in seeds], affinity, -1 if errors else 1


def spearman(first: Floats, second: Floats) -> Floats:
    """Rank correlation of each row [draws, n], ties at their mean rank; nan without any spread."""
    a, b = (stats.rankdata(each, axis=1) for each in (first, second))
    a, b = (each - each.mean(1, keepdims=True) for each in (a, b))
    with np.errstate(invalid='ignore', divide='ignore'):
        return np.asarray((a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1)))
