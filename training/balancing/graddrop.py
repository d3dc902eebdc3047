# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Gradient sign dropout: each coordinate keeps the gradients of one sign, drawn at random."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torchjd.aggregation import GradDrop as TorchjdGradDrop

from training.balancing.base import Labelled
from training.balancing.gradient_balancing import Balanced, JacobianBalancing
from training.balancing.gradients import ParameterGradients
from training.balancing.options import number


@dataclass(frozen=True)
class GradDropOptions:
    """leak: share of each gradient that is never dropped."""

    leak: float = number(0.0, 0, 1)


class GradDrop(JacobianBalancing):
    """A coordinate is positive with its purity P = (1 + sum g / sum |g|) / 2 as probability.

    Chen et al., "Just Pick a Sign: Optimizing Deep Multitask Models with Gradient Sign Dropout",
    NeurIPS 2020, eq. 1 and Algorithm 1, on parameters instead of an activation layer; torchjd's.
    """

    name = 'GradDrop'
    Options = GradDropOptions

    def balance(self, samples: list[ParameterGradients], labelled: Labelled) -> Balanced:
        """A function of (seed, step); there are no weights."""
        jacobian = samples[0].matrix(labelled.tasks)
        leak = torch.full((len(jacobian),), self.options.leak, device=jacobian.device)
        with self.seeded():
            return Balanced(TorchjdGradDrop(leak=leak)(jacobian), torch.zeros(0))
