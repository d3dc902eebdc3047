# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""A problem whose task gradients are exactly the rows that a test chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from training.balancing import Balancer, Parameters, make_balancer

TASKS = ('a', 'b', 'c', 'd')
CONFLICT = [[1.0, 0.0], [-1.0, 2.0]]
THREE = [[1.0, 0.2, 0.0, -0.4], [-0.8, 1.5, 0.3, 0.0], [0.1, -0.9, 2.0, 0.5]]


class Toy:
    """L_i = share (value_i + g_i . shared + slope_i head_i), at shared = head = 0.

    So dL_i/dshared = g_i and dL_i/dhead_i = slope_i = 1, when nobody says otherwise. share: what
    one of several accumulated parts has of a loss.
    """

    def __init__(self, rows: Sequence[Sequence[float]] | Tensor) -> None:
        self.rows = torch.as_tensor(rows, dtype=torch.float32).clone()
        self.slopes = torch.ones(len(self.rows))
        self.tasks = TASKS[: len(self.rows)]
        self.shared = nn.Parameter(torch.zeros(self.rows.shape[1]))
        self.heads = {task: nn.Parameter(torch.zeros(1)) for task in self.tasks}
        self.parameters = Parameters(
            (self.shared,), {task: (head,) for task, head in self.heads.items()}
        )

    def make(self, name: str, options: Mapping[str, Any] | None = None, **keywords) -> Balancer:
        return make_balancer(name, options or {}, self.parameters, **keywords)

    def losses(self, values=None, tasks=None, share: float = 1.0) -> dict[str, Tensor]:
        values = [1.0] * len(self.tasks) if values is None else values
        return {
            task: share * (value + row @ self.shared + slope * self.heads[task].sum())
            for task, value, row, slope in zip(
                self.tasks, values, self.rows, self.slopes, strict=True
            )
            if tasks is None or task in tasks
        }

    def step(self, balancer: Balancer, values=None, step=0, tasks=None, rows=None):
        """One step in the balancer's number of equal parts: direction [N] or None, weights."""
        if rows is not None:
            self.rows = torch.as_tensor(rows, dtype=torch.float32)
        for _ in range(balancer.parts):
            balancer.backward(step, self.losses(values, tasks, 1 / balancer.parts))
        extra = {'validation': self.losses} if balancer.needs_validation else {}
        weights = balancer.combine(**extra)
        if balancer.needs_after_step:
            after = [
                (0.9 - 0.1 * i * i) * v for i, v in enumerate(values or [1.0] * len(self.tasks))
            ]
            with torch.no_grad():
                balancer.after_step(self.losses(after, tasks))
        gradient = self.shared.grad
        return None if gradient is None else gradient.clone(), weights


def close(found, expected, tolerance=1e-5):
    torch.testing.assert_close(
        torch.as_tensor(found).double(), torch.as_tensor(expected).double(),
        atol=tolerance, rtol=tolerance,
    )  # fmt: skip


def random_rows(seed, tasks=4, size=6):
    return torch.randn(tasks, size, generator=torch.Generator().manual_seed(seed))


def gram(rows):
    rows = torch.as_tensor(rows).double()
    return rows @ rows.T
