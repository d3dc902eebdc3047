# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Gradient vaccine: gradients are turned towards each other up to their usual similarity."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.balancing.base import Labelled
from training.balancing.gradient_balancing import GramianOptions, GramianWeighting
from training.balancing.options import number


@dataclass(frozen=True)
class GradVacOptions(GramianOptions):
    """beta: how fast the target similarity follows (paper 0.01, LibMTL 0.5)."""

    beta: float = number(0.01, 0, 1)


class GradVac(GramianWeighting):
    """As PCGrad, with a moving average of each pair's cosine in place of zero.

    Wang et al., "Gradient Vaccine: Investigating and Improving Multi-task Optimization in Massively
    Multilingual Models", ICLR 2021, Algorithm 1, over all shared parameters as one group. Pairs
    keep their target while one of them is unlabelled.
    """

    name = 'GradVac'
    Options = GradVacOptions

    def start(self) -> None:
        """Target cosines of ordered pairs, float64 [T, T]."""
        size = len(self.tasks)
        self.state = {'target': torch.zeros(size, size, dtype=torch.float64)}

    def weights(self, gramian: Tensor, labelled: Labelled) -> Tensor:
        """Coefficients of the sum of the corrected gradients."""
        places = labelled.present.nonzero().flatten()
        target = self.state['target'][places][:, places]
        lengths = gramian.diagonal().sqrt()
        mixes = torch.eye(len(gramian), dtype=gramian.dtype)
        generator = self.generator()
        for i in range(len(gramian)):
            others = [j for j in range(len(gramian)) if j != i]
            for k in torch.randperm(len(others), generator=generator).tolist():
                j = others[k]
                length = (mixes[i] @ gramian @ mixes[i]).clamp_min(0).sqrt()
                if length == 0 or lengths[j] == 0:
                    continue
                cosine = (mixes[i] @ gramian[j] / (length * lengths[j])).clamp(-1, 1)
                goal = target[i, j].clone()
                if cosine < goal:
                    sine, goal_sine = (1 - cosine**2).sqrt(), (1 - goal**2).sqrt()
                    if goal_sine > 0:
                        mixes[i, j] += (
                            length * (goal * sine - cosine * goal_sine) / (lengths[j] * goal_sine)
                        )
                target[i, j] = (1 - self.options.beta) * goal + self.options.beta * cosine
        self.state['target'][places[:, None], places] = target
        return mixes.sum(0)
