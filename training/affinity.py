# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""How the tasks of a batch agree about what they share, measured while a network trains.

Two matrices over the tasks that the batch labels. The cosine of their gradients with respect to the
shared parameters; and the look-ahead affinity of Fifty et al., "Efficiently Identifying Task
Groupings for Multi-Task Learning", NeurIPS 2021, eq. 2: what a plain gradient step on task i's loss
alone, of the shared parameters alone, does to task j's loss on the same batch,

    Z[i, j] = 1 - L_j(theta - eta dL_i/dtheta) / L_j(theta)

above 0 where i helps j. eta is the same for all tasks of a measurement: the longest of the steps is
RELATIVE_STEP of the parameters' length. With the learning rate, as in the paper, the values would
follow its schedule, and drown in rounding where it ends. Everything runs in single precision,
because the differences are small, and leaves parameters, statistics and random numbers of the
training as they were.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from training.balancing.gradients import ParameterGradients, add_to_parameters, plain_backward
from training.step import Batch, Step, TaskLosses, kept_statistics, parts
from training.tasks.targets import Targets

RELATIVE_STEP = 1e-3


def measure(gradients: Step, step: int, batch: Batch) -> dict[str, Any] | None:
    """Both matrices as lists, rows and columns in the order of `tasks`; every process calls it.

    None for a batch that labels fewer than two tasks, and for a network that shares nothing.
    """
    network, losses_of = gradients.network, gradients.wrapped.module
    shared = network.shared_parameters()
    amounts, labelled = gradients.amounts(batch[1])
    tasks = [t for t, there in zip(gradients.tasks, labelled, strict=True) if there]
    if len(tasks) < 2 or not shared:
        return None

    def part_losses() -> Any:
        """Losses of each part, from the unwrapped network: no autocast, no averaging."""
        gradients.seed(step)
        for part in parts(*batch, gradients.config.optimizer.accumulate):
            sums = losses_of(*gradients.fabric.to_device(part))
            there = [t for t, row in part[1].items() if Targets.pack(row).rows]
            yield gradients.means({t: sums[t] for t in there if t in tasks}, amounts)

    def losses() -> Tensor:
        """Of the whole step over all processes, float64 [M]."""
        total = torch.zeros(len(tasks), dtype=torch.float64)
        with torch.no_grad():
            for part in part_losses():
                for task, loss in part.items():
                    total[tasks.index(task)] += float(loss)
        mean: Any = gradients.fabric.all_reduce(gradients.fabric.to_device(total))
        return torch.as_tensor(mean).cpu()

    cut, is_cut = isinstance(losses_of, TaskLosses), False
    if cut:
        is_cut, losses_of.cut_features = losses_of.cut_features, False
    rows = ParameterGradients(shared)
    network.zero_grad()
    with kept_statistics(network):
        for part in part_losses():
            rows.collect(part, plain_backward)
        network.zero_grad()
        rows.reduce(tasks)
        gramian = rows.gramian(tasks)
        lengths = gramian.diagonal().sqrt()
        norm = torch.stack([p.detach().norm() for p in shared]).norm()
        eta = RELATIVE_STEP * float(norm) / max(float(lengths.max()), 1e-30)
        before, ahead = losses(), []
        kept = [parameter.detach().clone() for parameter in shared]
        for task in tasks:
            add_to_parameters(shared, rows.rows[task], -eta)
            ahead.append(1 - losses() / before)
            with torch.no_grad():
                for parameter, value in zip(shared, kept, strict=True):
                    parameter.copy_(value)
    if cut:
        losses_of.cut_features = is_cut
    cosine = gramian / (lengths[:, None] * lengths).clamp_min(1e-300)
    return {
        'step': step,
        'tasks': tasks,
        'eta': eta,
        'cosine': cosine.clamp(-1, 1).tolist(),
        'lookahead': torch.stack(ahead).tolist(),
    }
