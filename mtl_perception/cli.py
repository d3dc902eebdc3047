# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""`mtl-perception`: the commands. Each is a module with `add_arguments(parser)` and `run(args)`.

Only the module of the command that was given is imported, so `--help` and errors come at once.
The commands of evaluation are entry points; without that package they say how to install it.
In a colcon workspace `ros2 run mtl_perception mtl-perception COMMAND` is the same.
Exit codes: 0 done, 1 a failure that one sentence on stderr explains, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mtl_perception import extensions
from mtl_perception.targets import check_target

COMMANDS: dict[str, tuple[str, str]] = {
    'compile': ('mtl_perception.compile', 'build the engine of a model for this machine'),
    'bundle': ('mtl_perception.describe', 'say what a model answers, and what it may be used for'),
    'bench': ('', 'time the engines of this machine against each other'),
    'replay': ('', 'run a model over a bag and measure accuracy'),
    'compare': ('', 'say whether one run may replace another'),
    'bag': ('', 'make bags, and say what a bag holds'),
    'doctor': ('mtl_perception.doctor', 'say what this machine has and what is missing'),
    'demo': ('', 'play a drive through the live node and report'),
}
"""Command: (module, one line of help). Without a module it is an entry point of evaluation."""
PACKAGES = ('mtl_perception', 'mtl_evaluation', 'mtl_scenes')
"""Those whose errors are sentences for people, and whose logs are shown."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _print_anything()
    try:
        try:
            args = _parser(arguments).parse_args(arguments)
            _start_logging(args.verbose)
            for option in ('json', 'output'):
                if isinstance(target := getattr(args, option, None), Path):
                    check_target(target.expanduser(), f'--{option}', is_folder=option == 'output')
            return int(args.run(args) or 0)
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `mtl-perception doctor | head`
        _drop_output()
        return 1
    except ModuleNotFoundError as error:
        if (error.name or '').partition('.')[0] in PACKAGES:
            raise
        return _failed(_missing(error))
    except OSError as error:  # a target that cannot be written, a disk that is full
        _drop_output()
        return _failed(str(error))
    except Exception as error:
        if not _is_ours(error):
            raise
        return _failed(str(error))


def _print_anything() -> None:
    """A path need not be UTF-8, nor the terminal: what cannot be shown is escaped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')


def _drop_output() -> None:
    """What is still buffered goes nowhere, or Python would complain about it once more."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        return
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _failed(text: str) -> int:
    with suppress(OSError):
        print(f'mtl-perception: {text}', file=sys.stderr)
    return 1


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """All commands, but only the one given with its own arguments."""
    parser = _Parser(
        prog='mtl-perception',
        description='Boxes, drivable area, masks and scene labels from one shared trunk.',
    )
    parser.add_argument('--version', action='version', version=_version())
    parser.add_argument('-v', '--verbose', action='store_true', help='log more')
    commands = parser.add_subparsers(title='commands', metavar='COMMAND', required=True)
    given = next((word for word in arguments if not word.startswith('-')), None)
    for name, (module, text) in COMMANDS.items():
        command = commands.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + '.',
            formatter_class=HelpFormatter,
        )  # fmt: skip
        if name == given:
            implementation = _implementation(name, module)
            implementation.add_arguments(command)
            command.set_defaults(run=implementation.run)
    return parser


def _implementation(name: str, module: str) -> Any:
    if module:
        return import_module(module)
    return extensions.load(extensions.COMMANDS, name, f'`mtl-perception {name}`')


class _Parser(argparse.ArgumentParser):
    """A parser whose help is output like any other: argparse passes over a full disk."""

    def _print_message(self, message: str, file: Any = None) -> None:
        if file is sys.stdout:
            print(message, end='', file=file)
        else:
            super()._print_message(message, file)


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Options with their defaults, where there is one to be told."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        without = action.default is None or action.default is False or action.default == []
        return action.help if without else super()._get_help_string(action)


def _is_ours(error: Exception) -> bool:
    """Whether the error is of a class of ours: those are written to be read by people."""
    return type(error).__module__.partition('.')[0] in PACKAGES


def _missing(error: ModuleNotFoundError) -> str:
    return (
        f'the package {error.name!r} is not installed in {sys.prefix}. Run `make setup` in the '
        f'checkout, or install what requirements/runtime.txt lists'
    )


def _start_logging(verbose: bool) -> None:
    logging.basicConfig(format='%(message)s', stream=sys.stderr)
    for package in PACKAGES:
        logging.getLogger(package).setLevel(logging.DEBUG if verbose else logging.INFO)


def _version() -> str:
    try:
        return version('mtl_perception')
    except PackageNotFoundError:
        from mtl_perception import __version__

        return f'{__version__} (not installed, from {os.path.dirname(__file__)})'


if __name__ == '__main__':
    sys.exit(main())
