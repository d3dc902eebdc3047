# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What a study is for: few comparisons that its file names before the first run.

    primary:
      effect_percent: 3                    # the smallest Delta_MTL that would matter
      deviation_percent: 2                 # of the difference of two runs of one seed; or
      pilot: ../../../docs/studies/driving_mini/report.json    # take it from an earlier report
      comparisons:                         # labels of ours; the first of each axis where left out
        - {against: single}
        - {sharing: mtan, against: {sharing: hard}}            # the labels in which theirs differs

Only these are tested, with Holm's correction over them; everything else in a report is exploratory.
From effect and deviation follows how many seeds the study needs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from mtl_perception.schema import checked_keys, did_you_mean
from training.study.errors import StudyError
from training.study.significance import MOST_SEEDS, power, seeds_for

SINGLE = 'single'
LEVEL = 0.05
"""Of the tests, over all primary comparisons together."""

POWER = 0.8
"""That a study should have for its smallest effect of interest."""

Labels = dict[str, str]


@dataclass(frozen=True)
class Comparison:
    """Two combinations by their labels; theirs is None for the single-task networks of ours.

    told: the axes that name a combination, all but those on which the study has one label.
    """

    ours: Labels
    theirs: Labels | None
    told: tuple[str, ...]

    @property
    def name(self) -> str:
        """For people."""
        ours = ', '.join(label for axis, label in self.ours.items() if axis in self.told)
        if self.theirs is None:
            return f'{ours} against single-task'
        differs = [name for axis, name in self.theirs.items() if name != self.ours[axis]]
        return f'{ours} against {", ".join(differs)}'


@dataclass(frozen=True)
class Primary:
    """The checked part of a study file; effect and deviation as fractions, source of the latter."""

    effect: float
    deviation: float
    source: str
    comparisons: tuple[Comparison, ...]

    @property
    def level(self) -> float:
        """Of the first step of Holm's correction, which the power is estimated for."""
        return LEVEL / len(self.comparisons)

    def estimate(self, seeds: int) -> dict[str, Any]:
        """How many seeds are needed, what the planned ones can find, and the warning, or ''."""
        needed = seeds_for(self.effect, self.deviation, self.level, POWER)
        error = self.deviation / math.sqrt(seeds)
        planned = power(self.effect, error, seeds - 1, self.level) if seeds > 1 else 0.0
        enough = needed is not None and seeds >= needed
        warning = (
            f'{seeds} seed{"s" * (seeds != 1)} planned, '
            f'{needed or f"more than {MOST_SEEDS}"} needed: a Delta_MTL of '
            f'{100 * self.effect:g} % would be found with {100 * planned:.0f} % power only'
        )
        return {
            'effect': self.effect, 'deviation': self.deviation, 'source': self.source,
            'comparisons': len(self.comparisons), 'level': self.level, 'seeds': seeds,
            'needed': needed, 'power': planned, 'warning': '' if enough else warning,
        }  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """What must not change once runs have begun."""
        return {
            'effect': self.effect, 'deviation': self.deviation,
            'comparisons': [{'ours': c.ours, 'theirs': c.theirs} for c in self.comparisons],
        }  # fmt: skip


def in_words(estimate: Mapping[str, Any]) -> str:
    """A power estimate as one sentence, the warning not included."""
    needed = estimate['needed']
    count = f'{needed} seeds are' if needed else f'more than {MOST_SEEDS} seeds are'
    return (
        f'to find a Delta_MTL of {100 * estimate["effect"]:g} % with {100 * POWER:g} % power '
        f'{count} needed (deviation {100 * estimate["deviation"]:.3g} %, {estimate["source"]}; '
        f'{estimate["comparisons"]} primary comparison{"s" * (estimate["comparisons"] != 1)}, '
        f'Holm), {estimate["seeds"]} are planned with {100 * estimate["power"]:.0f} %'
    )


