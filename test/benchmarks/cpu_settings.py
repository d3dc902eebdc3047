# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What memory, threads and batch size do to a training step on a CPU.

    python test/benchmarks/cpu_settings.py training/configs/demo.yaml [key=value ...]

Each setting runs in a process of its own, and all of them take turns: the ratios of one run are the
figures that carry over. Seconds are of the clock, so nothing else may run. Writes
docs/results/cpu_settings.json, or the file that --json names.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

import checkout  # noqa: F401

from mtl_perception import machine

RESULT = Path(__file__).parents[2] / 'docs' / 'results' / 'cpu_settings.json'
KEPT = {'MALLOC_MMAP_MAX_': '0', 'MALLOC_TRIM_THRESHOLD_': str(1 << 34)}
"""glibc then keeps what is freed, where it otherwise maps large blocks anew."""

FIRST = 'one thread, batch 8'
SETTINGS: dict[str, tuple[int, int, dict[str, str]]] = {
    FIRST: (1, 8, {}),
    'one thread, batch 8, freed memory kept': (1, 8, KEPT),
    'one thread, batch 4': (1, 4, {}),
    'one thread, batch 16': (1, 16, {}),
    'two threads, batch 8': (2, 8, {}),
}
"""Threads, batch size and environment."""
WARM_UP = 2


def measure(config_file: str, overrides: list[str], steps: int) -> float:
    """Images per second of the clock: the median step, in this process."""
    import train_step

    from training.config import load_config
    from training.data.layout import open_layouts
    from training.data.loader import Draws, StepSampler, train_loader

    config = load_config(config_file, overrides)
    step = train_step.Step(config)
    draws = Draws(open_layouts(config.data, 'train'), config.augment, 0, config.tasks)
    batch_size = config.optimizer.batch_size
    batches = list(train_loader(draws, StepSampler(0, 2, batch_size), config.tasks, workers=0))
    seconds = []
    for turn in range(WARM_UP + steps):
        begun = time.perf_counter()
        step(batches[turn % len(batches)])
        seconds.append(time.perf_counter() - begun)
    return batch_size / statistics.median(seconds[WARM_UP:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config')
    parser.add_argument('overrides', nargs='*', metavar='key=value')
    parser.add_argument('--steps', type=int, default=4)
    parser.add_argument('--turns', type=int, default=2)
    parser.add_argument('--json', type=Path, default=RESULT)
    parser.add_argument('--child', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_intermixed_args()
    if args.child:
        print(measure(args.config, args.overrides, args.steps))
        return
    found: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for _ in range(args.turns):
        for name, (threads, batch, more) in SETTINGS.items():
            command = [
                sys.executable, __file__, args.config, *args.overrides,
                f'optimizer.batch_size={batch}', '--steps', str(args.steps),
                '--child',
            ]  # fmt: skip
            done = subprocess.run(
                command, check=True, capture_output=True, text=True,
                env={**os.environ, **more, 'OMP_NUM_THREADS': str(threads)},
            )  # fmt: skip
            found[name].append(float(done.stdout.split()[-1]))
            print(f'{name}: {found[name][-1]:.2f} images/s', flush=True)
    means = {name: statistics.mean(values) for name, values in found.items()}
    record = {
        'command': shlex.join(['python', 'test/benchmarks/cpu_settings.py', *sys.argv[1:]]),
        'steps_each': args.steps,
        'environment': machine.describe(),
        'results': {
            name: {
                'images_per_s': [round(value, 2) for value in values],
                'ratio': round(means[name] / means[FIRST], 3),
            }
            for name, values in found.items()
        },
    }
    args.json.write_text(json.dumps(record, indent=1) + '\n', 'utf-8')


if __name__ == '__main__':
    main()
