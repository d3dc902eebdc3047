# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What `mtl_evaluation` adds to the commands of the vehicle: entry points, loaded when asked for.

The vehicle imports no other package of the project. Two groups of entry points cross the wall:
`mtl_perception.commands` (modules with `add_arguments(parser)` and `run(args)`) and
`mtl_perception.hooks` (functions that `mtl-perception compile` calls). setup.py declares them.

Three more are for plug-ins, which add a kind of task with one module in each:
`mtl_perception.kinds`, `mtl_evaluation.kinds` and `training.tasks` (docs/kinds.md).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from typing import Any

COMMANDS = 'mtl_perception.commands'
HOOKS = 'mtl_perception.hooks'


class ExtensionError(RuntimeError):
    """What was asked for belongs to a package that is not installed; the text says how to."""


def load(group: str, name: str, asked: str) -> Any:
    """The module or function that an entry point names.

    group: COMMANDS or HOOKS. asked: what the user wrote, for the error. Raises ExtensionError when
    no installed package has that entry point, or when one that it needs is not installed.
    """
    for found in entry_points(group=group, name=name):
        try:
            return found.load()
        except ModuleNotFoundError as error:
            raise ExtensionError(_not_installed(asked, error.name or str(error))) from error
    raise ExtensionError(_not_installed(asked, 'mtl_evaluation'))


def kinds_in(package: str, path: Iterable[str]) -> dict[str, Any]:
    """By name, the `KIND` of every module of a package that has one, and of plug-ins.

    path: the package's `__path__`. Plug-ins are modules that entry points of the group `package`
    name. Raises ValueError where two kinds have one name.
    """
    modules = [import_module(f'{package}.{found.name}') for found in iter_modules(path)]
    modules += [found.load() for found in entry_points(group=package)]
    kinds: dict[str, Any] = {}
    for module in modules:
        kind = getattr(module, 'KIND', None)
        if kind is not None and kinds.setdefault(kind.name, kind) is not kind:
            raise ValueError(
                f'{module.__name__}: kind {kind.name!r} is {type(kinds[kind.name]).__name__} '
                f'already; expected a name of its own'
            )
    return kinds


def _not_installed(asked: str, package: str) -> str:
    return (
        f'{asked} needs {package}, which is not installed in {sys.prefix}. Run `make '
        f"setup-evaluation` in the checkout, or pip install 'mtl_perception[evaluation]'"
    )
