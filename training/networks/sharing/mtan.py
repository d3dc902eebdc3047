# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""MTAN (Liu et al., "End-to-End Multi-Task Learning with Attention", CVPR 2019, eqs. 1 and 2).

One shared trunk; each task has an attention module per stage. With p the stage's output, u what the
mask is computed from and f the task's features of the finer stage,

    a = h(g([u; f])),  task features = a * p,  f(next) = pooled 3x3 convolution of them

where g and h are 1x1 convolutions with batch norm, and h ends in a sigmoid. Changed: u is p, not
the stage's first convolution, because a timm stage is not cut inside; the convolution that carries
f on is each task's own, where paper and authors' code have one for all tasks, so that a task's loss
alone reaches what is in its head; and only the trunk has attention, not the decoder. Shared: the
trunk. A task's attention modules, neck and head are its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.layers import ConvNorm
from training.networks.base import MultiTaskNetwork
from training.networks.sharing.options import within
from training.networks.sharing.parts import Parts
from training.tasks import Features, Head
from training.tasks.wrapped import WrappedHead


@dataclass(frozen=True)
class MTANOptions:
    """reduction: by how much the channels between g and h are fewer than the stage's."""

    reduction: int = within(4, 1)


class Attention(nn.Module):
    """Attention of one task over one stage."""

    def __init__(self, finer: int, channels: int, reduction: int) -> None:
        """finer: channels of the stage before, 0 for the first."""
        super().__init__()
        self.carry = ConvNorm(finer, finer, 3) if finer else None
        inner = max(8, channels // reduction)
        self.g = ConvNorm(channels + finer, inner)
        self.h = ConvNorm(inner, channels, act=False)

    def forward(self, shared: Tensor, finer: Tensor | None) -> Tensor:
        """The stage's shared output [B, C, H, W], the task's features of the stage before."""
        read = [shared]
        if self.carry is not None and finer is not None:
            read.append(F.max_pool2d(self.carry(finer), 2))
        return shared * self.h(self.g(torch.cat(read, dim=1))).sigmoid()


class Attending(WrappedHead):
    """Attention modules, neck and head of one task."""

    def __init__(self, channels: Sequence[int], reduction: int, head: Head) -> None:
        """head: with its neck."""
        super().__init__(head)
        before = [0, *channels[:-1]]
        pairs = zip(before, channels, strict=True)
        self.attention = nn.ModuleList(Attention(b, c, reduction) for b, c in pairs)

    def forward(self, features: Features) -> Any:
        """Attend from fine to coarse."""
        return self.head(Features(self.attend(features.trunk), []))

    def attend(self, shared: Sequence[Tensor]) -> list[Tensor]:
        """The task's features of every stage."""
        levels: list[Tensor] = []
        for attention, level in zip(self.attention, shared, strict=True):
            levels.append(attention(level, levels[-1] if levels else None))
        return levels


class MTAN(MultiTaskNetwork):
    """A shared trunk and attending heads."""

    def __init__(self, parts: Parts, options: MTANOptions) -> None:
        """One trunk."""
        trunk = parts.trunk()
        heads: dict[str, Head] = {}
        for task in parts.tasks:
            head = parts.own(task, trunk.channels)
            heads[task.name] = Attending(trunk.channels, options.reduction, head)
        super().__init__(trunk, nn.Identity(), parts.tasks, heads)

    def features(self, image: Tensor) -> Features:
        """Run the trunk."""
        return Features(self.trunk(image), [])
