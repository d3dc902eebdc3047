# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The parameter table: checks, cross rules, and what is written from it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from mtl_perception.node import parameter_table, parameters
from mtl_perception.node.parameter_table import BY_NAME, TABLE
from mtl_perception.node.parameters import ParameterError, Parameters
from mtl_perception.tasks import DETECTION, DRIVABLE, SEMANTIC

ROOT = Path(__file__).resolve().parents[2]


def test_table_and_dataclass_are_the_same() -> None:
    assert [item.name for item in fields(Parameters)] == [p.name for p in TABLE]


def test_defaults_are_valid() -> None:
    checked = Parameters.of({})
    assert checked.cameras == ('',)
    assert checked.score_threshold == BY_NAME['score_threshold'].default


def test_numbers_have_ranges_and_everything_is_described() -> None:
    for parameter in TABLE:
        assert parameter.description.endswith('.')
        if parameter.type_name in ('integer', 'double'):
            assert parameter.low is not None
            assert parameter.high is not None


@pytest.mark.parametrize(
    ('values', 'says'),
    [
        ({'score_threshold': 1.01}, 'score_threshold must be 0 to 1, found 1.01'),
        ({'score_threshold': float('nan')}, 'found nan'),
        ({'score_threshold': 1}, r'a double, found 1 \(write 1.0\)'),
        ({'score_threshold': True}, 'a double, found True'),
        ({'max_detections': 0}, 'max_detections must be 1 to 1000'),
        ({'max_detections': 3.0}, 'an? integer, found 3.0'),
        ({'build': 'yes'}, "a boolean, found 'yes'"),
        ({'precision': 'half'}, 'auto.*fp32.*half'),
        ({'image_transport': 'theora'}, "'raw', 'compressed'"),
        ({'image_reliability': 'maybe'}, 'best_effort'),
        ({'stall_warn_s': 2.0, 'stall_error_s': 2.0}, 'more than stall_warn_s'),
        ({'cameras': []}, 'distinct topic names'),
        ({'cameras': ['a', 'a']}, 'distinct'),
        ({'cameras': ['a', '']}, 'distinct'),
        ({'cameras': ['1st']}, 'distinct'),
        ({'cameras': ['a/b']}, 'distinct'),
        ({'cameras': ['a__b']}, 'distinct'),
        ({'cameras': [1]}, 'a string array'),
        ({'cameras': 'front'}, 'a string array'),
    ],
)
def test_bad_values_are_refused_with_the_reason(values: dict, says: str) -> None:
    with pytest.raises(ParameterError, match=says):
        Parameters.of(values)


def test_all_reasons_are_told_at_once() -> None:
    with pytest.raises(ParameterError, match=r'score_threshold.*max_detections'):
        Parameters.of({'score_threshold': 7.0, 'max_detections': 0})


def test_misspelt_names_get_a_hint_and_foreign_ones_none() -> None:
    assert "did you mean 'score_threshold'?" in parameters.unknown_refusal('scor_threshold')
    assert parameters.unknown_refusal('exposure_us') == "unknown parameter 'exposure_us'"
    assert parameters.unknown_refusal('model') == ''


def test_changes_of_a_running_node() -> None:
    present = {p.name: p.default for p in TABLE}
    refusal = parameters.refusal_of_change
    assert refusal(present, {'score_threshold': 0.5}, configured=True) == ''
    assert refusal(present, {'use_sim_time': True}, configured=True) == ''
    assert 'model is read' in refusal(present, {'model': 'other'}, configured=True)
    assert refusal(present, {'model': present['model']}, configured=True) == ''
    assert refusal(present, {'model': 'other'}, configured=False) == ''
    assert 'must be' in refusal(present, {'stall_warn_s': 5.0}, configured=False)
    both = {'stall_warn_s': 5.0, 'stall_error_s': 6.0}
    assert refusal(present, both, configured=False) == ''


def test_overlay_task_is_one_of_the_model() -> None:
    tasks = (DETECTION, DRIVABLE, SEMANTIC)
    assert parameters.overlay_task('auto', tasks) == 'drivable'
    assert parameters.overlay_task('auto', tasks[:1]) is None
    assert parameters.overlay_task('none', tasks) is None
    assert parameters.overlay_task('semantic', tasks) == 'semantic'
    for bad in ('detection', 'depth', ''):
        with pytest.raises(ParameterError, match=r'drivable.*semantic'):
            parameters.overlay_task(bad, tasks)


def test_yaml_file_is_written_from_the_table() -> None:
    text = (ROOT / 'config' / 'perception.param.yaml').read_text()
    assert text == parameter_table.as_yaml(), (
        'run: python -m mtl_perception.node.parameter_table yaml'
    )
    values = yaml.safe_load(text)['/**']['ros__parameters']
    assert values == {p.name: p.default for p in TABLE}


def test_markdown_has_a_row_a_parameter() -> None:
    rows = parameter_table.as_markdown().splitlines()[2:]
    assert [row.split('`')[1] for row in rows] == [p.name for p in TABLE]
    assert all(row.count('|') == 7 for row in rows)


def test_command_prints_or_explains(capsys: pytest.CaptureFixture[str]) -> None:
    assert parameter_table.main(['yaml']) == 0
    assert capsys.readouterr().out == parameter_table.as_yaml()
    assert parameter_table.main(['html']) == 2
    assert 'yaml|markdown' in capsys.readouterr().err
