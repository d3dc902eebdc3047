# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Unknown names are refused with the nearest known one."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from mtl_perception.schema import checked_keys, did_you_mean, fields_of


class Refused(Exception):
    pass


@dataclass
class Thing:
    name: str
    size: int = 0


@pytest.mark.parametrize(
    ('name', 'expected'),
    [('szie', "; did you mean 'size'?"), ('SIZE', "; did you mean 'size'?"), ('colour', '')],
)
def test_the_nearest_name_is_named(name, expected):
    assert did_you_mean(name, ['name', 'size']) == expected


@pytest.mark.parametrize(
    ('data', 'words'),
    [
        ({'name': 'a', 'sise': 1}, r"here: unknown key 'sise'; did you mean 'size'\?"),
        ({'name': 'a', 'x' * 5000: 1}, 'unknown key .{1,600} Known:'),
        ({'size': 1}, r"here: missing \['name'\]"),
        (['name'], 'here: expected a mapping, found list'),
    ],
)
def test_what_does_not_fit_is_refused(data, words):
    with pytest.raises(Refused, match=words):
        fields_of(Thing, data, 'here', Refused)


def test_what_fits_is_given_back():
    assert fields_of(Thing, {'name': 'a'}, 'here', Refused) == {'name': 'a'}
    assert checked_keys({}, ['a'], [], 'here', Refused) == {}
