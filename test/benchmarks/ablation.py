# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What each option of heads and losses is worth: train every variant alike, evaluate, table.

    PYTHONPATH=. python test/benchmarks/ablation.py training/configs/ablation/base.yaml \
        [key=value ...] [--only atss p2] [--steps-only]

Every variant is a run of its own below runs/ablation/, begun or resumed; one that is complete is
only evaluated. Writes docs/results/ablation.json after each; what is there under the same schedule
stays, so that two processes can share the variants out by --only. --steps-only trains nothing and
times steps, all variants taking turns on the same batches: the ratio to `default` is the figure.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
from pathlib import Path

import checkout  # noqa: F401
from rich.console import Console
from rich.progress import track
from rich.table import Table
from train_step import Step  # beside this file

from mtl_perception import machine
from training.config import RunConfig, load_config
from training.data.layout import open_layouts
from training.data.loader import Draws, StepSampler, train_loader
from training.evaluate import evaluate_network, headline
from training.export import load_run
from training.networks.build import build_network
from training.networks.cost import network_cost
from training.train import train

RESULT = Path(__file__).parents[2] / 'docs' / 'results' / 'ablation.json'
STEPS_RESULT = RESULT.with_name('ablation_steps.json')
VARIANTS = {
    'default': [],
    'atss': ['network.detection.assigner=atss'],
    'quality_focal': ['network.detection.class_loss=quality_focal'],
    'p2': ['network.detection.levels=p2-p5'],
    'one_to_one': ['network.detection.one_to_one=true'],
    'deep_towers': ['network.detection.tower_depth=4'],
    'ohem': ['network.segmentation.ohem=0.25'],
    'boundary': ['network.segmentation.boundary=2.0'],
    'lovasz': ['network.segmentation.lovasz=0.5'],
    'auxiliary': ['network.segmentation.auxiliary=0.4'],
    'mlp': ['network.segmentation.decoder=mlp'],
    'upernet': ['network.segmentation.decoder=upernet'],
    'semantic_fpn': ['network.segmentation.decoder=semantic_fpn'],
    'wide_neck': ['network.neck_channels=128'],
    'mosaic': ['augment.mosaic=0.5'],
    'other_seed': ['seed=1'],
}
PEERS = {
    name: [f'network.architecture={name}', 'network.trunk_weights=""']
    for name in ('yolop', 'hybridnets')
}
"""Timed only: they have no ImageNet weights here; training/configs/references/ trains them."""


def trained(config: RunConfig) -> dict:
    """Train to the end, if it is not there; headline figures on all of val, costs and speed."""
    train(config)
    folder = Path(config.output)
    network, config, _ = load_run(folder, 'last')
    cost = network_cost(network, config.augment.input_height, config.augment.input_width)
    speed = json.loads((folder / 'speed.json').read_text('utf-8'))
    return {
        'images_per_s': speed['images_per_s'],
        'peak_memory_mb': speed['peak_memory_mb'],
        'parameters': cost['parameters']['all'],
        'gflop': round(cost['gflop']['all'], 2),
        'val': headline(evaluate_network(network, config, 'val')),
    }


def schedule(config: RunConfig, overrides: list[str]) -> dict:
    """What the runs of one comparison have in common."""
    return {
        'overrides': overrides,
        'steps': config.optimizer.steps,
        'batch': [config.optimizer.batch_size, config.augment.height, config.augment.width],
        'seed': config.seed,
        'data': [source.name for source in config.data],
    }


def keep(path: Path, record: dict, name: str, result: dict) -> dict[str, dict]:
    """Add a result to those of the same schedule in the file, and return them all."""
    results = {}
    if path.is_file():
        earlier = json.loads(path.read_text('utf-8'))
        results = earlier['results'] if earlier['schedule'] == record['schedule'] else {}
    results[name] = result
    command = f'{record["command"]} --only {" ".join(results)}'
    kept = record | {'command': command, 'results': results}
    path.write_text(json.dumps(kept, indent=1) + '\n', 'utf-8')
    return results


def step_ratios(config_path: str, overrides: list[str], names: list[str], turns: int) -> dict:
    """Median time of a step over that of `default` in the same turn."""
    config = load_config(config_path, overrides)
    draws = Draws(open_layouts(config.data, 'train'), config.augment, 0, config.tasks)
    sampler = StepSampler(0, 3, config.optimizer.batch_size)
    batches = list(train_loader(draws, sampler, config.tasks, workers=0))
    every = VARIANTS | PEERS
    steps = {name: Step(load_config(config_path, [*overrides, *every[name]])) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in track(range(1 + turns), 'turns'):
        for name, step in steps.items():
            taken = step(batches[turn % len(batches)])
            if turn:
                seconds[name].append(taken)
    results = {}
    for name in names:
        network = steps[name].network
        cost = network_cost(network, config.augment.input_height, config.augment.input_width)
        ratios = [t / d for t, d in zip(seconds[name], seconds['default'], strict=True)]
        results[name] = {
            'step_ratio': round(statistics.median(ratios), 2),
            'parameters': sum(p.numel() for p in network.parameters()),
            'gflop': round(cost['gflop']['all'], 2),
        }
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config')
    parser.add_argument('overrides', nargs='*', metavar='key=value')
    parser.add_argument(
        '--only', nargs='+', choices=VARIANTS, help='these; with --steps-only default as well'
    )
    parser.add_argument('--steps-only', action='store_true')
    parser.add_argument('--turns', type=int, default=8)
    args = parser.parse_args()
    names = [name for name in VARIANTS if name in (args.only or VARIANTS)]
    config = load_config(args.config, args.overrides)
    build_network(config.network, config.task_table())  # weights that are missing are said first
    path = STEPS_RESULT if args.steps_only else RESULT
    given = sys.argv[1:] if args.steps_only else [args.config, *args.overrides]
    record = {
        'command': shlex.join(['python', 'test/benchmarks/ablation.py', *given]),
        'environment': machine.describe(),
        'seed': config.seed,
        'schedule': schedule(config, args.overrides),
    }
    if args.steps_only:
        names = [*dict.fromkeys(['default', *names, *([] if args.only else PEERS)])]
        results = step_ratios(args.config, args.overrides, names, args.turns)
        path.write_text(json.dumps(record | {'results': results}, indent=1) + '\n', 'utf-8')
    else:
        for name in names:
            run = [f'name=ablation_{name}', f'output=runs/ablation/{name}']
            overrides = [*args.overrides, *VARIANTS[name], *run]
            result = {'changes': VARIANTS[name]} | trained(load_config(args.config, overrides))
            results = keep(path, record, name, result)
    show(results)


def show(rows: dict[str, dict]) -> None:
    """A table of everything that is a number."""
    rows = {name: row | row.get('val', {}) for name, row in rows.items()}
    first = next(iter(rows.values()))
    columns = [key for key, value in first.items() if isinstance(value, (int, float))]
    table = Table('variant', *columns)
    for name, row in rows.items():
        table.add_row(name, *(f'{row.get(key, float("nan")):.4g}' for key in columns))
    Console().print(table)


if __name__ == '__main__':
    main()
