# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Adam for the handful of numbers that a balancing method learns, one per task."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class TaskAdam:
    """Adam (Kingma and Ba, ICLR 2015) with L2 weight decay, equal to `torch.optim.Adam`.

    Each task has its own step count: a task that is not labelled in a step keeps its value and
    moments. The moments live in the balancer's `state`.
    """

    lr: float
    weight_decay: float = 0.0

    @staticmethod
    def state(tasks: int) -> dict[str, Tensor]:
        """Fresh moments and step counts, float64 [T] each."""
        return {f'adam.{name}': torch.zeros(tasks, dtype=torch.float64) for name in 'mvt'}

    def step(
        self, value: Tensor, gradient: Tensor, present: Tensor, state: dict[str, Tensor]
    ) -> None:
        """Move `value`, float64 [T], in place where present; gradient: float64 [T]."""
        m, v, t = (state[f'adam.{name}'] for name in 'mvt')
        gradient = (gradient + self.weight_decay * value)[present]
        t[present] += 1
        m[present] = BETA1 * m[present] + (1 - BETA1) * gradient
        v[present] = BETA2 * v[present] + (1 - BETA2) * gradient**2
        mean = m[present] / (1 - BETA1 ** t[present])
        spread = (v[present] / (1 - BETA2 ** t[present])).sqrt()
        value[present] -= self.lr * mean / (spread + EPSILON)
