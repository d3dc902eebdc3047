# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Child processes that import what this process imports, and nothing from the current folder.

`python -m` and `python -c` put the current folder before everything else, and so does an empty
entry of PYTHONPATH, as `export PYTHONPATH=$PYTHONPATH:/x` leaves it: a `yaml.py` of the user would
run in our child. Children are started isolated instead (`-I`), and are given this process's own
import path. That path matters: a sourced ROS 2 is known by PYTHONPATH alone, and an editable
install by hooks of this process.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import mtl_perception

ROOT = str(Path(mtl_perception.__file__).resolve().parents[1])
"""The folder that this package was imported from."""

_BOOT = (
    'import json, runpy, sys; sys.path[:] = json.loads(sys.argv[1]); '
    'name = sys.argv[2]; del sys.argv[1:3]; '
    'runpy.run_module(name, run_name="__main__", alter_sys=True)'
)


def module_command(module: str, *arguments: str) -> list[str]:
    """The command line of `python -m module arguments`, isolated as the module says."""
    flags = ['-X', 'utf8'] if sys.flags.utf8_mode else []
    return [
        sys.executable,
        *flags,
        '-I',
        '-c',
        _BOOT,
        json.dumps(import_path()),
        module,
        *arguments,
    ]


def import_path() -> list[str]:
    """Where this process imports from, without the current folder; our own package goes first.

    The current folder stays where it is this package's own, or where PYTHONPATH spells it out.
    """
    here = os.getcwd()
    spelt_out = os.environ.get('PYTHONPATH', '').split(os.pathsep)
    kept = [
        entry
        for entry in sys.path
        if os.path.isabs(entry) and (entry != here or entry in spelt_out)
    ]
    return list(dict.fromkeys([ROOT, *kept]))


@contextmanager
def safe_path() -> Iterator[None]:
    """Python children started inside take nothing from the current folder (Python 3.11 and later).

    For those that libraries start: multiprocessing with its resource tracker, torch's compilers.
    """
    before = os.environ.get('PYTHONSAFEPATH')
    os.environ['PYTHONSAFEPATH'] = '1'
    try:
        yield
    finally:
        if before is None:
            os.environ.pop('PYTHONSAFEPATH', None)
        else:
            os.environ['PYTHONSAFEPATH'] = before


class _Process(SpawnProcess):
    """A process of multiprocessing's `spawn`, started within `safe_path`."""

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Any:
        with safe_path():
            return SpawnProcess._Popen(process_obj)  # type: ignore[attr-defined]


class IsolatedSpawn(SpawnContext):
    """multiprocessing's `spawn` for worker processes: `IsolatedSpawn().Process(...)`, pools too.

    Not `fork`: the process that starts them may hold threads of OpenCV and of an engine.
    """

    Process = _Process  # type: ignore[assignment]

    def __init__(self) -> None:
        """Start the resource tracker, which the first lock would start unprotected."""
        with safe_path():
            resource_tracker.ensure_running()
