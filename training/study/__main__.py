# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Many training runs that answer one question: `python -m training.study run STUDY.yaml`.

    list      the cells of a study and how far each is
    run       execute what is not finished (failed cells are left alone), measure costs, report
    resume    the same, and try failed cells again
    report    write the report of what is finished
    pack      keep what report and further seeds need in one small file (training/study/archive.py)
    unpack    take up the finished cells of such a file
    search    look for hyperparameters (training/study/search.py)

docs/study.md says how a study file is written and what the report means.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from pathlib import Path

from mtl_perception.children import module_command
from mtl_perception.engines import EngineError
from training.checkpoint import CheckpointError
from training.command import at_least, run
from training.config import ConfigError
from training.data.sample import DatasetError
from training.study.cells import Cell, matching, plan
from training.study.comparisons import named_in_time, notices
from training.study.config import StudyConfig, StudyError, load_study
from training.study.runner import run_cells, summary

FAILED = 2
"""Exit code when some cells failed; the rest is reported."""


def main(argv: list[str] | None = None) -> int:
    """Command line; exit code 1 with one sentence, 2 when cells failed."""
    args = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end the children too
    try:
        study = load_study(args.study, args.output)
        cells = plan(study)
        if args.command == 'list' or (args.command in ('run', 'resume') and args.dry_run):
            chosen = matching(cells, vars(args).get('only', ()))
            for cell in chosen:
                print(f'{cell.state():9} {cell.id}')
            print(summary(cell.state() for cell in chosen))
            for line in notices(study, named_in_time(study, cells)):
                print(f'{study.name}: {line}')
            return 0
        if args.command == 'search':
            from training.study.search import search

            return search(study, args.trials)
        if args.command in ('pack', 'unpack'):
            return _archive(study, cells, args)
        whole = True
        if args.command in ('run', 'resume'):
            whole = run_cells(
                study, cells, args.jobs, retry=args.command == 'resume', only=args.only
            )
            _measure(study, cells, args)
        from training.study.report import write_study_report

        earlier = args.recompute if args.command == 'report' else None
        print(f'report: {write_study_report(study, earlier)}')
    except (
        CheckpointError, ConfigError, DatasetError, EngineError, StudyError, OSError,
    ) as error:  # fmt: skip
        print(f'error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('stopped; the same command goes on', file=sys.stderr)
        return 130
    return 0 if whole else FAILED


def _archive(study: StudyConfig, cells: list[Cell], args: argparse.Namespace) -> int:
    from training.study.archive import pack, unpack

    if args.command == 'unpack':
        held, new = unpack(study, cells, args.archive)
        print(f'{args.archive}: {held} finished cells, {new} of them new in {study.output}')
        return 0
    count = pack(study, cells, args.archive)
    if _measure(study, cells, args):  # now, as it takes weights; what is finished is safe already
        count = pack(study, cells, args.archive)
    print(f'{args.archive}: {count} finished cells, {args.archive.stat().st_size / 1e6:.2f} MB')
    return 0


def _measure(study: StudyConfig, cells: list[Cell], args: argparse.Namespace) -> bool:
    """Costs in a process of its own, where networks have been trained since; whether it was so."""
    from training.study.cost import outdated

    if not outdated(study, cells):
        return False
    output = ['--output', str(args.output)] if args.output else []
    command = module_command('training.study.cost', str(args.study), *output)
    if subprocess.run(command, check=False).returncode:
        print('costs could not be measured; the report has those of before', file=sys.stderr)
        return False
    return True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m training.study', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(dest='command', required=True)
    for name, what in (
        ('list', 'the cells and how far they are'),
        ('run', 'execute, measure costs, report'),
        ('resume', 'as run, and try failed cells again'),
        ('report', 'write the report of what is finished'),
        ('pack', 'keep the finished cells in one small file, without weights'),
        ('unpack', 'take up the finished cells of such a file'),
        ('search', 'look for hyperparameters'),
    ):
        command = commands.add_parser(name, help=what)
        command.add_argument('study', type=Path, help='YAML, see training/configs/study/')
        command.add_argument('--output', type=Path, help='in the place of the file’s own')
        if name == 'report':
            command.add_argument(
                '--recompute', type=Path, metavar='REPORT.json',
                help='take the figures from this report instead of the cells, and replace it',
            )  # fmt: skip
        if name in ('run', 'resume'):
            command.add_argument('--jobs', type=at_least(1), default=1, help='cells at a time')
            command.add_argument(
                '--only', nargs='+', default=[], metavar='PATTERN',
                help='cells whose ids match, as "*.s1": for one study on several machines',
            )  # fmt: skip
            command.add_argument('--dry-run', action='store_true', help='only list the cells')
        if name in ('pack', 'unpack'):
            command.add_argument('archive', type=Path, metavar='FILE.tar.gz')
        if name == 'search':
            command.add_argument(
                '--trials', type=at_least(1), help='in the place of the file’s own'
            )
    return parser


if __name__ == '__main__':
    sys.exit(run(main))
