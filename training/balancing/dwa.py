# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Dynamic weight average: weights from how fast each loss fell over the last two epochs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.balancing.loss_weighting import LossWeighting
from training.balancing.options import number


@dataclass(frozen=True)
class DWAOptions:
    """temperature: T. epoch_steps: steps that losses are averaged over (the paper's epoch)."""

    temperature: float = number(2.0, 0, above=True)
    epoch_steps: int = number(100, 1)


class DWA(LossWeighting):
    """lambda_k = K softmax_k(w / T), w_k = L_k(t-1) / L_k(t-2).

    Liu et al., "End-to-End Multi-Task Learning with Attention", CVPR 2019, eq. 7. Ones in the first
    two epochs. Averages are over the steps in which the task is labelled; a task without any in an
    epoch keeps its averages.
    """

    name = 'DWA'
    Options = DWAOptions
    positive = True

    def start(self) -> None:
        """Sums of this epoch and averages of the two before."""
        names = ('sum', 'count', 'last', 'before')
        self.state = {name: self.vector(0) for name in names}
        self.state['step'] = torch.zeros(1, dtype=torch.int64)

    def weights(self, losses: Tensor, present: Tensor) -> Tensor:
        """Eq. 7; a task without two averages counts as one whose loss stays as it is."""
        last, before = self.state['last'], self.state['before']
        if self.state['step'] < 2 * self.options.epoch_steps:
            return self.vector(1)
        ratio = torch.where(before > 0, last / before, 1.0)
        return len(self.tasks) * (ratio / self.options.temperature).softmax(0)

    def observe(self, losses: Tensor, present: Tensor) -> None:
        """Add to the averages; close the epoch after `epoch_steps`."""
        state = self.state
        state['sum'] += losses
        state['count'] += present
        state['step'] += 1
        if state['step'] % self.options.epoch_steps == 0:
            seen = state['count'] > 0
            state['before'][seen] = state['last'][seen]
            state['last'][seen] = (state['sum'] / state['count'])[seen]
            state['sum'].zero_()
            state['count'].zero_()
