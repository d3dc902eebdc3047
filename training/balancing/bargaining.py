# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Fair shares of progress: Nash-MTL and FairGrad.

The papers define a direction for what is shared. Their authors' code and LibMTL run the backward
pass of the weighted losses instead, which weights the heads too: `heads: weighted`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from training.balancing.base import Labelled
from training.balancing.gradient_balancing import GramianOptions, GramianWeighting
from training.balancing.options import choice, number
from training.balancing.solvers import alpha_fair


@dataclass(frozen=True)
class FairShareOptions(GramianOptions):
    """heads: plain gradients of their own loss, or weighted as in the authors' code."""

    heads: str = choice('plain', 'weighted')


class FairShare(GramianWeighting):
    """What both have in common."""

    Options = FairShareOptions

    def __init__(self, options: FairShareOptions, *args: Any) -> None:
        """See the base class."""
        self.weights_heads = options.heads == 'weighted'
        super().__init__(options, *args)


@dataclass(frozen=True)
class NashMTLOptions(FairShareOptions):
    """max_norm: longest combined gradient; 0 for no limit."""

    max_norm: float = number(1.0, 0)


class NashMTL(FairShare):
    """The Nash bargaining solution among the tasks, G a = 1 / a.

    Navon et al., "Multi-Task Learning as a Bargaining Game", ICML 2022, claim 3.1 and Algorithm 1.
    The equation is solved exactly in each step instead of by the paper's sequence of convex
    approximations; its combination has length sqrt(M) before `max_norm`.
    """

    name = 'Nash-MTL'
    Options = NashMTLOptions

    def weights(self, gramian: Tensor, labelled: Labelled) -> Tensor:
        """Positive; zero for a zero gradient."""
        weights = alpha_fair(gramian, 1)
        length, limit = (weights @ gramian @ weights).sqrt(), self.options.max_norm
        return weights * (limit / length) if limit and length > limit else weights

    def head_weights(self, gramian: Tensor, weights: Tensor) -> Tensor:
        """Before `max_norm`, of the Gramian divided by its norm, as the authors' code has them."""
        return alpha_fair(gramian, 1) * gramian.norm().sqrt()


@dataclass(frozen=True)
class FairGradOptions(FairShareOptions):
    """alpha: 1 proportional fairness, 2 harmonic, large max-min."""

    alpha: float = number(1.0, 0.5, 10)


class FairGrad(FairShare):
    """alpha-fair utilities of the tasks' progress, G w = w^(-1/alpha).

    Ban and Ji, "Fair Resource Allocation in Multi-Task Learning", ICML 2024, Algorithm 1.
    """

    name = 'FairGrad'
    Options = FairGradOptions

    def weights(self, gramian: Tensor, labelled: Labelled) -> Tensor:
        """Positive; zero for a zero gradient."""
        return alpha_fair(gramian, self.options.alpha)