def read_primary(
    found: Any, axes: Mapping[str, list[str]], rules: Iterable[Mapping[str, list[str]]], path: Path
) -> Primary:
    """Check the part `primary` of a study file; raises StudyError.

    axes: labels by axis; rules: `exclude` of the study; path: of the file, which `pilot` is
    relative to.
    """
    where = f'{path}: primary'
    keys = ('effect_percent', 'deviation_percent', 'pilot', 'comparisons')
    found = checked_keys(found, keys, ('effect_percent', 'comparisons'), where, StudyError)
    if ('deviation_percent' in found) == ('pilot' in found):
        raise StudyError(
            f'{where}: expected deviation_percent or pilot, one of both: how many seeds are '
            f'needed follows from it'
        )
    if not isinstance(found['comparisons'], list) or not found['comparisons']:
        raise StudyError(f'{where}: comparisons: expected a list of at least one')
    comparisons = tuple(
        _comparison(each, axes, list(rules), f'{where}: comparisons[{i}]')
        for i, each in enumerate(found['comparisons'])
    )
    effect = _percent(found['effect_percent'], f'{where}: effect_percent')
    if 'pilot' in found:
        pilot = path.parent / str(found['pilot'])
        return Primary(effect, pilot_deviation(pilot), f'of {pilot.name} in {pilot.parent.name}',
                       comparisons)  # fmt: skip
    deviation = _percent(found['deviation_percent'], f'{where}: deviation_percent')
    return Primary(effect, deviation, 'stated', comparisons)


def pilot_deviation(path: Path) -> float:
    """Of the difference of two runs of one seed, pooled over the combinations of a report.json."""
    try:
        report = json.loads(path.read_text('utf-8'))
        rows = [row['delta'] for row in report['combinations'] if row.get('delta')]
        deviations = [row['deviation'] for row in rows if row['test'] == 'paired t']
        return math.sqrt(fmean(each**2 for each in deviations if each is not None))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(
            f'{path}: pilot: expected the report.json of a study whose seeds are paired: {error}'
        ) from error


def is_excluded(labels: Mapping[str, str], rules: Iterable[Mapping[str, list[str]]]) -> bool:
    """Whether some rule of `exclude` has all of a combination's labels."""
    return any(all(labels[axis] in names for axis, names in rule.items()) for rule in rules)


def _percent(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 100:
        raise StudyError(f'{where}: expected a number above 0 and up to 100, found {value!r}')
    return value / 100


def _comparison(
    found: Any, axes: Mapping[str, list[str]], rules: list[Mapping[str, list[str]]], where: str
) -> Comparison:
    found = checked_keys(found, (*axes, 'against'), ('against',), where, StudyError)
    against = found.pop('against')
    ours = {axis: labels[0] for axis, labels in axes.items()} | _labels(found, axes, where)
    theirs = None
    if against != SINGLE:
        where_against = f'{where}: against'
        others = {axis: labels for axis, labels in axes.items() if axis != 'tasks'}
        if not isinstance(against, Mapping):
            raise StudyError(
                f'{where_against}: expected {SINGLE}, or the labels in which the other side '
                f'differs, found {against!r}'
            )
        differing = checked_keys(dict(against), others, (), where_against, StudyError)
        theirs = ours | _labels(differing, axes, where_against)
        if theirs == ours:
            raise StudyError(f'{where}: both sides are the same combination')
    for side in (ours, theirs):
        if side is not None and is_excluded(side, rules):
            raise StudyError(f'{where}: the study leaves {", ".join(side.values())} out (exclude)')
    told = tuple(axis for axis, names in axes.items() if len(names) > 1)
    return Comparison(ours, theirs, told or tuple(axes))


def _labels(found: Mapping[str, Any], axes: Mapping[str, list[str]], where: str) -> Labels:
    for axis, label in found.items():
        if str(label) not in axes[axis]:
            raise StudyError(
                f'{where}: {axis} {label!r}, expected one of {axes[axis]}'
                f'{did_you_mean(label, axes[axis])}'
            )
    return {axis: str(label) for axis, label in found.items()}
