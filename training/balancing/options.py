# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Options of a balancing method: typed dataclasses whose fields carry their range.

`read_options` turns what a YAML file gives into such a dataclass. Unknown keys, wrong types and
values out of range are errors; an unknown key names the nearest known one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from mtl_perception.schema import did_you_mean

OptionsT = TypeVar('OptionsT')


class BalancingError(Exception):
    """A balancing method, option or combination that cannot work: which, why, what to do."""


@dataclass(frozen=True)
class NoOptions:
    """For methods without any."""


def number(default: float, low: float, high: float = math.inf, above: bool = False) -> Any:
    """A float or int (as annotated) in [low, high], or in (low, high] when `above`."""
    return dataclasses.field(default=default, metadata={'range': (low, high, above)})


def choice(default: str, *others: str) -> Any:
    """One word of a list."""
    return dataclasses.field(default=default, metadata={'words': (default, *others)})


def per_task(low: float, high: float = math.inf, above: bool = False) -> Any:
    """Task -> number in a range; tasks left out take the method's default."""
    return dataclasses.field(default_factory=dict, metadata={'range': (low, high, above)})


def word_per_task(*words: str) -> Any:
    """Task -> one word of a list; tasks left out take the method's default."""
    return dataclasses.field(default_factory=dict, metadata={'words': words})


def unknown(what: str, name: str, known: Sequence[str]) -> BalancingError:
    """The error for a name that is not known; it names the nearest known one."""
    hint = did_you_mean(name, known, cutoff=0.5)
    return BalancingError(f'unknown {what} {name!r}{hint} Expected one of {list(known)}.')


def read_options(
    kind: type[OptionsT], method: str, given: Mapping[str, Any], tasks: Sequence[str]
) -> OptionsT:
    """An instance of the dataclass `kind`; raises BalancingError naming method and option."""
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    values = {}
    for name, value in given.items():
        if name not in fields:
            raise unknown(f'option of {method}', name, list(fields))
        field, where = fields[name], f'{method}: option {name!r}'
        if field.default is not dataclasses.MISSING:
            values[name] = _value(where, value, type(field.default), field.metadata)
        elif not isinstance(value, Mapping):
            raise BalancingError(f'{where} is {value!r}, expected a value for each of some tasks')
        else:
            for task in value:
                if task not in tasks:
                    raise unknown(f'task in {where}', str(task), tasks)
            word = str if 'words' in field.metadata else float
            values[name] = {
                task: _value(f'{where} for {task!r}', each, word, field.metadata)
                for task, each in value.items()
            }
    return kind(**values)


def _value(where: str, value: Any, kind: type, metadata: Mapping[str, Any]) -> Any:
    if kind is bool or kind is str:
        words = metadata.get('words', (False, True))
        if not isinstance(value, kind) or value not in words:
            raise BalancingError(f'{where} is {value!r}, expected one of {list(words)}')
        return value
    low, high, above = metadata['range']
    fits = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        fits = fits and value == int(value)
    if not fits or not low <= value <= high or (above and value == low):
        raise BalancingError(
            f'{where} is {value!r}, expected {"an integer" if kind is int else "a number"} '
            f'{"above" if above else "from"} {low:g}' + (f' to {high:g}' if high < math.inf else '')
        )
    return kind(value)
