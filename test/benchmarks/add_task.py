# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What a new head on a frozen trunk costs and reaches, beside training everything again.

    python -m training.train CONFIG [key=value ...] tasks=[detection,drivable] output=runs/base
    PYTHONPATH=. python test/benchmarks/add_task.py runs/base CONFIG [key=value ...] --task semantic

Adds the task to the base by `training.add_task`, (1) as it is and (2) with a neck of its own, and
trains (3) the base's tasks and the new one together from the start: the same data, crops, steps
and batches. Costs are CPU seconds of one process without loader workers, which other programs
disturb little. It also exports base and result and compares the other tasks' outputs bit for bit.
Writes docs/results/add_task.json.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import checkout  # noqa: F401
import numpy as np
import torch

from mtl_perception import machine
from mtl_perception.bundle import Bundle
from mtl_perception.engines import Options, available, open_engine
from training.add_task import add_task, open_base
from training.config import RunConfig, load_config
from training.data.layout import open_layouts
from training.data.loader import Draws
from training.evaluate import evaluate_network, headline
from training.export import export, load_run
from training.train import train

RESULT = Path(__file__).parents[2] / 'docs' / 'results' / 'add_task.json'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('base', help='run folder')
    parser.add_argument('config')
    parser.add_argument('overrides', nargs='*', metavar='key=value')
    parser.add_argument('--task', required=True)
    parser.add_argument('--views', type=int, default=2)
    parser.add_argument('--images', type=int, default=100, help='validated, a source')
    parser.add_argument('--output', type=Path, default=Path('runs/add_task'))
    args = parser.parse_intermixed_args()
    torch.set_num_threads(1)

    base = open_base(args.base)
    others = base.config.tasks
    options = [f'tasks=[{",".join([*others, args.task])}]', f'output={args.output / "together"}']
    whole = load_config(args.config, [*args.overrides, 'workers=0', *options])
    for name in ('added', 'added_own_neck', 'together', 'cache'):
        shutil.rmtree(args.output / name, ignore_errors=True)
    runs: dict[str, Any] = {'base': {}}
    for name, own_neck in (('added', False), ('added_own_neck', True)):
        runs[name] = timed(
            lambda name=name, own_neck=own_neck: add_task(
                base, whole, args.task, args.output / name, args.views,
                root=args.output / 'cache', own_neck=own_neck,
            )
        )  # fmt: skip
    runs['together'] = timed(lambda: train(whole))
    folders = {name: Path(args.base) if name == 'base' else args.output / name for name in runs}
    for name, run in runs.items():
        network, _, _ = load_run(folders[name])
        run['parameters'] = sum(p.numel() for p in network.parameters())
        run['val'] = headline(evaluate_network(network, whole, 'val', args.images))
        print(name, json.dumps(run))
    bundles = {
        name: export(folders[name], args.output / f'{name}_bundle')
        for name in ('base', 'added', 'added_own_neck')
    }
    frames = images(whole)
    record = {
        'command': shlex.join(['python', 'test/benchmarks/add_task.py', *sys.argv[1:]]),
        'network': whole.network.trunk,
        'task': args.task,
        'other_tasks': others,
        'steps': whole.optimizer.steps,
        'batch': [whole.optimizer.batch_size, whole.augment.height, whole.augment.width],
        'views': args.views,
        'seed': whole.seed,
        'environment': machine.describe(),
        'runs': runs,
        'speed_up_of_adding': {
            name: round(runs['together']['cpu_s'] / runs[name]['cpu_s'], 2)
            for name in ('added', 'added_own_neck')
        },
        'other_outputs_identical': {
            name: identical(bundles['base'], bundles[name], frames)
            for name in ('added', 'added_own_neck')
        },
    }
    RESULT.write_text(json.dumps(record, indent=1) + '\n', 'utf-8')
    print(json.dumps({k: record[k] for k in ('speed_up_of_adding', 'other_outputs_identical')}))


def timed(work) -> dict[str, Any]:
    """CPU seconds of a piece of work, on all its threads."""
    begun = time.process_time()
    work()
    return {'cpu_s': round(time.process_time() - begun, 1)}


def images(config: RunConfig, count: int = 8) -> np.ndarray:
    """Augmented training crops, padded to the network's input: uint8 [N, H, W, 3]."""
    draws = Draws(open_layouts(config.data, 'val'), config.augment, 0)
    size = (config.augment.input_height, config.augment.input_width)
    frames = np.full((count, *size, 3), 114, np.uint8)
    for index, frame in enumerate(frames):
        crop = draws[index].image
        frame[: crop.shape[0], : crop.shape[1]] = crop
    return frames


def identical(base: Bundle, added: Bundle, frames: np.ndarray) -> dict[str, bool]:
    """By engine: whether every output of the base is bit for bit the same in the other."""
    results = {}
    for name, found in available(base).items():
        if not found.usable:
            continue
        fp32 = Options(precision='fp32')
        engines = [open_engine(b, name, fp32, build=True) for b in (base, added)]
        equal = True
        for frame in frames:
            before, after = (engine.run(frame[None]) for engine in engines)
            equal &= all(np.array_equal(after[key], value) for key, value in before.items())
        results[name] = equal
        for engine in engines:
            engine.close()
    return results


if __name__ == '__main__':
    main()
