# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""MoCo: MGDA's direction from tracked gradients, which corrects its bias under noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from training.balancing.base import Labelled
from training.balancing.gradient_balancing import Balanced, JacobianBalancing
from training.balancing.gradients import ParameterGradients, inner_products, weighted_sum
from training.balancing.options import number
from training.balancing.solvers import project_to_simplex


@dataclass(frozen=True)
class MoCoOptions:
    """Steps at step t are beta / t^decay and gamma / t^decay; rho regularises the weights.

    normalise: every gradient gets the length of its loss first, as in the authors' experiments.
    """

    beta: float = number(0.5, 0, 1)
    beta_decay: float = number(0.5, 0)
    gamma: float = number(0.1, 0)
    gamma_decay: float = number(0.5, 0)
    rho: float = number(0.0, 0)
    normalise: bool = True


class MoCo(JacobianBalancing):
    """y_i follows g_i; w on the simplex descends w^T (Y Y^T + rho I) w / 2; direction Y^T w.

    Fernando et al., "Mitigating Gradient Bias in Multi-objective Learning: A Provably Convergent
    Approach", ICLR 2023, Algorithm 1 (LibMTL has a softmax in place of the projection). A task
    without labels keeps its y_i and its weight, and adds nothing.
    """

    name = 'MoCo'
    Options = MoCoOptions

    def start(self) -> None:
        """Tracked gradients float32 [T, N] beside the parameters, and even weights."""
        self.state = {
            'tracked': self.rows(),
            'weights': self.vector(1 / len(self.tasks)),
            'step': torch.zeros(1, dtype=torch.int64),
        }

    def balance(self, samples: list[ParameterGradients], labelled: Labelled) -> Balanced:
        """Weights are those of the tracked gradients, after the update."""
        options, state, here = self.options, self.state, labelled.present
        state['step'] += 1
        beta = options.beta / float(state['step']) ** options.beta_decay
        gamma = options.gamma / float(state['step']) ** options.gamma_decay
        lengths = samples[0].lengths(labelled.tasks)
        factors = torch.ones_like(lengths)
        if options.normalise:
            factors = torch.where(lengths > 0, labelled.losses / lengths, 0.0)
        tracked = [state['tracked'][self.tasks.index(task)] for task in labelled.tasks]
        for y, task, factor in zip(tracked, labelled.tasks, factors.tolist(), strict=True):
            y.mul_(1 - beta).add_(samples[0].rows[task], alpha=beta * factor)
        rows = [[y] for y in tracked]
        weights = state['weights'][here]
        pull = inner_products(rows, rows) @ weights + options.rho * weights
        weights = project_to_simplex(weights - gamma * pull, float(weights.sum()))
        state['weights'][here] = weights
        return Balanced(weighted_sum(tracked, weights), weights)
