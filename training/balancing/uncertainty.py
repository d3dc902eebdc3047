# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Weights that are learned with the network: uncertainty weighting and IMTL-L.

Both learn one number per task with an Adam of their own (`lr`); the originals hand it to the
network's optimiser. A task without labels keeps its number in that step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from training.balancing.loss_weighting import LossWeighting
from training.balancing.options import number, word_per_task
from training.balancing.task_adam import TaskAdam


@dataclass(frozen=True)
class UWOptions:
    """log_variance: initial s. forms: task -> form of its loss, regression where left out."""

    lr: float = number(1e-3, 0, 1)
    log_variance: float = number(0.0, -20, 20)
    forms: Mapping[str, str] = word_per_task('regression', 'classification')


class UW(LossWeighting):
    """Uncertainty weighting over s = log sigma^2.

    Kendall et al., "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and
    Semantics", CVPR 2018. Regression (eq. 7): e^-s L / 2 + s / 2. Classification (eq. 10):
    e^-s L + s / 2. LibMTL takes the regression form for all tasks and starts at s = -0.5.
    """

    name = 'UW'
    Options = UWOptions
    positive = True

    def start(self) -> None:
        """One log variance per task."""
        self.state = {
            'log_variance': self.vector(self.options.log_variance),
            **TaskAdam.state(len(self.tasks)),
        }
        forms = self.options.forms
        self.factor = self.per_task({t: 1.0 for t in forms if forms[t] == 'classification'}, 0.5)

    def weights(self, losses: Tensor, present: Tensor) -> Tensor:
        """e^-s, halved for regression."""
        return self.factor * (-self.state['log_variance']).exp()

    def gradient(self, losses: Tensor) -> Tensor:
        """Derivative of the objective with respect to s, float64 [T]."""
        return 0.5 - self.weights(losses, losses > 0) * losses

    def observe(self, losses: Tensor, present: Tensor) -> None:
        """One step of Adam on s."""
        value = self.state['log_variance']
        TaskAdam(self.options.lr).step(value, self.gradient(losses), present, self.state)


@dataclass(frozen=True)
class IMTLLOptions:
    """lr: of the scales' Adam."""

    lr: float = number(1e-3, 0, 1)


class IMTLL(LossWeighting):
    """Impartial loss balance: sum of e^s L - s, whose minimum has all e^s L = 1.

    Liu et al., "Towards Impartial Multi-task Learning", ICLR 2021, section 3.2, base e.
    """

    name = 'IMTL-L'
    Options = IMTLLOptions
    positive = True

    def start(self) -> None:
        """One log scale per task."""
        self.state = {'log_scale': self.vector(0), **TaskAdam.state(len(self.tasks))}

    def weights(self, losses: Tensor, present: Tensor) -> Tensor:
        """e^s."""
        return self.state['log_scale'].exp()

    def observe(self, losses: Tensor, present: Tensor) -> None:
        """One step of Adam on s, whose derivative is e^s L - 1."""
        value = self.state['log_scale']
        gradient = value.exp() * losses - 1
        TaskAdam(self.options.lr).step(value, gradient, present, self.state)
