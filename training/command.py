# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What every `python -m training...` does around its own `main`: no ending is a traceback.

A command that is stopped, whose output goes nowhere, or whose paths are of another encoding than
UTF-8 ends with one line and an exit code: 130 when stopped, else 1.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path

STOPPED = 130
"""Exit code after Ctrl-C, as shells have it."""


def run(main: Callable[[], int]) -> int:
    """Call a command's `main`; the exit code, whatever ends it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a path or class name may be of any encoding
            stream.reconfigure(errors='backslashreplace')
    try:
        code = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _end('stopped; what was finished is kept, and the same command goes on', STOPPED)
    except BrokenPipeError:  # `... | head`
        return _end('', 1)
    except UnicodeEncodeError as error:
        text = error.object.encode(errors='backslashreplace').decode()
        return _end(f'error: {text!r} is not UTF-8, which a library here needs: rename it', 1)
    except OSError as error:
        return _end(f'error: {error}', 1)
    return code


def check_output(option: str, path: Path | None) -> None:
    """Raise OSError, naming the option, unless a file can be written at `path`; None is none.

    Folders above are made, as they will be needed; the file itself is not.
    """
    if path is None:
        return
    if path.is_dir():
        raise IsADirectoryError(f'{option}: {path} is a folder, expected a file to be written')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f'{option}: {path} cannot be written: {error}') from error
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise PermissionError(f'{option}: {path} cannot be written: no permission')


def at_least(least: int) -> Callable[[str], int]:
    """Type of an argparse option that counts something: a whole number, `least` or more."""

    def count(text: str) -> int:
        if (value := int(text)) < least:
            raise argparse.ArgumentTypeError(f'expected at least {least}, found {value}')
        return value

    count.__name__ = 'whole number'  # argparse: "invalid whole number value: 'abc'"
    return count


def _end(text: str, code: int) -> int:
    """Say why a command ends; what stdout still holds is given up, or Python tries it again."""
    try:
        if text:
            print(text, file=sys.stderr, flush=True)
    except OSError:
        pass  # stderr is full as well
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    return code
