# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""ExcessMTL: weight for the tasks that are farthest from their own optimum."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from training.balancing.base import Labelled
from training.balancing.gradient_balancing import Balanced, JacobianBalancing
from training.balancing.gradients import ParameterGradients
from training.balancing.options import number


@dataclass(frozen=True)
class ExcessMTLOptions:
    """step_size: eta of the exponentiated gradient."""

    step_size: float = number(0.01, 0)


class ExcessMTL(JacobianBalancing):
    """w_i grows by exp(eta E_i), E_i = g_i^T diag(sum of g_i^2 so far)^(-1/2) g_i over its first.

    He et al., "Robust Multi-Task Learning with Excess Risks", ICML 2024, eqs. 6, 7 and 9, relative
    to the first estimate (section 3.2). The weights are of losses, heads included, and sum to 1.
    A task without labels keeps its weight, sums and first estimate.
    """

    name = 'ExcessMTL'
    Options = ExcessMTLOptions

    def start(self) -> None:
        """Sums of squares float32 [T, N] beside the parameters, even weights, first estimates."""
        self.state = {
            'squares': self.rows(),
            'weights': self.vector(1 / len(self.tasks)),
            'first': self.vector(0),
        }

    def balance(self, samples: list[ParameterGradients], labelled: Labelled) -> Balanced:
        """Weights after the update."""
        state, here = self.state, labelled.present
        excess = []
        for task in labelled.tasks:
            squared = samples[0].rows[task] ** 2
            sums = state['squares'][self.tasks.index(task)].add_(squared)
            excess.append((squared / (sums + 1e-7).sqrt()).sum(dtype=torch.float64))
        estimate = torch.stack(excess).cpu()
        first = state['first'][here]
        known = first > 0
        state['first'][here] = torch.where(known, first, estimate)
        relative = torch.where(known, estimate / first, 0.0)
        weights = state['weights'][here]
        grown = (weights.log() + self.options.step_size * relative).softmax(0) * weights.sum()
        state['weights'][here] = grown
        return Balanced(samples[0].combined(labelled.tasks, grown), grown, grown)
