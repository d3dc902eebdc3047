# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""MMoE (Ma et al., "Modeling Task Relationships with Multi-gate Mixture-of-Experts", KDD 2018).

Eqs. 6 and 7: f_t(x) = sum_e g_t(x)_e f_e(x), g_t(x) = softmax(W_t x). Here the first stages of one
trunk are shared, the experts are copies of the later ones, and x of a gate is the mean of the last
shared level (of the image, with `shared_stages: 0`, where experts are whole trunks as in LibMTL).
A mixture is taken at each level that the experts have. Shared: trunk and experts. A task's gate,
neck and head are its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from training.networks.base import MultiTaskNetwork
from training.networks.sharing.options import within
from training.networks.sharing.parts import Parts
from training.networks.stages import StagedTrunk
from training.networks.trunk import STRIDES
from training.tasks import Features, Head
from training.tasks.wrapped import WrappedHead

LAST = len(STRIDES)


@dataclass(frozen=True)
class MMoEOptions:
    """shared_stages: stages before the experts. experts: how many."""

    shared_stages: int = within(3, 0, LAST - 1)
    experts: int = within(3, 1)


class Gate(nn.Module):
    """softmax(W x): weights of the experts [B, E]."""

    def __init__(self, channels: int, experts: int) -> None:
        """Not equal at the start: experts that begin alike would stay alike."""
        super().__init__()
        self.linear = nn.Linear(channels, experts)
        self.linear.no_weight_decay = ('weight',)

    def forward(self, level: Tensor) -> Tensor:
        """Of a map's mean."""
        return self.linear(level.float().mean((2, 3))).softmax(dim=1)


def mixed(weights: Tensor, experts: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Weighted sums, level by level; weights [B, E], E experts with their levels."""
    return [
        torch.einsum('be,ebchw->bchw', weights.to(levels[0].dtype), torch.stack(levels))
        for levels in zip(*experts, strict=True)
    ]


def expert_features(trunk: nn.Module, experts: nn.ModuleList, image: Tensor) -> Features:
    """Shared levels (or the normalised image) as trunk, all levels of all experts as neck."""
    assert isinstance(trunk, StagedTrunk)
    start = trunk.start(image)
    levels = trunk(start) or [start]
    return Features(levels, [x for expert in experts for x in expert(levels[-1])])


class Gated(WrappedHead):
    """Gate, neck and head of one task.

    It takes `Features` whose trunk is the shared levels (the normalised image, if there are none)
    and whose neck is the levels of the first expert, then of the next.
    """

    def __init__(self, shared_stages: int, channels: Sequence[int], experts: int, head: Head):
        """channels: of all levels."""
        super().__init__(head)
        self.shared_stages = shared_stages
        self.experts = experts
        self.gate = Gate(([3, *channels])[shared_stages], experts)

    def forward(self, features: Features) -> Any:
        """Mix and answer."""
        own = LAST - self.shared_stages
        experts = [features.neck[i * own : (i + 1) * own] for i in range(self.experts)]
        mixture = mixed(self.gate(features.trunk[-1]), experts)
        return self.head(Features([*features.trunk[: self.shared_stages], *mixture], []))


class MMoE(MultiTaskNetwork):
    """Shared stages, experts, gated heads."""

    def __init__(self, parts: Parts, options: MMoEOptions) -> None:
        """The trunk is the shared stages."""
        shared = options.shared_stages
        trunk = parts.stages(0, shared)
        heads: dict[str, Head] = {}
        for task in parts.tasks:
            head = parts.own(task, trunk.channels)
            heads[task.name] = self.gated(trunk.channels, options, head)
        super().__init__(trunk, nn.Identity(), parts.tasks, heads)
        self.experts = nn.ModuleList(parts.stages(shared) for _ in range(options.experts))

    def gated(self, channels: Sequence[int], options: MMoEOptions, head: Head) -> Head:
        """What a task has; head: with its neck."""
        return Gated(options.shared_stages, channels, options.experts, head)

    def features(self, image: Tensor) -> Features:
        """Shared levels, and all levels of all experts."""
        return expert_features(self.trunk, self.experts, image)
