# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Objectives that are no weighted sum: geometric loss strategy and smooth Tchebycheff."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from training.balancing.loss_weighting import LossWeighting
from training.balancing.options import number, per_task


class GLS(LossWeighting):
    """Geometric mean of the labelled tasks' losses, (prod L_i)^(1/M).

    Chennupati et al., "MultiNet++: Multi-Stream Feature Aggregation and Geometric Loss Strategy for
    Multi-Task Learning", CVPR workshops 2019, section 3.2.
    """

    name = 'GLS'
    positive = True
    ahead = False

    def weights(self, losses: Tensor, present: Tensor) -> Tensor:
        """Derivative of the geometric mean: itself / (M L_i)."""
        mean = losses[present].log().mean().exp()
        return torch.where(present, mean / (present.sum() * losses), 0.0)


@dataclass(frozen=True)
class STCHOptions:
    """mu: smoothing. preferences: lambda. ideal: z*. nadir_steps: see `STCH`."""

    mu: float = number(1.0, 0, above=True)
    preferences: Mapping[str, float] = per_task(0, above=True)
    ideal: Mapping[str, float] = per_task(0)
    nadir_steps: int = number(0, 0)


class STCH(LossWeighting):
    """Smooth Tchebycheff scalarisation, mu log sum exp(lambda_i (f_i - z*_i) / mu).

    Lin et al., "Smooth Tchebycheff Scalarization for Multi-Objective Optimization", ICML 2024,
    section 3.1, centred as in appendix B.1; lambda is normalised to sum to 1.

    nadir_steps > 0 is the authors' setting for networks, where losses have no common scale: for so
    many steps the objective is the sum of log L_i, and their mean losses become the nadir; after
    that f_i = log(L_i / nadir_i), z* = 0 and lambda has mean 1, times the number of tasks. A task
    that is first labelled later starts with its loss of then as the nadir.
    """

    name = 'STCH'
    Options = STCHOptions
    ahead = False

    def start(self) -> None:
        """Sum, count and number of steps for the nadir."""
        self.positive = self.options.nadir_steps > 0
        self.state = {
            'sum': self.vector(0),
            'count': self.vector(0),
            'step': torch.zeros(1, dtype=torch.int64),
        }
        wanted = self.per_task(self.options.preferences, 1)
        self.preferences = wanted / wanted.sum()
        self.ideal = self.per_task(self.options.ideal, 0)

    def weights(self, losses: Tensor, present: Tensor) -> Tensor:
        """The objective's derivatives, zero where not present."""
        mu, nadir_steps = self.options.mu, self.options.nadir_steps
        if nadir_steps == 0:
            inner, slope = self.preferences * (losses - self.ideal), self.preferences
        elif self.state['step'] < nadir_steps:
            return torch.where(present, 1 / losses, 0.0)
        else:
            count = self.state['count']
            nadir = torch.where(count > 0, self.state['sum'] / count, losses)
            preferences = len(self.tasks) * self.preferences
            inner = preferences * (losses / nadir).log()
            slope = len(self.tasks) * preferences / losses
        inner = torch.where(present, inner, -torch.inf)
        return torch.where(present, (inner / mu).softmax(0) * slope, 0.0)

    def observe(self, losses: Tensor, present: Tensor) -> None:
        """Collect the nadir."""
        warming = self.state['step'] < self.options.nadir_steps
        adding = present if warming else present & (self.state['count'] == 0)
        self.state['sum'][adding] += losses[adding]
        self.state['count'][adding] += 1
        self.state['step'] += 1
