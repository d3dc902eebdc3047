# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Eight bags one after the other and at once: `python test/benchmarks/replay_fleet.py IMAGES`.

The images of a folder in eight bags, replayed by a fleet of processes (`--jobs`) and in one, which
must agree in every figure and in the hash of all answers. Writes docs/results/replay_fleet.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from mtl_evaluation.bags.bag_writer import DriveWriter
from mtl_evaluation.bags.sources import START_NS, ImageFolder
from mtl_perception import machine
from mtl_perception.cli import main as command

RESULT = Path(__file__).parents[2] / 'docs' / 'results' / 'replay_fleet.json'
FIGURES = ('frames', 'accuracy', 'slices', 'road', 'temporal', 'answers_sha256')
BAGS = 8
PERIOD_NS = 100_000_000


def write_bags(images: Path, pattern: str, folder: Path) -> None:
    """Cut the images, in name order, into bags."""
    source = ImageFolder(images, pattern)
    frames = list(source.frames_from(0))
    for number in range(BAGS):
        part = frames[len(frames) * number // BAGS : len(frames) * (number + 1) // BAGS]
        with DriveWriter(folder / f'bag_{number}') as writer:
            for index, frame in enumerate(part):
                writer.write_frame(START_NS + index * PERIOD_NS, frame.image, frame.truth)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('images', type=Path)
    parser.add_argument('--pattern', default='*')
    parser.add_argument('--jobs', default='2')
    parser.add_argument('--ray', help='also on the Ray cluster at this address')
    args = parser.parse_args()
    ways = {'one process': [], f'--jobs {args.jobs}': ['--jobs', args.jobs]}
    if args.ray:
        ways[f'--ray {args.ray}'] = ['--ray', args.ray]
    runs, seconds = {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_bags(args.images, args.pattern, folder)
        for number, (way, options) in enumerate(ways.items()):
            output = folder / f'run_{number}'
            started = time.monotonic()
            bags = str(folder / 'bag_*')
            code = command(['replay', bags, '--output', str(output), '--no-report', *options])
            seconds[way] = round(time.monotonic() - started, 1)
            if code:
                raise SystemExit(f'{way}: code {code}')
            runs[way] = json.loads((output / 'run.json').read_text())
    one = runs['one process']
    same = {way: all(run[k] == one[k] for k in FIGURES) for way, run in runs.items()}
    pattern = f' --pattern {args.pattern!r}' if args.pattern != '*' else ''
    ray = f' --ray {args.ray}' if args.ray else ''
    record = {
        'command': f'python test/benchmarks/replay_fleet.py IMAGES{pattern}{ray}',
        'images': str(args.images),
        'environment': machine.describe(),
        'bags': [{'name': bag['name'], 'frames': bag['frames']} for bag in one['bags']],
        'answers_sha256': {way: run['answers_sha256'] for way, run in runs.items()},
        'every_figure_equal_to_one_process': same,
        'seconds': seconds,
        'cost': {way: run['cost'] for way, run in runs.items()},
        'model': one['model'],
    }
    RESULT.write_text(json.dumps(record, indent=1) + '\n', 'utf-8')
    print(same, seconds)


if __name__ == '__main__':
    main()
