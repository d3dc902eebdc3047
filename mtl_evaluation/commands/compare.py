# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""`mtl-perception compare RUN_A RUN_B`: may the second run's model replace the first's?

Exit codes: 0 the gate passes (or there is none), 1 it fails, 2 it cannot be decided: too little
evidence, runs that cannot be compared, a gate file that is wrong, or wrong usage.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
import time
from collections.abc import Collection, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mtl_evaluation.compare.bootstrap import BLOCK_S, SAMPLES
from mtl_evaluation.compare.comparison import COMPARED, Comparison, compare, headlines
from mtl_evaluation.compare.gate import FAIL, PASS, UNDECIDED, GateError, read_gate
from mtl_evaluation.compare.paired import CompareError, Pair, Side
from mtl_evaluation.pictures.frames import Seen
from mtl_evaluation.report.compare_report import Look, blocks_too_short, write_page
from mtl_evaluation.report.review import records_of
from mtl_evaluation.runs.revisit import revisiting
from mtl_evaluation.runs.run import Run, RunError, write_json
from mtl_perception import machine
from mtl_perception.tables import print_table

CODES = {PASS: 0, COMPARED: 0, FAIL: 1, UNDECIDED: 2}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument('first', type=Path, metavar='RUN_A', help='folder of the run as it was')
    parser.add_argument('second', type=Path, metavar='RUN_B', help='folder of the run to judge')
    parser.add_argument('--gate', type=Path, help='rules that RUN_B has to keep (config/gate.yaml)')
    parser.add_argument(
        '--output', type=Path, help='folder of the results (RUN_B/against_A, by the name of RUN_A)'
    )
    parser.add_argument(
        '--block-s',
        type=float,
        default=BLOCK_S,
        help='seconds of driving that are resampled as one (0: unrelated images, one by one)',
    )
    parser.add_argument('--samples', type=int, default=SAMPLES, help='bootstrap samples')
    parser.add_argument('--seed', type=int, default=0, help='seed of the bootstrap')
    parser.add_argument(
        '--no-pictures', action='store_true', help='do not show the frames that changed most'
    )


def run(args: argparse.Namespace) -> int:
    """Compare, print, write; returns the exit code."""
    console = Console(stderr=True)
    try:
        if args.samples < 100 or not 0 <= args.block_s < math.inf:
            raise CompareError('--samples must be at least 100 and --block-s at least 0')
        if args.seed < 0:
            raise CompareError(f'--seed must be 0 or more, found {args.seed}')
        gate = read_gate(args.gate) if args.gate is not None else None
        started = time.perf_counter()
        with console.status('reading both runs'):
            pair = Pair(Side(Run.open(args.first)), Side(Run.open(args.second)))
        with console.status(f'resampling {len(pair.keys)} frames {args.samples} times'):
            comparison = compare(pair, gate, args.block_s, args.samples, args.seed)
        seconds = time.perf_counter() - started
        output = _write(comparison, args, seconds, console)
    except (CompareError, GateError, RunError) as error:
        print(f'mtl-perception: {error}', file=sys.stderr)
        return CODES[UNDECIDED]
    _print(comparison, output)
    return CODES[comparison.verdict.word]


def to_json(comparison: Comparison, seconds: float) -> dict[str, Any]:
    """What `compare.json` holds."""
    pair, sampling = comparison.pair, comparison.sampling
    return {
        'schema': 1,
        'created': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        'command': shlex.join(['mtl-perception', *sys.argv[1:]]),
        'machine': machine.describe(),
        'seconds': round(seconds, 2),
        'verdict': {'word': comparison.verdict.word, 'lines': list(comparison.verdict.lines)},
        'gate': None
        if comparison.gate is None
        else {
            'path': str(comparison.gate.path),
            'rules': [
                {'rule': str(ruling.rule), 'verdict': ruling.word, 'why': ruling.why}
                for ruling in comparison.rulings
            ],
        },
        'runs': {
            letter: {
                'path': side.name,
                'model': side.run.summary.get('model'),
                'created': side.run.summary.get('created'),
                'complete': side.run.summary.get('complete'),
            }
            for letter, side in zip('ab', pair.sides, strict=True)
        },
        'frames': {
            'paired': len(pair.keys),
            'only_a': list(pair.unpaired[0]),
            'only_b': list(pair.unpaired[1]),
            'measured_by_one': {task.name: pair.measured_by_one(task.name) for task in pair.tasks},
            'same_answers': pair.same_answers,
        },
        'bootstrap': {
            'method': 'circular moving blocks of consecutive frames, expanded percentiles',
            'samples': sampling.samples,
            'seed': sampling.seed,
            'block_frames': sampling.block,
            'neighbouring_blocks_alike': comparison.alike,
        },
        'differences': [item.to_json() for item in comparison.differences],
        'changed': {
            task: [
                {'frame': item.key, 'a': item.first.text, 'b': item.second.text} for item in items
            ]
            for task, items in comparison.changed.items()
        },
    }


def _write(
    comparison: Comparison, args: argparse.Namespace, seconds: float, console: Console
) -> Path:
    """Write JSON and page; returns their folder."""
    output: Path = args.output or args.second / f'against_{args.first.resolve().name}'
    output = output.expanduser()
    results = to_json(comparison, seconds)
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_json(output / 'compare.json', results)
        look = None if args.no_pictures else _look(comparison, console)
        write_page(output / 'compare.html', comparison, results, look)
    except OSError as error:
        raise CompareError(f'cannot write the results to {output}: {error}') from error
    return output


def _look(comparison: Comparison, console: Console) -> Look:
    """Shows changed frames with both answers, where the bags and models are still there."""
    runs = [side.run for side in comparison.pair.sides]

    def look(keys: Collection[str]) -> Iterator[tuple[str, Seen, Seen]]:
        records = [records_of(run, keys) for run in runs]
        with (
            console.status('looking again at the frames that changed most'),
            revisiting(runs[0]) as first,
            revisiting(runs[1]) as second,
        ):
            for key, record in records[0].items():
                one = first(record)
                other = second(records[1][key]) if one is not None else None
                if one is not None and other is not None:
                    yield key, one, other

    return look


def _print(comparison: Comparison, output: Path) -> None:
    console = Console()
    verdict = comparison.verdict
    console.print(f'[bold]{verdict.word}[/] {verdict.lines[0]}', highlight=False)
    for line in verdict.lines[1:]:
        console.print(line, highlight=False)
    if comparison.rulings:
        table = Table('rule', 'verdict', 'why', title='gate', title_justify='left')
        for ruling in comparison.rulings:
            table.add_row(str(ruling.rule), ruling.word, ruling.why)
        print_table(table, console)
    table = Table('task', 'figure', 'A', 'B', 'B - A', '95 %', 'frames', title='headlines')
    for item in headlines(comparison):
        found = item.interval()
        table.add_row(
            item.task, item.title,
            item.shown(item.first or 0), item.shown(item.second or 0),
            item.shown(item.difference or 0, '+.2f'),
            '-' if found is None
            else f'{item.shown(found[0], "+.2f")} to {item.shown(found[1], "+.2f")}',
            str(item.frames),
        )  # fmt: skip
    print_table(table, console)
    for side, keys in zip(comparison.pair.sides, comparison.pair.unpaired, strict=True):
        if keys:
            more = f' and {len(keys) - 5} more' if len(keys) > 5 else ''
            console.print(f'only in {side.name}: {", ".join(keys[:5])}{more}', highlight=False)
    if comparison.alike:
        console.print(blocks_too_short(comparison.alike), style='yellow', highlight=False)
    console.print(f'in {output}/: compare.html, compare.json', highlight=False)
