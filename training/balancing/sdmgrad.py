# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""SDMGrad: MGDA pulled towards the mean gradient, unbiased by independent samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from training.balancing.base import Labelled
from training.balancing.gradient_balancing import Balanced, JacobianBalancing
from training.balancing.gradients import ParameterGradients, inner_products
from training.balancing.options import BalancingError, number
from training.balancing.solvers import project_to_simplex


@dataclass(frozen=True)
class SDMGradOptions:
    """pull: lambda, towards the mean gradient. Inner loop: iterations of SGD with momentum."""

    pull: float = number(0.3, 0)
    iterations: int = number(20, 1)
    lr: float = number(5.0, 0, above=True)
    momentum: float = number(0.5, 0, 1)


class SDMGrad(JacobianBalancing):
    """w descends w^T G1 (G2^T w + lambda g0_2); direction (w + lambda / M) of a third sample.

    Xiao, Ban and Ji, "Direction-oriented Multi-objective Learning: Simple and Provable Stochastic
    Algorithms", NeurIPS 2023, Algorithm 1, divided by 1 + lambda, G1 G2^T being scaled by the mean
    length of its diagonal as in the authors' experiments (section 6.1). The three independent
    samples are the accumulated parts of a step in turn: their number is a multiple of 3. w moves
    where both of the first samples are labelled, keeping the other tasks' weights.
    """

    name = 'SDMGrad'
    Options = SDMGradOptions
    groups = 3

    def start(self) -> None:
        """Even weights."""
        if self.parts % self.groups:
            raise BalancingError(
                f'SDMGrad needs three independent samples of the gradients in a step, taken from '
                f'its accumulated parts; expected 3, 6, ... parts, found {self.parts}'
            )
        self.state = {'weights': self.vector(1 / len(self.tasks))}

    def balance(self, samples: list[ParameterGradients], labelled: Labelled) -> Balanced:
        """A sample has a third of the step's images, so that its gradients count three times."""
        options, tasks = self.options, labelled.tasks
        first, second = ([[sample.rows[task]] for task in tasks] for sample in samples[:2])
        product = self.groups**2 * inner_products(first, second)
        weights = self.state['weights'][labelled.present]
        both = (samples[0].lengths(tasks) > 0) & (samples[1].lengths(tasks) > 0)
        if both.any():
            inner = product[both][:, both]
            inner = inner / (inner.diagonal().clamp_min(0).sqrt().mean() ** 2 + 1e-8)
            w, mass = weights[both], float(weights[both].sum())
            velocity = torch.zeros_like(w)
            for _ in range(options.iterations):
                slope = inner @ (w + options.pull / len(w))
                velocity = options.momentum * velocity + slope
                w = project_to_simplex(w - options.lr * velocity, mass)
            weights[both] = w
            self.state['weights'][labelled.present] = weights
        used = (weights + options.pull / len(weights)) / (1 + options.pull)
        return Balanced(samples[2].combined(tasks, self.groups * used), used)
