# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Bags replayed twice, and live: `python test/benchmarks/replay_real.py NAME=BAG [NAME=BAG ...]`.

Offline twice into two runs, which must be equal in every figure and in the hash of all answers, and
once through the live node at 10 Hz. Writes docs/results/replay_NAME.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from mtl_perception.cli import main as command

RESULTS = Path(__file__).parents[2] / 'docs' / 'results'
FIGURES = ('frames', 'accuracy', 'slices', 'road', 'temporal', 'answers_sha256')


def measure(name: str, bag: str, arguments: list[str]) -> None:
    """Replay twice and live, and write it down."""
    with tempfile.TemporaryDirectory() as folder:
        runs = []
        for number in (1, 2):
            output = Path(folder) / str(number)
            code = command(['replay', bag, '--output', str(output), '--no-report', *arguments])
            if code:
                raise SystemExit(f'replay of {bag} ended with code {code}')
            runs.append(json.loads((output / 'run.json').read_text()))
        identical = all(runs[0][key] == runs[1][key] for key in FIGURES)
        command(['replay', bag, '--output', str(output), '--live', '--rate', '10', *arguments])
        live = json.loads((output / 'live.json').read_text())
    first = runs[0]
    shown = ' '.join(['mtl-perception replay', bag, *arguments])
    record = {
        'command': ' '.join([f'python test/benchmarks/replay_real.py {name}={bag}', *arguments]),
        'commands': [shown, shown, f'{shown} --live --rate 10'],
        'identical_twice': identical,
        **{key: first[key] for key in ('created', 'machine', 'model', *FIGURES)},
        'bags': [{k: v for k, v in bag.items() if k != 'accuracy'} for bag in first['bags']],
        'accuracy_note': first['accuracy_note'],
        'stages_ms': first['stages_ms'],
        'cost': first['cost'],
        'live': {k: v for k, v in live.items() if k not in ('machine', 'model', 'command')},
    }
    path = RESULTS / f'replay_{name}.json'
    path.write_text(json.dumps(record, indent=1) + '\n', 'utf-8')
    print(f'{path}: identical twice: {identical}')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('bags', nargs='+', metavar='NAME=BAG')
    parser.add_argument('--camera-height', default='')
    args = parser.parse_args()
    arguments = ['--camera-height', args.camera_height] if args.camera_height else []
    for item in args.bags:
        name, _, bag = item.partition('=')
        measure(name, bag, arguments)


if __name__ == '__main__':
    main()
