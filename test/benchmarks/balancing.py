# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What balancing costs and how exact it is: `python test/benchmarks/balancing.py`.

Cost: CPU time of a training step of HydraNet (pvt_v2_b0, six tasks, no optimiser) by what a method
looks at, over that of `equal`; the least of some interleaved rounds. Exactness: directions for
random gradients against torchjd's own, with the residual of the method's equation on either side.
That wants torchjd's extras: `pip install --target EXTRAS "torchjd[full]" clarabel` into a folder of
its own (quadprog and ECOS are GPL) and PYTHONPATH=EXTRAS; what is missing is left out. Writes
docs/results/balancing.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import checkout  # noqa: F401
import torch
import torchjd.aggregation as torchjd
from torch import Tensor, nn

from mtl_perception import machine
from mtl_perception.tasks import TASKS
from training.balancing import CutFeatures, Parameters, make_balancer, split_parameters
from training.networks.hydranet import HydraNet
from training.tasks import Features

RESULT = Path(__file__).parents[2] / 'docs' / 'results' / 'balancing.json'
NAMES = ('drivable', 'lane', 'semantic', 'weather', 'scene', 'timeofday')
KINDS = {
    'losses (UW)': ('UW', {}),
    'losses, again after the step (FAMO)': ('FAMO', {}),
    'gradients of parameters (PCGrad)': ('PCGrad', {}),
    'gradients of features (PCGrad)': ('PCGrad', {'gradients': 'features'}),
    'gradients and a validation batch (Auto-Lambda)': ('Auto-Lambda', {}),
}
TASK_COUNT, SIZE = 4, 6


def forward(network: HydraNet, image: Tensor, cut: bool) -> tuple[dict[str, Tensor], CutFeatures]:
    """Losses of arbitrary targets."""
    features = network.features(image)
    leaves = CutFeatures([*features.trunk, *features.neck])
    if cut:
        count = len(features.trunk)
        features = Features(leaves.leaves[:count], leaves.leaves[count:])
    height, width = image.shape[2:]
    losses = {}
    for task in network.tasks:
        head = network.head(task.name)
        target = 1 if task.kind == 'classification' else torch.ones(height, width).byte()
        losses[task.name] = head.loss(head(features), [target] * len(image)) / len(image)
    return losses, leaves


def cost(rounds: int, images: int, size: int) -> dict[str, float]:
    """CPU seconds of a step on one thread, over those of `equal`."""
    network = HydraNet('pvt_v2_b0', [TASKS[name] for name in NAMES]).train()
    image = torch.randint(0, 256, (images, 3, size, size), dtype=torch.uint8)
    parameters = split_parameters(network, network.heads)
    balancers = {
        kind: make_balancer(name, options, parameters)
        for kind, (name, options) in {'equal': ('equal', {}), **KINDS}.items()
    }
    least = dict.fromkeys(balancers, float('inf'))
    for step in range(rounds + 1):
        for kind, balancer in balancers.items():
            begun = time.process_time()
            losses, cut = forward(network, image, balancer.needs_features)
            balancer.backward(step, losses, cut)
            balancer.combine(lambda: forward(network, image, False)[0])
            if balancer.needs_after_step:
                with torch.no_grad():
                    balancer.after_step(forward(network, image, False)[0])
            if step:  # the first round warms up
                least[kind] = min(least[kind], time.process_time() - begun)
    return {kind: round(seconds / least['equal'], 2) for kind, seconds in least.items()}


def direction(name: str, options: dict, rows: Tensor) -> Tensor:
    """Ours, for gradients that are the rows."""
    shared, head = nn.Parameter(torch.zeros(SIZE)), nn.Parameter(torch.zeros(1))
    heads = {str(i): (head,) if i == 0 else () for i in range(len(rows))}
    balancer = make_balancer(name, options, Parameters((shared,), heads))
    balancer.backward(0, {str(i): 1 + row @ shared for i, row in enumerate(rows)})
    balancer.combine()
    assert shared.grad is not None
    return shared.grad.double()


def shortest(rows: Tensor, d: Tensor) -> float:
    """How far the worst task is below what the min-norm point gives it, |d|^2."""
    return float(1 - (rows @ d).min() / (d @ d))


def bargain(rows: Tensor, d: Tensor) -> float:
    """Deviation of a_i (g_i . d) from its mean, d = sum of a_i g_i."""
    products = torch.linalg.lstsq(rows.T, d).solution * (rows @ d)
    return float((products / products.mean() - 1).abs().max())


def worst_off(rows: Tensor, d: Tensor) -> float:
    """How far outside of its ball: |d - g0| over c |g0|, less 1."""
    mean = rows.mean(0)
    return float((d - mean).norm() / (0.5 * mean.norm()) - 1)


def conflict(rows: Tensor, d: Tensor) -> float:
    """The most negative cosine to a task's gradient."""
    return float(max(0.0, -(rows @ d / rows.norm(dim=1) / d.norm()).min()))


EXACT: dict[str, tuple[dict, str, Callable[[], nn.Module], Callable[[Tensor, Tensor], float]]] = {
    'MGDA': ({}, 'torch', torchjd.MGDA, shortest),
    'UPGrad': ({}, 'quadprog', torchjd.UPGrad, conflict),
    'CAGrad': ({'rescale': 0}, 'clarabel', lambda: torchjd.CAGrad(c=0.5), worst_off),
    'Nash-MTL': ({}, 'ecos', lambda: torchjd.NashMTL(n_tasks=TASK_COUNT), bargain),
}


def exactness(problems: int) -> dict[str, dict[str, float]]:
    """Over random problems: difference of directions, and residuals of the equation."""
    results = {}
    for name, (options, needs, theirs, residual) in EXACT.items():
        if importlib.util.find_spec(needs) is None:
            continue
        differences, ours_off, theirs_off = [], [], []
        for seed in range(problems):
            generator = torch.Generator().manual_seed(seed)
            rows = torch.randn(TASK_COUNT, SIZE, generator=generator)
            ours, other = direction(name, options, rows), theirs()(rows.double())
            differences.append(float((ours - other).norm() / ours.norm()))
            ours_off.append(residual(rows.double(), ours))
            theirs_off.append(residual(rows.double(), other))
        results[name] = {
            'difference_largest': max(differences),
            'difference_median': statistics.median(differences),
            'residual_largest': max(ours_off),
            'residual_largest_of_torchjd': max(theirs_off),
        }
    return results


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--rounds', type=int, default=4)
    parser.add_argument('--images', type=int, default=2)
    parser.add_argument('--size', type=int, default=128)
    parser.add_argument('--problems', type=int, default=50)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    result = {
        'command': 'python test/benchmarks/balancing.py',
        **vars(arguments),
        'tasks': NAMES,
        'environment': machine.describe(),
        'step_over_equal': cost(arguments.rounds, arguments.images, arguments.size),
        'against_torchjd': exactness(arguments.problems),
    }
    RESULT.write_text(json.dumps(result, indent=1) + '\n', 'utf-8')
    print(
        json.dumps({key: result[key] for key in ('step_over_equal', 'against_torchjd')}, indent=1)
    )


if __name__ == '__main__':
    main()
