# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Weights that do not look at the training: equal, static, and random loss weighting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from training.balancing.loss_weighting import LossWeighting
from training.balancing.options import per_task


class Equal(LossWeighting):
    """The sum of the losses."""

    name = 'equal'

    def weights(self, losses: Tensor, present: Tensor) -> Tensor:
        """Ones."""
        return self.vector(1)


@dataclass(frozen=True)
class StaticOptions:
    """weights: task -> weight, 1 where left out."""

    weights: Mapping[str, float] = per_task(0)


class Static(LossWeighting):
    """Weights from the configuration."""

    name = 'static'
    Options = StaticOptions

    def weights(self, losses: Tensor, present: Tensor) -> Tensor:
        """As configured."""
        return self.per_task(self.options.weights, 1)


class RLW(LossWeighting):
    """Random loss weighting: a softmax of standard normal draws, new in every step.

    Lin et al., "Reasonable Effectiveness of Random Weighting", TMLR 2022, section 3 (its default,
    the normal distribution). Sums to 1 over all tasks; an unlabelled task's share is lost, so that
    the draw does not depend on the labels.
    """

    name = 'RLW'

    def weights(self, losses: Tensor, present: Tensor) -> Tensor:
        """A function of (seed, step)."""
        draw = torch.randn(len(self.tasks), generator=self.generator(), dtype=torch.float64)
        return draw.softmax(0)
