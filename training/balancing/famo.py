# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""FAMO: all losses fall at the same relative rate, by their values before and after a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from training.balancing.base import Validation
from training.balancing.loss_weighting import LossWeighting
from training.balancing.options import BalancingError, number
from training.balancing.task_adam import TaskAdam


@dataclass(frozen=True)
class FAMOOptions:
    """lr: of the logits' Adam. weight_decay: gamma."""

    lr: float = number(0.025, 0, 1)
    weight_decay: float = number(1e-3, 0, 1)


class FAMO(LossWeighting):
    """c sum of z_i log L_i, z = softmax of logits w, c = 1 / sum(z_i / L_i).

    Liu et al., "FAMO: Fast Adaptive Multitask Optimization", NeurIPS 2023, Algorithm 1: the weights
    z_i c / L_i sum to 1, and w falls along J_softmax^T (log L - log L'), L' being the losses of the
    same images after the step. Softmax and update are over the labelled tasks only.
    """

    name = 'FAMO'
    Options = FAMOOptions
    positive = True
    ahead = False
    needs_after_step = True

    def start(self) -> None:
        """Logits of zero."""
        self.state = {'logits': self.vector(0), **TaskAdam.state(len(self.tasks))}
        self._before: tuple[Tensor, Tensor] | None = None

    def weights(self, losses: Tensor, present: Tensor) -> Tensor:
        """z_i c / L_i."""
        share = torch.where(present, self._shares(present) / losses, 0.0)
        return share / share.sum()

    def combine(self, validation: Validation | None = None) -> dict[str, float]:
        """As it says; a step without labels moves no logits afterwards."""
        self._before = self.vector(0), torch.zeros(len(self.tasks), dtype=torch.bool)
        return super().combine(validation)

    def observe(self, losses: Tensor, present: Tensor) -> None:
        """Keep the losses for `after_step`."""
        self._before = losses, present

    def after_step(self, losses: Mapping[str, Tensor]) -> None:
        """Move the logits; `losses` as before the step, summed over its parts."""
        if self._before is None:
            raise BalancingError('FAMO: after_step() comes once, after combine()')
        before, present = self._before
        self._before = None
        after = self.vector(0)
        again = self.labelled([losses])
        after[again.present] = again.losses
        both = present & again.present
        fall = torch.where(both, before.log() - after.log(), 0.0)
        z = self._shares(both)
        gradient = z * (fall - (z * fall).sum())
        adam = TaskAdam(self.options.lr, self.options.weight_decay)
        adam.step(self.state['logits'], gradient, both, self.state)

    def _shares(self, present: Tensor) -> Tensor:
        logits = torch.where(present, self.state['logits'], -torch.inf)
        return logits.softmax(0) if present.any() else self.vector(0)
