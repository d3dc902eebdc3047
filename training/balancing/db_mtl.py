# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Dual balancing: logarithms of losses, and averaged gradients of one length."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from training.balancing.base import Labelled
from training.balancing.gradient_balancing import Balanced, JacobianBalancing
from training.balancing.gradients import ParameterGradients, weighted_sum
from training.balancing.options import number


@dataclass(frozen=True)
class DBMTLOptions:
    """The average keeps beta / t^decay of its past."""

    beta: float = number(0.9, 0, 1)
    decay: float = number(0.5, 0)


class DBMTL(JacobianBalancing):
    """Moving averages of the gradients of log L_i, each scaled to the longest of them, and added.

    Lin et al., "Dual-Balancing for Multi-Task Learning", 2023, Algorithm 1. Heads get the gradient
    of log L_i. A task without labels keeps its average and count t, and adds nothing.
    """

    name = 'DB-MTL'
    Options = DBMTLOptions
    positive = True

    def start(self) -> None:
        """Averages float32 [T, N] beside the parameters."""
        self.state = {'average': self.rows(), 'count': self.vector(0)}

    def balance(self, samples: list[ParameterGradients], labelled: Labelled) -> Balanced:
        """Weights are the factors of the averages."""
        count = self.state['count']
        count[labelled.present] += 1
        places = [self.tasks.index(task) for task in labelled.tasks]
        averages = [self.state['average'][place] for place in places]
        for average, place, task, loss in zip(
            averages, places, labelled.tasks, labelled.losses.tolist(), strict=True
        ):
            kept = self.options.beta / float(count[place]) ** self.options.decay
            average.mul_(kept).add_(samples[0].rows[task], alpha=(1 - kept) / loss)
        lengths = torch.stack([a.norm(dtype=torch.float64) for a in averages]).cpu()
        weights = torch.where(lengths > 0, lengths.max() / lengths, 0.0)
        return Balanced(weighted_sum(averages, weights), weights, 1 / labelled.losses)
