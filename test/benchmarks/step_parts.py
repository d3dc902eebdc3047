# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What the parts of a training step cost the process that drives the device.

    python test/benchmarks/step_parts.py training/configs/demo.yaml [key=value ...]

On real batches, in turns: detection's loss over the batch and image by image; the divisors of the
losses counted beforehand and from single targets; and, of the losses of all tasks, operations and
what waits for a GPU (reads of a value, and the index of a mask). CPU time of one thread, on a CPU.
Writes docs/results/step_parts.json.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import checkout  # noqa: F401
import torch
from torch.profiler import ProfilerActivity, profile

from mtl_perception import machine
from training.config import load_config
from training.data.layout import open_layouts
from training.data.loader import Draws, StepSampler, train_loader
from training.networks.build import build_network
from training.step import normalisers
from training.tasks.targets import Targets

RESULT = Path(__file__).parents[2] / 'docs' / 'results' / 'step_parts.json'
WAITS = ('aten::_local_scalar_dense', 'aten::nonzero', 'aten::masked_select')
"""Operations for whose result a host waits."""


def cpu_ms(calls: dict[str, Callable[[], Any]], turns: int) -> dict[str, float]:
    """Median CPU milliseconds of each, one after another in every turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(turns + 1):
        for name, call in calls.items():
            begun = time.process_time()
            call()
            times[name].append(1e3 * (time.process_time() - begun))
    return {name: round(statistics.median(found[1:]), 3) for name, found in times.items()}


def counted(call: Callable[[], Any]) -> dict[str, int]:
    """Operations of a call, and those of them that a host waits for."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        call()
    events = {e.key: e.count for e in profiler.key_averages() if e.key.startswith('aten::')}
    return {'operations': sum(events.values()), 'waits': sum(events.get(k, 0) for k in WAITS)}


def tensors(targets: Sequence[Any] | Targets) -> int:
    """How many tensors cross to the device."""
    if isinstance(targets, Targets):
        values = targets.values if isinstance(targets.values, tuple) else (targets.values,)
        return 1 + sum(isinstance(value, torch.Tensor) for value in values)
    parts = [target if isinstance(target, tuple) else (target,) for target in targets]
    return sum(isinstance(part, torch.Tensor) for target in parts for part in target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config')
    parser.add_argument('overrides', nargs='*', metavar='key=value')
    parser.add_argument('--turns', type=int, default=7)
    parser.add_argument('--json', type=Path, default=RESULT)
    args = parser.parse_intermixed_args()
    config = load_config(args.config, args.overrides)
    network = build_network(config.network, config.task_table(), initialise=False).train()
    counting = {task.name: network.head(task.name).counting() for task in network.tasks}
    draws = Draws(open_layouts(config.data, 'train'), config.augment, 0, config.tasks)
    sampler = StepSampler(0, 1, config.optimizer.batch_size)
    batch = next(iter(train_loader(draws, sampler, config.tasks, 0, counting)))
    features = network.features(batch.image)
    heads = {task.name: network.head(task.name) for task in network.tasks}
    labelled = {name: packed.labelled() for name, packed in batch.targets.items() if packed.rows}
    outputs = {name: heads[name](features.rows(batch.targets[name].row_index)) for name in labelled}
    singles = {name: list(targets) for name, targets in batch.targets.items()}

    boxes = list(labelled['detection'])

    def losses(names: Sequence[str]) -> torch.Tensor:
        return sum(heads[name].loss(outputs[name], labelled[name]) for name in names)

    def image_by_image() -> torch.Tensor:
        many = outputs['detection'].one_to_many
        total = torch.zeros(())
        for i, target in enumerate(boxes):
            row = slice(i, i + 1)
            one = type(many)(many.logits[row], many.distances[row], many.points)
            total = total + heads['detection'].loss(type(outputs['detection'])(one, None), [target])
        return total

    def with_gradients(call: Callable[[], torch.Tensor]) -> Callable[[], None]:
        inputs = [outputs['detection'].one_to_many.logits]
        return lambda: torch.autograd.grad(call(), inputs, retain_graph=True)

    batched = lambda: losses(['detection'])  # noqa: E731
    record = {
        'command': shlex.join(['python', 'test/benchmarks/step_parts.py', *sys.argv[1:]]),
        'images': config.optimizer.batch_size,
        'crop': [config.augment.height, config.augment.width],
        'images_with_boxes': len(labelled['detection']),
        'truth_boxes': int(heads['detection'].normaliser(labelled['detection'])),
        'detection_loss_cpu_ms': cpu_ms(
            {
                'batch': with_gradients(batched),
                'image by image': with_gradients(image_by_image),
            },
            args.turns,
        ),
        'detection_loss': {'batch': counted(batched), 'image by image': counted(image_by_image)},
        'losses_of_all_tasks': counted(lambda: losses(list(labelled))),
        'divisors_cpu_ms': cpu_ms(
            {
                'counted by the loader': lambda: normalisers(network, batch.targets),
                'from single targets': lambda: normalisers(network, singles),
            },
            args.turns,
        ),
        'target_tensors': {
            'packed': sum(map(tensors, batch.targets.values())),
            'single': sum(map(tensors, singles.values())),
        },
        'threads': torch.get_num_threads(),
        'environment': machine.describe(),
    }
    args.json.write_text(json.dumps(record, indent=1) + '\n', 'utf-8')
    print(json.dumps({k: v for k, v in record.items() if k != 'environment'}, indent=1))


if __name__ == '__main__':
    main()
