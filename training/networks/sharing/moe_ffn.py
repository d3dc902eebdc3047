# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Mixture-of-experts feed-forward layers with a router a task (M3ViT: Fan et al., NeurIPS 2022).

In every second transformer block the feed-forward layer becomes `experts` smaller ones. A task's
router weights them for each token, keeps the `top_k` best and shares out their softmax (Shazeer et
al., ICLR 2017, eqs. 3 to 5, with noise in training); a penalty keeps the experts' importance alike
(its eqs. 6 and 7). Changed: any timm trunk with attention blocks; an expert is as wide as the layer
divided by top_k, so a token costs what it did where only chosen experts are computed. Here all are
computed and weighted, which is the same function (in PVTv2 an expert's depthwise convolution sees
all tokens) and exports as a plain graph. Shared: the trunk with its experts. Routers, neck and head
are a task's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from training.network_error import NetworkError
from training.networks.sharing.options import within
from training.networks.sharing.parts import Parts
from training.networks.sharing.visiting import Turn, VisitedNetwork, Visitor, wrap
from training.networks.stages import blocks_of


@dataclass(frozen=True)
class MoEFFNOptions:
    """every: which blocks, counted from the end. balance: weight of the importance penalty."""

    experts: int = within(4, 2)
    top_k: int = within(2, 1)
    every: int = within(2, 1)
    balance: float = within(0.01, 0.0)


class Experts(nn.Module):
    """Feed-forward layers of one kind."""

    def __init__(self, layer: Any, count: int, top_k: int) -> None:
        """layer: what they replace, one of timm's with fc1 and fc2."""
        super().__init__()
        width, hidden = layer.fc1.in_features, layer.fc1.out_features
        self.width = width
        make: Any = type(layer)
        self.experts = nn.ModuleList(
            make(in_features=width, hidden_features=max(1, hidden // top_k)) for _ in range(count)
        )

    def forward(self, x: Tensor, *more: Any) -> Tensor:
        """With equal weights, where no task's router has its turn."""
        weights = x.new_full((len(self.experts),), 1 / len(self.experts))
        return self.mixed(weights.expand(*x.shape[:-1], -1), x, *more)

    def mixed(self, weights: Tensor, x: Tensor, *more: Any) -> Tensor:
        """weights [..., E] of tokens x [..., C]."""
        answers = [expert(x, *more) for expert in self.experts]
        return torch.stack([weights[..., i : i + 1] * y for i, y in enumerate(answers)]).sum(0)


class Routers(Visitor):
    """The routers of one task."""

    def __init__(self, widths: Sequence[int], options: MoEFFNOptions) -> None:
        """One per layer."""
        super().__init__()
        self.options = options
        self.routers = nn.ModuleList(nn.Linear(w, options.experts, bias=False) for w in widths)
        self.importance: list[Tensor] = []

    def visit(self, number: int, block: nn.Module, x: Tensor, *more: Any) -> Tensor:
        """Route every token."""
        assert isinstance(block, Experts)
        if number == 0:
            self.importance = []
        weights = self.weights(number, x)
        if self.training:
            self.importance.append(weights.flatten(0, -2).mean(0))
        return block.mixed(weights.to(x.dtype), x, *more)

    def weights(self, number: int, x: Tensor) -> Tensor:
        """Of the experts [..., E]: at most top_k above 0, 1 together."""
        scores = self.routers[number](x).float()
        if self.training:
            scores = scores + torch.randn_like(scores) / self.options.experts
        lowest = scores.topk(self.options.top_k, dim=-1).values[..., -1:]
        return scores.masked_fill(scores < lowest, -torch.inf).softmax(dim=-1)

    def penalty(self) -> Tensor | None:
        """Squared coefficient of variation of the experts' importance, mean over layers."""
        if not self.importance:
            return None
        shares = torch.stack(self.importance)
        self.importance = []
        varied = shares.var(dim=1, correction=0) / shares.mean(dim=1) ** 2
        return self.options.balance * varied.mean()


class MoEFFN(VisitedNetwork):
    """A transformer trunk with experts."""

    def __init__(self, parts: Parts, options: MoEFFNOptions) -> None:
        """Raises NetworkError for a trunk without attention blocks."""
        if options.top_k > options.experts:
            raise NetworkError(
                f'moe_ffn: top_k {options.top_k} of {options.experts} experts; expected at most '
                f'all of them'
            )
        trunk, turn = parts.stages(), Turn()
        blocks: list[Any] = [
            b for _, _, b in blocks_of(trunk) if hasattr(b, 'attn') and hasattr(b, 'mlp')
        ]
        if not blocks:
            raise NetworkError(
                f'moe_ffn replaces the feed-forward layers of transformer blocks, and '
                f'{parts.config.trunk!r} has none; take pvt_v2_* or swin*_*'
            )
        chosen = blocks[:: -options.every][::-1]
        places = [
            (block, 'mlp', Experts(block.mlp, options.experts, options.top_k)) for block in chosen
        ]
        wrap(places, turn)
        widths = [experts.width for _, _, experts in places]
        super().__init__(parts, trunk, turn, {t: Routers(widths, options) for t in parts.names})
