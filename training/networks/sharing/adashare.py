# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""AdaShare (Sun et al., NeurIPS 2020): each task learns which blocks of one trunk to run.

A task has two logits for every block that keeps its input's shape; in training `select` or `skip`
is drawn by Gumbel-softmax, with the gradient passed straight through, and a skipped block is the
identity. Two penalties: `sparsity`, the mean log-probability of selecting, and `sharing`, how far
the tasks' logits are apart, both weighted (L - l) / L towards early blocks (means over blocks
here). Evaluated and deployed is the likelier choice: skipped blocks are not computed. Changed: one
training, where the paper warms up all blocks without policies, opens the policies of one block more
per epoch from the last to the first (its curriculum), trains weights and policies in turns at a
falling temperature, and then trains the network of the drawn policies again from the start. Here
weights and all policies are trained together at a fixed temperature. Shared: the trunk. Policy,
neck and head are a task's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.network_error import NetworkError
from training.networks.sharing.options import within
from training.networks.sharing.parts import Parts
from training.networks.sharing.visiting import Turn, VisitedNetwork, Visitor, wrap
from training.networks.stages import block_shapes, blocks_of


@dataclass(frozen=True)
class AdaShareOptions:
    """start: logit of selecting at the start (2: probability 0.88). temperature: of the draws.

    sparsity, sharing: weights of the penalties.
    """

    start: float = within(2.0, -20.0, 20.0)
    temperature: float = within(1.0, 0.05, 20.0)
    sparsity: float = within(0.01, 0.0)
    sharing: float = within(0.05, 0.0)


class Policy(Visitor):
    """Select or skip, of one task."""

    early: Tensor
    no_weight_decay = ('logits',)

    def __init__(self, skippable: Sequence[bool], options: AdaShareOptions) -> None:
        """skippable: for every block."""
        super().__init__()
        count = sum(skippable)
        numbers = iter(range(count))
        self.place = [next(numbers) if able else -1 for able in skippable]
        self.options = options
        self.logits = nn.Parameter(torch.zeros(count, 2))
        with torch.no_grad():
            self.logits[:, 0] = options.start
        early = 1 - torch.arange(count) / max(1, count)
        self.register_buffer('early', early, persistent=False)
        self.others: list[Policy] = []
        """Policies of the other tasks, which this one does not own."""
        self.decided: list[bool] | None = None

    def decide(self) -> list[bool]:
        """Which blocks are run when nothing is drawn; on an empty (meta) network all."""
        if self.logits.is_meta:
            return [True] * len(self.logits)
        return (self.logits[:, 0] >= self.logits[:, 1]).tolist()

    def visit(self, number: int, block: nn.Module, x: Tensor, *more: Any) -> Tensor:
        """Draw in training; follow the decision otherwise."""
        place = self.place[number]
        if place < 0:
            return block(x, *more)
        if self.training:
            drawn = F.gumbel_softmax(self.logits[place], self.options.temperature, hard=True)
            return drawn[0] * block(x, *more) + drawn[1] * x
        if not torch.compiler.is_exporting():
            self.decided = self.decide()
        if self.decided is None:
            raise NetworkError('adashare: run the network once in eval mode before it is exported')
        return block(x, *more) if self.decided[place] else x

    def penalty(self) -> Tensor | None:
        """Of the policy, not of the run."""
        if not len(self.logits):
            return None
        selecting = self.logits.log_softmax(1)[:, 0]
        total = self.options.sparsity * (self.early * selecting).mean()
        for other in self.others:
            apart = (self.logits - other.logits.detach()).abs().sum(1)
            total = total + self.options.sharing * (self.early * apart).mean()
        return total


class AdaShare(VisitedNetwork):
    """A shared trunk with policies."""

    def __init__(self, parts: Parts, options: AdaShareOptions) -> None:
        """A policy per task; raises NetworkError when no block of the trunk can be skipped."""
        trunk, turn = parts.stages(), Turn()
        skippable = [shape.keeps for shape in block_shapes(trunk)]
        if not any(skippable):
            raise NetworkError(
                f'adashare: no block of {parts.config.trunk!r} keeps the shape of its input, so '
                f'none can be skipped; take a deeper trunk'
            )
        wrap(blocks_of(trunk), turn)
        policies = {task: Policy(skippable, options) for task in parts.names}
        for task, policy in policies.items():
            policy.others = [other for name, other in policies.items() if name != task]
        super().__init__(parts, trunk, turn, policies)
