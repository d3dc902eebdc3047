# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The gate's rules: what they decide by hand-made evidence, and what a wrong file is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mtl_evaluation.compare.differences import Difference
from mtl_evaluation.compare.gate import (
    FAIL,
    PASS,
    UNDECIDED,
    GateError,
    Rule,
    check_names,
    read_gate,
    rule_on,
)

ROOT = Path(__file__).resolve().parents[2]


def difference(low: float, high: float, frames: int = 400, blocks: int = 400) -> Difference:
    """One whose samples are spread evenly from `low` to `high`, around a first run's 0.5."""
    samples = np.linspace(low, high, 2001)
    middle = (low + high) / 2
    return Difference(
        'detection', 'AP50', '', frames, blocks, 0.5, 0.5 + middle, samples, 0.5 + samples
    )


def verdict(rule: Rule, found: Difference | None, same_answers: bool = False) -> str:
    return rule_on(rule, found, same_answers).word


def test_a_drop_is_allowed_forbidden_or_unknown():
    rule = Rule('detection/AP50', max_drop=0.01)

    assert verdict(rule, difference(-0.008, 0.004)) == PASS
    assert verdict(rule, difference(-0.05, -0.02)) == FAIL
    assert verdict(rule, difference(-0.05, 0.05)) == UNDECIDED
    # The bound is one-sided: 5 % of these samples lie below -0.01, and no more may.
    assert verdict(rule, difference(-0.0102, 0.0)) == PASS
    assert verdict(rule, difference(-0.0110, 0.0)) == UNDECIDED
    assert verdict(Rule('detection/AP50', max_drop=0.01, confidence=0.8),
                   difference(-0.0110, 0.0)) == PASS  # fmt: skip


def test_a_rise_of_what_should_fall():
    rule = Rule('semantic/flicker', max_rise=0.01)

    assert verdict(rule, difference(-0.05, 0.0)) == PASS
    assert verdict(rule, difference(0.02, 0.05)) == FAIL
    assert verdict(rule, difference(-0.05, 0.05)) == UNDECIDED


def test_a_floor_under_the_second_run():
    rule = Rule('detection/AP50', min_value=0.5)

    assert verdict(rule, difference(0.01, 0.03)) == PASS
    assert verdict(rule, difference(-0.03, -0.01)) == FAIL
    assert verdict(rule, difference(-0.01, 0.01)) == UNDECIDED
    # Equal runs are no reason to let a floor go.
    assert verdict(rule, difference(-0.03, -0.01), same_answers=True) == FAIL


def test_equal_answers_pass_on_any_evidence():
    rule = Rule('detection/AP50', max_drop=0.0)

    assert verdict(rule, difference(0, 0, frames=6, blocks=1), same_answers=True) == PASS
    assert verdict(rule, difference(0, 0)) == PASS


@pytest.mark.parametrize(
    'found',
    [
        None,
        difference(0.1, 0.2, frames=0),
        difference(0.1, 0.2, frames=49),
        difference(0.1, 0.2, blocks=9),
        Difference('d', 'f', '', 99, 99, None, 0.5, np.full(9, np.nan), np.full(9, np.nan)),
        Difference('d', 'f', '', 99, 99, 0.4, 0.5, np.full(9, np.nan), np.full(9, np.nan)),
    ],
)
def test_too_little_evidence_decides_nothing(found):
    rule = Rule('detection/AP50', max_drop=0.5, min_frames=50)

    assert rule_on(rule, found, False).word == UNDECIDED
    assert rule_on(rule, found, False).stops
    allowed = Rule('detection/AP50', max_drop=0.5, min_frames=50, allow_undecided=True)
    assert not rule_on(allowed, found, False).stops


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / 'gate.yaml'
    path.write_text(text)
    return path


def test_the_gate_that_comes_with_the_package_is_read():
    gate = read_gate(ROOT / 'config' / 'gate.yaml')

    assert {rule.metric for rule in gate.rules} >= {'detection/AP50', 'semantic/miou'}
    assert all(rule.confidence == 0.95 for rule in gate.rules)


@pytest.mark.parametrize(
    ('text', 'told'),
    [
        ('schema: 1\nrules: []', 'at least one rule'),
        ('[]', 'expected schema'),
        ('schema: 2\nrules: [{metric: a/b, max_drop: 0}]', 'schema is 2'),
        ('schema: 1\nrule: [{metric: a/b, max_drop: 0}]', "did you mean 'rules'"),
        ('schema: 1\nrules: [{metric: a/b, max_dorp: 0}]', "did you mean 'max_drop'"),
        ('schema: 1\nrules: [{metric: a/b}]', 'exactly one of max_drop, max_rise, min_value'),
        ('schema: 1\nrules: [{metric: a/b, max_drop: 0, min_value: 1}]', 'exactly one'),
        ('schema: 1\nrules: [{metric: a/b, max_drop: 5}]', 'half a point is 0.005'),
        ('schema: 1\nrules: [{metric: a/b, max_drop: "0.1"}]', 'expected a fraction'),
        ('schema: 1\nrules: [{metric: a/b, max_drop: 0, confidence: 95}]', 'confidence is 95'),
        ('schema: 1\nrules: [{metric: s/flicker, max_drop: 0}]', 'less is better: use max_rise'),
        ('schema: 1\nrules: [{metric: s/miou, max_rise: 0}]', 'more is better: use max_drop'),
        ('schema: 1\nrules: [{metric: a/b, max_drop: 0, slice: night}]', 'expected name=value'),
        ('schema: 1\nrules: [{metric: a/b, max_drop: 0, min_frames: many}]', 'expected int'),
        ('schema: 1\nmax_unpaired: -1\nrules: [{metric: a/b, max_drop: 0}]', 'count of frames'),
        ('schema: [', 'cannot read the gate'),
        ('schema: 1\nrules: [&r {metric: a/b}, *r]', 'YAML aliases are not allowed'),
        ('schema: ' + '7:' * 200_000 + '7', 'larger than'),
        ('detection/AP50: {max_drop: 0}', '`- metric: detection/AP50`'),
    ],
)
def test_a_wrong_gate_is_told_what_is_wrong(tmp_path, text, told):
    with pytest.raises(GateError, match='gate') as error:
        read_gate(written(tmp_path, text))

    assert told in str(error.value)


def test_a_missing_gate_is_named(tmp_path):
    with pytest.raises(GateError, match=r'none\.yaml'):
        read_gate(tmp_path / 'none.yaml')


@pytest.mark.parametrize(
    ('rule', 'told'),
    [
        ('metric: detection/AP5O, max_drop: 0', "did you mean 'detection/AP50'"),
        ('metric: detection/AP50, max_drop: 0, slice: timofday=night', "did you mean 'timeofday'"),
        ('metric: detection/AP50, max_drop: 0, slice: timeofday=nigth', "did you mean 'night'"),
    ],
)
def test_names_that_no_run_has_are_told_the_nearest(tmp_path, rule, told):
    gate = read_gate(written(tmp_path, f'schema: 1\nrules: [{{{rule}}}]'))

    with pytest.raises(GateError) as error:
        check_names(gate, ['detection/AP50', 'semantic/miou'], {'timeofday': ['night'], 'bag': ()})

    assert told in str(error.value)


def test_slices_that_are_free_allow_anything(tmp_path):
    text = 'schema: 1\nrules: [{metric: detection/AP50, max_drop: 0, slice: bag=town}]'

    check_names(read_gate(written(tmp_path, text)), ['detection/AP50'], {'bag': ()})
