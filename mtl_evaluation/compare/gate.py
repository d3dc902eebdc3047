# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Rules for a comparison and their verdict, for CI: may the second run's model replace the first's?

    schema: 1
    max_unpaired: 0                  # frames that only one of the runs has (default 0)
    rules:
      - metric: detection/AP50       # task/figure, or task/figure/class: detection/AP50/pedestrian
        max_drop: 0.005              # fractions: half a point
        confidence: 0.95             # one-sided (default 0.95)
      - metric: semantic/miou
        slice: timeofday=night       # only these frames (default: all)
        max_drop: 0.01
        min_frames: 50               # fewer labelled frames are no evidence (default 1)
        allow_undecided: true        # too little evidence does not stop it (default false)
      - metric: semantic/flicker     # where less is better
        max_rise: 0.002
      - metric: detection/AP50/car
        min_value: 0.4               # of the second run, whatever the first had
      - metric: detection/HOTA       # tracks; over whole drives, so without a slice
        max_drop: 0.01

A rule PASSes when, with the confidence asked for, its limit is kept: the one-sided bound of the
change lies on the right side of it. It FAILs when the opposite bound shows that the limit is
broken. In between, and with fewer labelled frames than `min_frames` or fewer than ten blocks of
driving, it is UNDECIDED: the frames are too few to tell, which is no reason to trust new weights,
so it stops the gate unless the rule allows it. All rules have to hold, so several rules at 95 % do
not make a wrong PASS likelier than 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mtl_evaluation import kinds
from mtl_evaluation.compare.bootstrap import MIN_BLOCKS, lower_bound, upper_bound
from mtl_evaluation.compare.differences import Difference
from mtl_perception.plain_yaml import PlainYamlError, read_plain_yaml
from mtl_perception.schema import did_you_mean

SCHEMA = 1
PASS, FAIL, UNDECIDED = 'PASS', 'FAIL', 'UNDECIDED'
LIMITS = ('max_drop', 'max_rise', 'min_value')


class GateError(Exception):
    """A gate that cannot be used: what, where, expected, found, next step."""


@dataclass(frozen=True)
class Rule:
    """One rule; exactly one of the limits is set."""

    metric: str
    slice: str = ''
    max_drop: float | None = None
    max_rise: float | None = None
    min_value: float | None = None
    confidence: float = 0.95
    min_frames: int = 1
    allow_undecided: bool = False

    @property
    def known(self) -> kinds.Figure:
        """What is known of its figure."""
        return kinds.figure(self.metric.partition('/')[2])

    def __str__(self) -> str:
        """As a person says it."""
        limit = next(name for name in LIMITS if getattr(self, name) is not None)
        what = {
            'max_drop': 'may fall by at most',
            'max_rise': 'may rise by at most',
            'min_value': 'must be at least',
        }[limit]
        where = f' in {self.slice}' if self.slice else ''
        return f'{self.metric}{where} {what} {self.known.points(getattr(self, limit), ".3g")}'


@dataclass(frozen=True)
class Gate:
    """All rules of a file."""

    path: Path
    rules: tuple[Rule, ...]
    max_unpaired: int = 0

    def asked(self) -> dict[str, set[str]]:
        """Metrics by slice, for `differences`."""
        found: dict[str, set[str]] = {}
        for rule in self.rules:
            found.setdefault(rule.slice, set()).add(rule.metric)
        return found


@dataclass(frozen=True)
class Ruling:
    """What became of a rule: PASS, FAIL or UNDECIDED, and why."""

    rule: Rule
    word: str
    why: str

    @property
    def stops(self) -> bool:
        """Whether it keeps the gate from passing."""
        return self.word == FAIL or (self.word == UNDECIDED and not self.rule.allow_undecided)


def read_gate(path: Path) -> Gate:
    """Read and check a gate file; raises GateError."""
    try:
        data = read_plain_yaml(path)
    except (OSError, PlainYamlError) as error:
        raise GateError(
            f'cannot read the gate {path}: {error}. config/gate.yaml is one to start from'
        ) from error
    _check_keys(data, ('schema', 'rules', 'max_unpaired'), f'{path}')
    if data.get('schema') != SCHEMA:
        raise GateError(f'{path}: schema is {data.get("schema")!r}, this version reads {SCHEMA}')
    rules = data.get('rules')
    if not isinstance(rules, list) or not rules:
        raise GateError(f'{path}: rules is {rules!r}, expected a list of at least one rule')
    unpaired = data.get('max_unpaired', 0)
    if type(unpaired) is not int or unpaired < 0:
        raise GateError(f'{path}: max_unpaired is {unpaired!r}, expected a count of frames')
    found = tuple(_rule(rule, f'{path}, rule {i}') for i, rule in enumerate(rules, start=1))
    return Gate(path, found, unpaired)


def check_names(gate: Gate, metrics: Sequence[str], slices: Mapping[str, Sequence[str]]) -> None:
    """Hold the rules' names against what the runs can have; raises GateError with the nearest.

    slices: what may stand after each `name=`; an empty sequence allows anything.
    """
    for number, rule in enumerate(gate.rules, start=1):
        where = f'{gate.path}, rule {number}'
        if rule.metric not in metrics:
            raise GateError(f'{where}: no metric {rule.metric!r}{_nearest(rule.metric, metrics)}')
        if rule.slice:
            name, _, value = rule.slice.partition('=')
            if name not in slices:
                raise GateError(f'{where}: no slice by {name!r}{_nearest(name, list(slices))}')
            if slices[name] and value not in slices[name]:
                raise GateError(
                    f'{where}: {name} is never {value!r}{_nearest(value, slices[name])}'
                )


