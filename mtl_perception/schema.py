# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Strict reading of what people write: an unknown name is an error that names the nearest one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, fields
from difflib import get_close_matches
from typing import Any

from mtl_perception.text import quoted


def did_you_mean(name: object, known: Iterable[str], cutoff: float = 0.6) -> str:
    """`; did you mean 'x'?` for the known name nearest to this one, '' where none is near.

    cutoff: 0 (anything) to 1 (only the same), as difflib's; letters count alike in either case.
    """
    by_lower = {each.lower(): each for each in known}
    near = get_close_matches(str(name).lower(), by_lower, 1, cutoff)
    return f'; did you mean {by_lower[near[0]]!r}?' if near else ''


def checked_keys(
    data: Any, known: Iterable[str], required: Iterable[str], where: str, error: type[Exception]
) -> dict[str, Any]:
    """A mapping whose keys are all known and of which none that is required is missing.

    where: file and place in it, for the message. Raises `error`.
    """
    known = list(known)
    if not isinstance(data, dict):
        raise error(f'{where}: expected a mapping, found {type(data).__name__}')
    for key in data:
        if key not in known:
            raise error(
                f'{where}: unknown key {quoted(key)}{did_you_mean(key, known)} '
                f'Known: {sorted(known)}'
            )
    missing = [name for name in required if name not in data]
    if missing:
        raise error(f'{where}: missing {missing}')
    return dict(data)


def fields_of(cls: type, data: Any, where: str, error: type[Exception]) -> dict[str, Any]:
    """The mapping as the arguments of a dataclass; raises as `checked_keys`."""
    known = {item.name: item for item in fields(cls)}
    required = [
        name
        for name, item in known.items()
        if item.default is MISSING and item.default_factory is MISSING
    ]
    return checked_keys(data, known, required, where, error)
