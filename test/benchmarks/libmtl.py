# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""LibMTL's own code beside ours on the same toy: gradients and weights of UW, DWA, PCGrad, CAGrad.

    git clone https://github.com/median-research-group/LibMTL /tmp/libmtl
    PYTHONPATH=.:test/support python test/benchmarks/libmtl.py /tmp/libmtl [--packages FOLDER]

Their weighting classes are loaded from the checkout, without the rest of the library (which wants
torch_geometric, among others); --packages is a folder with what they import themselves (scipy).
Both sides get the same losses and the same random order. Writes docs/results/libmtl.json.
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import shlex
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from balancing_toy import Toy, random_rows

from mtl_perception import machine

RESULT = Path(__file__).parents[2] / 'docs' / 'results' / 'libmtl.json'
STEPS, TASKS, SIZE = 5, 3, 6
METHODS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    'UW': ({'log_variance': -0.5, 'lr': 0.0}, {}),
    'PCGrad': ({}, {}),
    'CAGrad': ({'c': 0.5}, {'calpha': 0.5, 'rescale': 1}),
}
"""Our options, and theirs, that mean the same; DWA, which looks at epochs, has a run of its own."""


def load_package(checkout: Path) -> None:
    """Make `LibMTL.weighting.X` importable without running LibMTL's own `__init__`."""
    for name, folder in (
        ('LibMTL', checkout / 'LibMTL'),
        ('LibMTL.weighting', checkout / 'LibMTL' / 'weighting'),
    ):
        if not folder.is_dir():
            raise SystemExit(f'{checkout} is no checkout of LibMTL: no folder {folder}')
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package


def theirs(name: str, toy: Toy) -> Any:
    """Their class on the toy's one shared parameter."""
    kind = getattr(importlib.import_module(f'LibMTL.weighting.{name}'), name)

    class OnToy(kind):
        def get_share_params(self):
            return [toy.shared]

        def zero_grad_share_params(self):
            if toy.shared.grad is not None:
                toy.shared.grad = torch.zeros_like(toy.shared)

    method = OnToy()
    method.device, method.rep_grad, method.epoch = 'cpu', False, 0
    method.task_num, method.task_name = len(toy.tasks), list(toy.tasks)
    method.train_loss_buffer = np.zeros((len(toy.tasks), 10))
    method.encoder = torch.nn.Module()
    method.init_param()
    return method


def losses_of(toy: Toy, values: list[float]) -> torch.Tensor:
    """All tasks' losses, [M], with no gradient kept from before."""
    toy.shared.grad = None
    return torch.stack(list(toy.losses(values).values()))


def values_of(seed: int) -> list[float]:
    """Loss values of a step."""
    generator = torch.Generator().manual_seed(seed + 99)
    return (0.5 + torch.rand(TASKS, generator=generator)).tolist()


def compare(name: str) -> dict[str, float]:
    """Largest difference of the shared gradients over the steps, relative to their length."""
    our_options, their_options = METHODS[name]
    ours, others = Toy(random_rows(0, TASKS, SIZE)), Toy(random_rows(0, TASKS, SIZE))
    balancer, method = ours.make(name, our_options), theirs(name, others)
    worst, ratios = 0.0, []
    for step in range(STEPS):
        rows, values = random_rows(step, TASKS, SIZE), values_of(step)
        gradient, _ = ours.step(balancer, values, step, rows=rows)
        others.rows = rows

        def same_order(items: list[Any]) -> None:
            items[:] = [items[i] for i in torch.randperm(len(items)).tolist()]

        shuffle, random.shuffle = random.shuffle, same_order
        balancer.step = step
        try:
            with balancer.seeded():
                method.backward(losses_of(others, values), **their_options)
        finally:
            random.shuffle = shuffle
        found = others.shared.grad
        worst = max(worst, float((gradient - found).norm() / found.norm()))
        ratios.append(float(gradient.norm() / found.norm()))
    return {'gradient_difference': worst, 'length_ratio': sum(ratios) / len(ratios)}


def compare_dwa(epochs: int = 4, steps: int = 2) -> dict[str, float]:
    """Weights and gradients over some epochs."""
    ours, others = Toy(random_rows(0, TASKS, SIZE)), Toy(random_rows(0, TASKS, SIZE))
    balancer, method = ours.make('DWA', {'epoch_steps': steps}), theirs('DWA', others)
    of_weights = of_gradients = 0.0
    for epoch in range(epochs):
        method.epoch = epoch
        for i in range(steps):
            step = steps * epoch + i
            gradient, weights = ours.step(balancer, values_of(step), step)
            found = method.backward(losses_of(others, values_of(step)), T=2.0)
            of_weights = max(of_weights, float(np.abs(found - list(weights.values())).max()))
            difference = (others.shared.grad - gradient).norm() / gradient.norm()
            of_gradients = max(of_gradients, float(difference))
        first = steps * epoch
        means = np.mean([values_of(first + i) for i in range(steps)], axis=0)
        method.train_loss_buffer[:, epoch] = means
    return {'gradient_difference': of_gradients, 'weight_difference': of_weights}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('checkout', type=Path)
    parser.add_argument('--packages', help='folder with what their code imports')
    args = parser.parse_args()
    if args.packages:
        sys.path.append(args.packages)
    load_package(args.checkout)
    commit = subprocess.run(
        ['git', '-C', str(args.checkout), 'rev-parse', 'HEAD'],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    results = {name: compare(name) for name in METHODS} | {'DWA': compare_dwa()}
    record = {
        'command': shlex.join(['python', 'test/benchmarks/libmtl.py', *sys.argv[1:]]),
        'libmtl_commit': commit,
        'toy': {'tasks': TASKS, 'shared_parameters': SIZE, 'steps': STEPS},
        'what': 'largest relative difference of the shared gradient, ours against theirs',
        'environment': machine.describe(),
        'results': results,
    }
    RESULT.write_text(json.dumps(record, indent=1) + '\n', 'utf-8')
    print(json.dumps(results, indent=1))


if __name__ == '__main__':
    main()
