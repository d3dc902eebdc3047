# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""YAML that is slow, huge or more than data."""

from __future__ import annotations

import pytest

from mtl_perception.plain_yaml import MAX_BYTES, PlainYamlError, load_plain_yaml, read_plain_yaml
from mtl_perception.text import one_line, quoted


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('59:59', '59:59'), ('1:30.5', '1:30.5'), ('12', 12), ('-3', -3), ('0x1F', 31),
        ('1.5', 1.5), ('1e-3', 0.001), ('.5', 0.5), ('true', True), ('~', None), ('text', 'text'),
        ('1_000', '1_000'), ("'9999999999999999999999'", '9999999999999999999999'),
    ],
)  # fmt: skip
def test_a_value_is_read_as_people_mean_it(text, value):
    assert load_plain_yaml(f'x: {text}') == {'x': value}


@pytest.mark.parametrize(
    ('text', 'what'),
    [
        ('x: ' + '9' * 5000, 'an integer of 5000 digits'),
        ('x: ' + '1_' * 4000, 'an integer of 8000 digits'),
        ('x: &a [1]\ny: *a', 'aliases'),
        ('x: !!set {a}', 'tags'),
        ('x: !' + 'Z' * 5000 + ' 1', r'Z.\.\.\. \(\d+ characters\)'),
        ('[' * 100, 'nested deeper'),
        ('x: 2001-99-99', 'not readable YAML'),
    ],
)
def test_what_is_more_than_plain_data_is_refused(text, what):
    with pytest.raises(PlainYamlError, match=what):
        load_plain_yaml(text)


def test_a_long_number_in_base_60_is_text_and_read_at_once():
    """PyYAML's own loader takes quadratic time: half an hour for this one."""
    text = '59:' * 80_000 + '59'

    assert load_plain_yaml(f'x: {text}') == {'x': text}


def test_no_more_of_a_file_is_read_than_is_allowed(tmp_path):
    path = tmp_path / 'big.yaml'
    path.write_bytes(b'#' * (MAX_BYTES + 1))

    with pytest.raises(PlainYamlError, match='larger than'):
        read_plain_yaml(path)


def test_a_long_text_is_shortened_and_counted():
    assert one_line('Z' * 2_000_000) == 'Z' * 200 + '... (2000000 characters)'
    assert quoted('Z' * 2_000_000) == repr('Z' * 200) + '... (2000000 characters)'
    assert one_line('short\n\x1b[31m') == 'short \\x1b[31m'
    assert quoted([1, 2]) == '[1, 2]'
    assert len(quoted(list(range(10**6)))) < 300
