# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Options of a structure: a dataclass with defaults and ranges, from what a YAML file gives."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from mtl_perception.schema import did_you_mean
from training.network_error import NetworkError

OptionsT = TypeVar('OptionsT')


def within(default: float, low: float, high: float = math.inf) -> Any:
    """A number (of the default's type) in [low, high]."""
    return dataclasses.field(default=default, metadata={'range': (low, high)})


def unknown(what: str, name: str, known: Sequence[str]) -> NetworkError:
    """The error for a name that is not known; it names the nearest known one."""
    hint = did_you_mean(name, known, cutoff=0.5)
    return NetworkError(f'unknown {what} {name!r}{hint} Expected one of {list(known)}.')


def read_options(kind: type[OptionsT], structure: str, given: Mapping[str, Any]) -> OptionsT:
    """An instance of the dataclass `kind`; raises NetworkError naming structure and option."""
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name, value in given.items():
        if name not in fields:
            raise unknown(f'option of sharing {structure!r}', str(name), list(fields))
        wanted = type(fields[name].default)
        fits = isinstance(value, bool) if wanted is bool else _is_number(value, wanted)
        low, high = fields[name].metadata.get('range', (-math.inf, math.inf))
        if not fits or not low <= value <= high:
            limits = f' from {low:g} to {high:g}' if math.isfinite(low) else ''
            raise NetworkError(
                f'sharing {structure!r}: {name} is {value!r}, expected {wanted.__name__}{limits}'
            )
    return kind(**given)


def _is_number(value: Any, wanted: type) -> bool:
    number = (int, float) if wanted is float else int
    return isinstance(value, number) and not isinstance(value, bool)
