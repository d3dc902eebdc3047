# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Losses scaled so that every task's gradient has the same length in what the tasks share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.balancing.base import Labelled
from training.balancing.gradient_balancing import GramianOptions, GramianWeighting
from training.balancing.options import number


@dataclass(frozen=True)
class NormScalingOptions(GramianOptions):
    """beta: of the moving mean of each task's gradient length, 0 for that of the step alone."""

    beta: float = number(0.9, 0, 1)


class NormScaling(GramianWeighting):
    """Weights mean(|g|) / |g_i|, which make the weighted gradients equally long.

    After "Revisit the Imbalance Optimization in Multi-task Learning: An Experimental Analysis",
    arXiv 2509.23915, which reports that losses scaled by the norms of their gradients come out as
    a grid search of weights does. The moving mean, corrected for its start as Adam's, and the mean
    over the labelled tasks of the step are ours. Unlike GradNorm the weights follow at once, and
    no task's progress is looked at. A task whose gradient has been zero so far has weight 1.
    """

    name = 'NormScaling'
    Options = NormScalingOptions
    weights_heads = True

    def start(self) -> None:
        """No length has been seen."""
        self.state = {'lengths': self.vector(0), 'seen': self.vector(0)}

    def weights(self, gramian: Tensor, labelled: Labelled) -> Tensor:
        """By the lengths up to this step's."""
        beta, state, here = self.options.beta, self.state, labelled.present
        moved = beta * state['lengths'][here] + (1 - beta) * gramian.diagonal().sqrt()
        state['lengths'][here] = moved
        state['seen'][here] += 1
        lengths = moved / (1 - beta ** state['seen'][here])
        known = lengths > 0
        mean = lengths.sum() / known.sum().clamp_min(1)
        return torch.where(known, mean / lengths.where(known, torch.ones_like(lengths)), 1.0)
