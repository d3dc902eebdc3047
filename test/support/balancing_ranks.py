# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What each process of test_balancing_ddp.py runs; also alone, on the whole batch, as reference."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import torch
from balancing_toy import Toy
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from training.balancing import METHODS, CutFeatures, make_balancer, split_parameters

STEPS = 3
FEATURE_METHODS = ('MGDA', 'CAGrad', 'FairGrad')
OPTIONS = {'DWA': {'epoch_steps': 1}, 'STCH': {'nadir_steps': 1}}
ROWS = torch.randn(STEPS, 2, 3, 5, generator=torch.Generator().manual_seed(0))
"""Step, rank, task, parameter."""
VALUES = 1 + torch.rand(STEPS, 2, 3, generator=torch.Generator().manual_seed(1))
LABELS = (('abc', 'abc'), ('ac', 'bc'), ('a', ''))
"""Step, rank: which tasks are labelled; at last a rank without any."""
IMAGES = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(2))
TARGETS = torch.randn(8, 3, generator=torch.Generator().manual_seed(3))


def toy_run(name: str, rank: int | None) -> list[dict[str, torch.Tensor]]:
    """Gradients, weights and state of each step; rank None is one process with the means."""
    toy = Toy(ROWS[0, 0])
    parts = 3 if name in ('SDMGrad', 'MoDo') else 1
    balancer = toy.make(name, OPTIONS.get(name, {}), parts=parts, seed=4)
    records = []
    for step in range(STEPS):
        here = torch.tensor([[task in LABELS[step][r] for task in 'abc'] for r in range(2)]).float()
        rows, values = here[..., None] * ROWS[step], here * VALUES[step]
        if rank is None:
            rows, values, here = rows.mean(0), values.mean(0), here.mean(0)
            tasks = set(''.join(LABELS[step]))
        else:
            rows, values, here = rows[rank], values[rank], here[rank]
            tasks = set(LABELS[step][rank])
        toy.rows, toy.slopes = rows, here
        _, weights = toy.step(balancer, values.tolist(), step, tasks)
        record = {'weights': torch.tensor(list(weights.values())), **balancer.state_dict()}
        parameters = {'shared': toy.shared, **toy.heads}
        record |= {key: p.grad.clone() for key, p in parameters.items() if p.grad is not None}
        records.append(record)
    return records


class Pyramid(nn.Module):
    """Two levels, the second computed from the first; two tasks, one on each, one on both."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, 2)
        self.second = nn.Conv2d(4, 6, 2)
        self.heads = nn.ModuleDict(
            {'x': nn.Linear(4, 1), 'y': nn.Linear(6, 1), 'z': nn.Linear(10, 1)}
        )

    def forward(self, image: torch.Tensor, target: torch.Tensor):
        first = self.first(image).tanh()
        cut = CutFeatures([first, self.second(first).tanh()])
        one, two = (leaf.mean(dim=(2, 3)) for leaf in cut.leaves)
        inputs = {'x': one, 'y': two, 'z': torch.cat([one, two], 1)}
        losses = {
            task: ((head(inputs[task]) - target[:, i : i + 1]) ** 2).mean()
            for i, (task, head) in enumerate(self.heads.items())
        }
        return losses, cut


def network_run(name: str, rank: int | None) -> list[dict[str, torch.Tensor]]:
    """gradients=features on a network that DDP wraps, half of the images a rank."""
    torch.manual_seed(5)
    network = Pyramid()
    balancer = make_balancer(
        name, {'gradients': 'features'}, split_parameters(network, network.heads)
    )
    wrapped = network if rank is None else DistributedDataParallel(network)
    mine = slice(None) if rank is None else slice(4 * rank, 4 * rank + 4)
    records = []
    for step in range(STEPS):
        with nullcontext() if rank is None else wrapped.no_sync():
            losses, cut = wrapped(IMAGES[mine], TARGETS[mine])
        balancer.backward(step, losses, cut)
        weights = balancer.combine()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter -= 0.1 * parameter.grad
        record = {'weights': torch.tensor(list(weights.values())), **balancer.state_dict()}
        record.update({key: p.grad.clone() for key, p in network.named_parameters()})
        record.update({f'value {key}': p.detach().clone() for key, p in network.named_parameters()})
        records.append(record)
    return records


def everything(rank: int | None) -> dict[str, list[dict[str, torch.Tensor]]]:
    """All runs by name."""
    runs = {name: toy_run(name, rank) for name in METHODS}
    runs |= {f'{name} of features': network_run(name, rank) for name in FEATURE_METHODS}
    return runs


def process(rank: int, folder: str) -> None:
    """One of two ranks; leaves its records in a file."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/meeting', rank=rank, world_size=2
    )
    torch.save(everything(rank), Path(folder) / f'{rank}.pt')
    distributed.destroy_process_group()