def rule_on(rule: Rule, found: Difference | None, same_answers: bool) -> Ruling:
    """Hold one rule against its difference; None: no frame of its slice."""
    if found is None or not found.frames:
        return Ruling(rule, UNDECIDED, 'no paired frame says anything about it')
    if rule.min_value is None and same_answers:
        return Ruling(rule, PASS, 'every answer of the two runs is the same, bit for bit')
    if found.difference is None:
        return Ruling(rule, UNDECIDED, 'not measured in one of the runs')
    if found.frames < rule.min_frames or found.blocks < MIN_BLOCKS:
        return Ruling(
            rule,
            UNDECIDED,
            f'{rule.known.points(found.difference, "+.2f")}, on {found.frames} frames in '
            f'{found.blocks} {found.unit}; expected {rule.min_frames} frames and {MIN_BLOCKS} '
            f'{found.unit}',
        )
    if rule.min_value is not None:
        low = lower_bound(found.second_samples, found.blocks, rule.confidence)
        high = upper_bound(found.second_samples, found.blocks, rule.confidence)
        return _held(
            rule, low - rule.min_value, high - rule.min_value, _level(rule, found, low, high)
        )
    low, high = found.at_least(rule.confidence), found.at_most(rule.confidence)
    change = _change(rule, found.difference, low, high)
    if rule.max_drop is not None:
        return _held(rule, low + rule.max_drop, high + rule.max_drop, change)
    assert rule.max_rise is not None
    return _held(rule, rule.max_rise - high, rule.max_rise - low, change)


def _held(rule: Rule, worst: float, best: float, text: str) -> Ruling:
    """`worst` and `best`: what is left to the limit at the two bounds."""
    sure = f'{100 * rule.confidence:g} % confidence'
    if not math.isfinite(worst + best):
        return Ruling(rule, UNDECIDED, f'{text}: labelled in too few places to tell')
    if worst >= 0:
        return Ruling(rule, PASS, f'{text}: kept, with {sure}')
    if best < 0:
        return Ruling(rule, FAIL, f'{text}: broken, with {sure}')
    return Ruling(rule, UNDECIDED, f'{text}: too few frames to tell with {sure}')


def _change(rule: Rule, value: float, low: float, high: float) -> str:
    shown = rule.known.shown
    return f'{rule.known.points(value, "+.2f")} ({shown(low, "+.2f")} to {shown(high, "+.2f")})'


def _level(rule: Rule, found: Difference, low: float, high: float) -> str:
    assert found.second is not None
    return (
        f'{rule.known.points(found.second)} ({rule.known.shown(low)} to {rule.known.shown(high)})'
    )


def _rule(data: Any, where: str) -> Rule:
    known = [field.name for field in fields(Rule)]
    _check_keys(data, known, where)
    if not isinstance(data.get('metric'), str):
        raise GateError(f'{where}: metric is {data.get("metric")!r}, expected task/figure')
    where += f' ({data["metric"]})'
    limits = [name for name in LIMITS if name in data]
    if len(limits) != 1:
        raise GateError(
            f'{where}: expected exactly one of {", ".join(LIMITS)}, found {limits or "none"}'
        )
    known_figure = kinds.figure(data['metric'].partition('/')[2])
    less = known_figure.lower_is_better
    if limits[0] == ('max_drop' if less else 'max_rise'):
        better = 'less is better: use max_rise' if less else 'more is better: use max_drop'
        raise GateError(f'{where}: {limits[0]} does not fit, {better}')
    most = 1 if known_figure.is_share else math.inf
    numbers = {limits[0]: (0, most), 'confidence': (0.5, 1)}
    for name, (low, high) in numbers.items():
        value = data.get(name, 0.95)
        if type(value) not in (int, float) or not low <= value < high:
            raise GateError(
                f'{where}: {name} is {value!r}, expected a fraction from {low} to below {high} '
                f'(half a point is 0.005)'
            )
    for name, kind in (('slice', str), ('min_frames', int), ('allow_undecided', bool)):
        if name in data and type(data[name]) is not kind:
            raise GateError(f'{where}: {name} is {data[name]!r}, expected {kind.__name__}')
    if data.get('slice') and '=' not in data['slice']:
        raise GateError(f'{where}: slice is {data["slice"]!r}, expected name=value')
    return Rule(**data)


def _check_keys(data: Any, known: Sequence[str], where: str) -> None:
    if not isinstance(data, dict):
        raise GateError(f'{where}: expected {", ".join(known[:3])}, ..., found {data!r:.80}')
    for key in map(str, data):
        if key not in known:
            rule = (
                '. A rule is an item of `rules`: `- metric: detection/AP50`' if '/' in key else ''
            )
            raise GateError(f'{where}: unknown key {key!r}{_nearest(key, known)}{rule}')


def _nearest(name: str, known: Sequence[str]) -> str:
    return did_you_mean(name, known) or f'; there are {", ".join(known)}'
