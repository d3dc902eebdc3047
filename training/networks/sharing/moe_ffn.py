# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Mixture-of-experts feed-forward layers with a router a task (M3ViT: Fan et al., NeurIPS 2022).

In every second transformer block the feed-forward layer becomes `experts` smaller ones. A task's
router weights them for each token, keeps the `top_k` best and shares out their softmax (Shazeer et
al., ICLR 2017, eqs. 3 to 5, with noise in training); a penalty keeps the experts' importance alike
(its eqs. 6 and 7). Options add what else that paper has: noise with a learned deviation (eq. 4;
otherwise it is 1 / E, as in V-MoE: Riquelme et al., NeurIPS 2021), and a penalty on the experts'
load (eqs. 8 to 11). Changed: any timm trunk with attention blocks; an expert is as wide as the
layer divided by top_k, so a token costs what it did where only chosen experts are computed. Here
all are computed and weighted, which is the same function (in PVTv2 an expert's depthwise
convolution sees all tokens) and exports as a plain graph. Shared: the trunk with its experts.
Routers, neck and head are a task's own.
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
from training.networks.stages import blocks_of


@dataclass(frozen=True)
class MoEFFNOptions:
    """every: which blocks, counted from the end. balance, load: weights of the penalties.

    learned_noise: its deviation is a function of the token.
    """

    experts: int = within(4, 2)
    top_k: int = within(2, 1)
    every: int = within(2, 1)
    balance: float = within(0.01, 0.0)
    load: float = within(0.0, 0.0)
    learned_noise: bool = False


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
        self.noise = nn.ModuleList()
        if options.learned_noise:
            self.noise.extend(nn.Linear(w, options.experts, bias=False) for w in widths)
            for layer in self.noise:
                nn.init.zeros_(layer.weight)
        self.importance: list[Tensor] = []
        self.load: list[Tensor] = []

    def visit(self, number: int, block: nn.Module, x: Tensor, *more: Any) -> Tensor:
        """Route every token."""
        assert isinstance(block, Experts)
        if number == 0:
            self.importance, self.load = [], []
        weights = self.weights(number, x)
        if self.training:
            self.importance.append(weights.flatten(0, -2).mean(0))
        return block.mixed(weights.to(x.dtype), x, *more)

    def weights(self, number: int, x: Tensor) -> Tensor:
        """Of the experts [..., E]: at most top_k above 0, 1 together."""
        scores, top_k = self.routers[number](x).float(), self.options.top_k
        if self.training:
            clean, deviation = scores, torch.full_like(scores, 1 / self.options.experts)
            if self.options.learned_noise:
                deviation = F.softplus(self.noise[number](x).float())
            scores = clean + torch.randn_like(clean) * deviation
            if self.options.load and top_k < self.options.experts:
                chances = chosen_chances(clean, scores, deviation, top_k)
                self.load.append(chances.flatten(0, -2).mean(0))
        lowest = scores.topk(top_k, dim=-1).values[..., -1:]
        return scores.masked_fill(scores < lowest, -torch.inf).softmax(dim=-1)

    def penalty(self) -> Tensor | None:
        """Squared coefficients of variation of the experts' importance and load, over layers."""
        if not self.importance:
            return None
        total = self.options.balance * varied(self.importance)
        if self.load:
            total = total + self.options.load * varied(self.load)
        self.importance, self.load = [], []
        return total


def chosen_chances(clean: Tensor, noisy: Tensor, deviation: Tensor, top_k: int) -> Tensor:
    """Shazeer et al., eqs. 8 and 9: that an expert is chosen when its own noise is drawn anew.

    Scores [..., E] without and with noise, the noise's deviation; top_k below E.
    """
    best = noisy.topk(top_k + 1, dim=-1).values
    is_chosen = noisy >= best[..., -2:-1]
    limit = torch.where(is_chosen, best[..., -1:], best[..., -2:-1])  # of the others, the k-th best
    return torch.special.ndtr((clean - limit) / deviation)


def varied(shares: Sequence[Tensor]) -> Tensor:
    """Squared coefficient of variation over experts, mean over layers."""
    layers = torch.stack(list(shares))
    return (layers.var(dim=1, correction=0) / layers.mean(dim=1) ** 2).mean()


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
