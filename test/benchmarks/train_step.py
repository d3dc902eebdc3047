# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What precision, torch.compile and, on a CPU, `suit_cpu` do to a training step.

    python test/benchmarks/train_step.py training/configs/demo.yaml [key=value ...]

Variants take turns on the same batches, so what else the machine does falls on all of them alike:
the ratio is the figure that carries over. `plain`: the network as timm and torch have it. Writes
docs/results/train_step.json, or the file that --json names.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import time
from pathlib import Path

import checkout  # noqa: F401
import torch
from rich.progress import track

from mtl_perception import machine
from training.config import OptimizerConfig, RunConfig, load_config
from training.data.layout import open_layouts
from training.data.loader import Draws, StepSampler, train_loader
from training.networks.build import build_network
from training.networks.cpu import suit_cpu
from training.optimizer import parameter_groups
from training.processes import open_fabric
from training.step import Step as Gradients
from training.step import TaskLosses

RESULT = Path(__file__).parents[2] / 'docs' / 'results' / 'train_step.json'
WARM_UP = 3
VARIANTS = {
    'fp32, plain': {'precision': '32-true'},
    'fp32': {'precision': '32-true'},
    'bf16, plain': {'precision': 'bf16-mixed'},
    'bf16': {'precision': 'bf16-mixed'},
    'bf16, compiled': {'precision': 'bf16-mixed', 'compile': 'true'},
}
PLAIN = 'plain'


class Step:
    """One variant: its own network and optimizer."""

    def __init__(self, config: RunConfig, plain: bool = False) -> None:
        self.config = config
        self.fabric = open_fabric(config)
        self.network = build_network(config.network, config.task_table(), initialise=False)
        self.network.to(memory_format=torch.channels_last)
        if self.fabric.device.type == 'cpu' and not plain:
            suit_cpu(self.network)
        if config.compile:
            self.network.trunk.compile()
            self.network.neck.compile()
        optimizer = torch.optim.AdamW(
            parameter_groups(self.network, OptimizerConfig()), lr=1e-5, fused=True
        )
        self.losses, self.optimizer = self.fabric.setup(TaskLosses(self.network), optimizer)
        self.gradients = Gradients(self.fabric, self.losses, self.network, config)

    def __call__(self, batch) -> float:
        """Seconds of one step: on a CPU of its time, which others disturb less than the clock's."""
        cuda = self.fabric.device.type == 'cuda'
        clock = time.perf_counter if cuda else time.process_time
        begun = clock()
        self.optimizer.zero_grad()
        self.gradients.backward(0, (batch.image, batch.targets))
        self.fabric.clip_gradients(self.losses, self.optimizer, max_norm=5.0)
        self.optimizer.step()
        if cuda:
            torch.cuda.synchronize()
        return clock() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config')
    parser.add_argument('overrides', nargs='*', metavar='key=value')
    parser.add_argument('--steps', type=int, default=15)
    parser.add_argument('--variants', nargs='+', choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument('--json', type=Path, default=RESULT)
    args = parser.parse_intermixed_args()
    config = load_config(args.config, args.overrides)
    draws = Draws(open_layouts(config.data, 'train'), config.augment, 0, config.tasks)
    sampler = StepSampler(0, 4, config.optimizer.batch_size)
    batches = list(train_loader(draws, sampler, config.tasks, workers=0))
    steps = {}
    for name in args.variants:
        own = [f'{key}={value}' for key, value in VARIANTS[name].items()]
        steps[name] = Step(load_config(args.config, [*args.overrides, *own]), PLAIN in name)
    first = args.variants[0]
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in track(range(WARM_UP + args.steps), 'steps'):
        for name, step in steps.items():
            taken = step(batches[turn % len(batches)])
            if turn >= WARM_UP:
                seconds[name].append(taken)
    results = {
        name: {
            'images_per_s': round(config.optimizer.batch_size / statistics.median(times), 2),
            f'paired_ratio_to_{first}': round(
                statistics.median(t / f for t, f in zip(times, seconds[first], strict=True)), 3
            ),
        }
        for name, times in seconds.items()
    }
    record = {
        'command': shlex.join(['python', 'test/benchmarks/train_step.py', *sys.argv[1:]]),
        'network': config.network.trunk,
        'batch': [config.optimizer.batch_size, config.augment.height, config.augment.width],
        'threads': torch.get_num_threads(),
        'seconds': 'of the clock on a GPU, of CPU time on a CPU',
        'steps_each': args.steps,
        'environment': machine.describe(),
        'results': results,
    }
    args.json.write_text(json.dumps(record, indent=1) + '\n', 'utf-8')
    print(json.dumps(results, indent=1))


if __name__ == '__main__':
    main()
