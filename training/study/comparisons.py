# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The primary comparisons of a study: whether they were named in time, and what came out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from training.study.analysis import delta_between, delta_over_seeds
from training.study.cells import Cell, read_json, replace_text
from training.study.config import StudyConfig
from training.study.primary import LEVEL, POWER, Comparison, in_words
from training.study.records import Combination
from training.study.significance import holm, power

RECORD = 'primary.json'
"""In the output of a study: the primary comparisons as they were when the first cell began."""

NONE_NAMED = (
    'no primary comparison is named in the study file, so every difference in the report is '
    'exploratory; docs/study.md says how to name them before the first run'
)
LATE = (
    'the primary comparisons were named or changed after the first run, so they are exploratory too'
)


def remember(study: StudyConfig, cells: Iterable[Cell]) -> None:
    """Write down the primary comparisons, unless a cell has begun or they were written before."""
    path = study.output / RECORD
    if study.primary is None or path.exists() or any(cell.state() != 'new' for cell in cells):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps(study.primary.as_dict(), indent=1) + '\n')


def is_primary(study: StudyConfig, cell: Cell) -> bool:
    """Whether a primary comparison needs this cell: its combination or a baseline of it."""
    labels = cell.labels()
    for comparison in study.primary.comparisons if study.primary else ():
        ours, theirs = comparison.ours, comparison.theirs
        if labels in (ours, theirs):
            return True
        alike = all(labels[axis] == ours[axis] for axis in ('trunk', 'pretraining'))
        baseline = cell.model.single and cell.model.tasks in study.tasks[ours['tasks']]
        if theirs is None and alike and baseline:
            return True
    return False


def notices(study: StudyConfig, in_time: bool) -> list[str]:
    """What a reader must know of the plan, for the runner and the report: sentences without dot."""
    if study.primary is None:
        return [NONE_NAMED]
    estimate = study.primary.estimate(len(study.seeds))
    lines = [in_words(estimate)]
    if estimate['warning']:
        lines.append(f'warning: {estimate["warning"]}')
    return lines if in_time else [*lines, LATE]


def named_in_time(study: StudyConfig, cells: Iterable[Cell]) -> bool:
    """Whether the comparisons are those that were there before the first cell began."""
    if study.primary is None:
        return False
    found = read_json(study.output / RECORD)
    if not found:
        return all(cell.state() == 'new' for cell in cells)
    return found == study.primary.as_dict()


def primary_rows(study: StudyConfig, combinations: Sequence[Combination]) -> list[dict[str, Any]]:
    """Every primary comparison: Delta_MTL of ours over theirs, p corrected over them, a verdict.

    verdict: better or worse when the corrected p is below LEVEL, otherwise 'not shown'; 'no
    verdict' where the measured spread leaves less than POWER for the smallest effect of interest,
    and 'not measured'. power: that of the test for this effect, with the measured spread.
    """
    if study.primary is None:
        return []
    primary = study.primary
    rows: list[dict[str, Any]] = []
    for comparison in primary.comparisons:
        delta = _delta(comparison, combinations)
        rows.append(
            {
                'name': comparison.name, 'ours': comparison.ours, 'theirs': comparison.theirs,
                'delta': delta, 'power': None,
            }
        )  # fmt: skip
        if delta and delta['error'] is not None:
            rows[-1]['power'] = power(
                primary.effect, delta['error'], delta['freedom'], primary.level
            )
    corrected = holm([row['delta']['p'] if row['delta'] else None for row in rows])
    for row, p in zip(rows, corrected, strict=True):
        row['p_holm'] = p
        row['verdict'] = _verdict(row)
        row['words'] = _sentence(row, primary.effect)
    return rows


def _delta(comparison: Comparison, combinations: Sequence[Combination]) -> dict[str, Any] | None:
    by_key = {each.key: each for each in combinations}
    ours = by_key.get(tuple(comparison.ours.values()))  # type: ignore[call-overload]
    if ours is None:
        return None
    if comparison.theirs is None:
        return delta_over_seeds(combinations, ours, ours.model.trunk)
    theirs = by_key.get(tuple(comparison.theirs.values()))  # type: ignore[call-overload]
    return delta_between(ours, theirs) if theirs else None


def _verdict(row: Mapping[str, Any]) -> str:
    if row['delta'] is None:
        return 'not measured'
    if row['power'] is None or row['power'] < POWER:
        return 'no verdict'
    if row['p_holm'] >= LEVEL:
        return 'not shown'
    return 'better' if row['delta']['mean'] > 0 else 'worse'


def _sentence(row: Mapping[str, Any], effect: float) -> str:
    """For the answers: the effect with its interval first."""
    delta, word = row['delta'], row['verdict']
    if delta is None:
        return f'{row["name"]}: not measured.'
    without = ', '.join(delta['without'])
    text = f'{row["name"]}: Delta_MTL{f" (without {without})" if without else ""} {percent(delta)}'
    if word == 'no verdict':
        if row['power'] is None:
            return f'{text}; no verdict, too few seeds for a test.'
        found = f'{100 * row["power"]:.0f} % (corrected p {row["p_holm"]:.2g})'
        return f'{text}; no verdict, the power for {100 * effect:g} % is {found}.'
    said = {'not shown': 'no difference is shown', 'better': 'better', 'worse': 'worse'}[word]
    return f'{text}; {said} (corrected p {row["p_holm"]:.2g}).'


def percent(delta: Mapping[str, Any]) -> str:
    """`-1.1 % [-7.0, 4.8], n = 3, paired t`; the interval is at 95 %."""
    if delta['low'] is None:
        return f'{100 * delta["mean"]:+.1f} % (no interval, n = {delta["n"]})'
    return (
        f'{100 * delta["mean"]:+.1f} % [{100 * delta["low"]:.1f}, {100 * delta["high"]:.1f}], '
        f'n = {delta["n"]}, {delta["test"]}'
    )
