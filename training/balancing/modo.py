# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""MoDo: weights on the simplex that follow MGDA's problem, unbiased by double sampling."""

from __future__ import annotations

from dataclasses import dataclass

from training.balancing.base import Labelled
from training.balancing.gradient_balancing import Balanced, JacobianBalancing
from training.balancing.gradients import ParameterGradients, inner_products
from training.balancing.options import BalancingError, number
from training.balancing.solvers import project_to_simplex


@dataclass(frozen=True)
class MoDoOptions:
    """lr: gamma, of the weights. decay: rho, of the squared length of the weights."""

    lr: float = number(1e-3, 0, above=True)
    decay: float = number(0.1, 0)


class MoDo(JacobianBalancing):
    """w <- project(w - gamma (G1 G2^T w + rho w)); direction w of a third sample.

    Chen et al., "Three-Way Trade-Off in Multi-Objective Learning: Optimization, Generalization and
    Conflict-Avoidance", NeurIPS 2023, Algorithm 1, with LibMTL's rho. The three independent samples
    are the accumulated parts of a step in turn, as in SDMGrad. w moves where both of the first
    samples are labelled, keeping the other tasks' weights.
    """

    name = 'MoDo'
    Options = MoDoOptions
    groups = 3

    def start(self) -> None:
        """Even weights."""
        if self.parts % self.groups:
            raise BalancingError(
                f'MoDo needs three independent samples of the gradients in a step, taken from its '
                f'accumulated parts; expected 3, 6, ... parts, found {self.parts}'
            )
        self.state = {'weights': self.vector(1 / len(self.tasks))}

    def balance(self, samples: list[ParameterGradients], labelled: Labelled) -> Balanced:
        """A sample has a third of the step's images, so that its gradients count three times."""
        tasks, options = labelled.tasks, self.options
        first, second = ([[sample.rows[task]] for task in tasks] for sample in samples[:2])
        product = self.groups**2 * inner_products(first, second)
        weights = self.state['weights'][labelled.present]
        both = (samples[0].lengths(tasks) > 0) & (samples[1].lengths(tasks) > 0)
        if both.any():
            w, mass = weights[both], float(weights[both].sum())
            slope = product[both][:, both] @ w + options.decay * w
            weights[both] = project_to_simplex(w - options.lr * slope, mass)
            self.state['weights'][labelled.present] = weights
        return Balanced(samples[2].combined(tasks, self.groups * weights), weights)
