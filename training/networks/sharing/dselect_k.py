# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""DSelect-k (Hazimeh et al., NeurIPS 2021): MMoE whose gates come to use at most k experts.

A gate has k selectors. The code of an expert is its number in binary; a selector's probability of
expert e is the product over the digits of s(z) where e's is 1 and of 1 - s(z) where it is 0, with
z linear in the gate's input (per example) and s the smooth step, a cubic that is exactly 0 below
-gamma / 2 and exactly 1 above gamma / 2. The gate is the selectors' sum, weighted by a softmax; an
entropy penalty drives each selector to one expert. Everything else, and what is shared, is
`mmoe.py`'s. Changed: the number of experts is a power of 2, so that no code is without an expert.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.network_error import NetworkError
from training.networks.sharing.mmoe import LAST, Gated, MMoE, MMoEOptions
from training.networks.sharing.options import within
from training.networks.sharing.parts import Parts
from training.networks.sharing.visiting import Answer, Penalised
from training.tasks import Features, Head


@dataclass(frozen=True)
class DSelectKOptions(MMoEOptions):
    """selected: k. gamma: width of the smooth step. entropy: weight of the penalty."""

    shared_stages: int = within(3, 0, LAST - 1)
    experts: int = within(4, 2)
    selected: int = within(2, 1)
    gamma: float = within(1.0, 0.01, 100.0)
    entropy: float = within(0.001, 0.0)


class SelectingGate(nn.Module):
    """Weights of the experts [B, E], from a map."""

    codes: Tensor

    def __init__(self, channels: int, options: DSelectKOptions) -> None:
        """Selectors begin nearly even."""
        super().__init__()
        digits = options.experts.bit_length() - 1
        self.options = options
        self.selectors: Tensor | None = None
        self.select = nn.Linear(channels, options.selected * digits)
        self.weigh = nn.Linear(channels, options.selected)
        for layer, size in ((self.select, options.gamma / 100), (self.weigh, 0.05)):
            layer.no_weight_decay = ('weight',)
            for parameter in layer.parameters():
                nn.init.uniform_(parameter, -size, size)
        numbers = torch.arange(options.experts)
        codes = (numbers[:, None] >> torch.arange(digits)) & 1
        self.register_buffer('codes', codes.bool(), persistent=False)

    def forward(self, level: Tensor) -> Tensor:
        """Of a map's mean."""
        x = level.float().mean((2, 3))
        z = self.select(x).view(len(x), self.options.selected, 1, self.codes.shape[1])
        step = smooth_step(z, self.options.gamma)
        selectors = torch.where(self.codes, step, 1 - step).prod(dim=-1)  # [B, k, E]
        if self.training:
            self.selectors = selectors
        return torch.einsum('bk,bke->be', self.weigh(x).softmax(dim=1), selectors)

    def penalty(self) -> Tensor | None:
        """Mean entropy of the selectors of a forward pass in training, once."""
        selectors, self.selectors = self.selectors, None
        if selectors is None:
            return None
        return self.options.entropy * torch.special.entr(selectors.clamp_min(1e-6)).sum(-1).mean()


def smooth_step(t: Tensor, gamma: float) -> Tensor:
    """0 up to -gamma / 2, 1 from gamma / 2 on, and the cubic with a smooth slope between."""
    t = (t / gamma).clamp(-0.5, 0.5)
    return -2 * t**3 + 1.5 * t + 0.5


class Selecting(Penalised, Gated):
    """Gate, neck and head of one task."""

    gate: SelectingGate  # type: ignore[assignment]

    def __init__(self, channels: Sequence[int], options: DSelectKOptions, head: Head) -> None:
        """channels: of all levels."""
        Gated.__init__(self, options.shared_stages, channels, options.experts, head)
        self.gate = SelectingGate(([3, *channels])[options.shared_stages], options)

    def forward(self, features: Features) -> Answer:
        """Mix and answer."""
        return Answer(Gated.forward(self, features), self.gate.penalty())


class DSelectK(MMoE):
    """Shared stages, experts, selecting heads."""

    def __init__(self, parts: Parts, options: DSelectKOptions) -> None:
        """Raises NetworkError where experts and codes do not match."""
        if options.experts.bit_count() != 1 or options.selected > options.experts:
            raise NetworkError(
                f'dselect_k: {options.selected} selected of {options.experts} experts; expected a '
                f'power of 2 of experts, and at most all of them selected'
            )
        super().__init__(parts, options)

    def gated(self, channels: Sequence[int], options: DSelectKOptions, head: Head) -> Head:  # type: ignore[override]
        """A selecting head."""
        return Selecting(channels, options, head)
