# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""GradNorm: weights that bring the weighted gradients to lengths that suit each task's progress."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.balancing.base import Labelled
from training.balancing.gradient_balancing import GramianOptions, GramianWeighting
from training.balancing.options import number
from training.balancing.task_adam import TaskAdam

_SMALLEST = 1e-3
"""Weights stay above it; the paper says nothing of weights that would turn negative."""


@dataclass(frozen=True)
class GradNormOptions(GramianOptions):
    """alpha: strength of the pull to a common rate. lr: of the weights' Adam."""

    alpha: float = number(1.5, 0)
    lr: float = number(0.025, 0, 1)


class GradNorm(GramianWeighting):
    """Minimises sum |w_i |g_i| - mean(w |g|) r_i^alpha|, r_i = (L_i / L_i(0)) / their mean.

    Chen et al., "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask
    Networks", ICML 2018, eqs. 1 and 2 and Algorithm 1. The targets are constants in the derivative;
    the weights sum to the number of tasks. L(0) is a task's first loss. Lengths are over all shared
    parameters (the paper: usually the last shared layer); means and updates over the labelled
    tasks, whose weights keep their sum.
    """

    name = 'GradNorm'
    Options = GradNormOptions
    positive = True
    weights_heads = True

    def start(self) -> None:
        """Weights of one."""
        self.state = {
            'weights': self.vector(1),
            'initial': self.vector(0),
            **TaskAdam.state(len(self.tasks)),
        }

    def targets(self, gramian: Tensor, labelled: Labelled) -> Tensor:
        """Eq. 1, the lengths that the weighted gradients should have, [M]."""
        here = labelled.present
        ratio = labelled.losses / self.state['initial'][here]
        lengths = self.state['weights'][here] * gramian.diagonal().sqrt()
        return lengths.mean() * (ratio / ratio.mean()) ** self.options.alpha

    def weights(self, gramian: Tensor, labelled: Labelled) -> Tensor:
        """The weights before this step's update."""
        state, here = self.state, labelled.present
        used = state['weights'][here].clone()
        initial = state['initial'][here]
        state['initial'][here] = torch.where(initial == 0, labelled.losses, initial)
        lengths = gramian.diagonal().sqrt()
        gradient = self.vector(0)
        gradient[here] = lengths * (used * lengths - self.targets(gramian, labelled)).sign()
        TaskAdam(self.options.lr).step(state['weights'], gradient, here, state)
        moved = state['weights'][here].clamp_min(_SMALLEST)
        state['weights'][here] = moved * used.sum() / moved.sum()
        return used
