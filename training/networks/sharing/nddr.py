# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""NDDR-CNN (Gao et al., CVPR 2019): features fused by a 1x1 convolution per task.

After each stage all tasks' maps are concatenated and reduced to each task's channels by a 1x1
convolution and batch norm. It starts as a weighted sum of equal channels, `own` for the task itself
(the paper's alpha, 0.9). The paper lets the fusions learn 100 times as fast as the rest:
`lr_factor`, 1 unless it is set. Changed: four levels; the shortcuts are our neck; trunks begin
alike, not from single-task training. Shared: all trunks and all fusions (`lockstep.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.networks.sharing.cross_stitch import start_weights
from training.networks.sharing.lockstep import Lockstep, Mix
from training.networks.sharing.options import within
from training.networks.sharing.parts import Parts


@dataclass(frozen=True)
class NDDROptions:
    """own: weight of the own channel at the start. lr_factor: of the fusions' learning rate."""

    own: float = within(0.9, 0.0, 1.0)
    lr_factor: float = within(1.0, 0.1, 1000.0)


class Fusion(Mix):
    """Concatenate, 1x1 convolution, batch norm; one per task."""

    def __init__(self, channels: int, tasks: int, own: float) -> None:
        """Start as weighted sums of equal channels."""
        super().__init__()
        self.reduce = nn.ModuleList(
            nn.Conv2d(tasks * channels, channels, 1, bias=False) for _ in range(tasks)
        )
        self.norm = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(tasks))
        equal = torch.eye(channels)
        for layer, weights in zip(self.reduce, start_weights(tasks, own), strict=True):
            assert isinstance(layer, nn.Conv2d)
            start = torch.cat([w * equal for w in weights], dim=1)
            with torch.no_grad():
                layer.weight.copy_(start[..., None, None])

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """One fusion a task of the same concatenation."""
        together = torch.cat(maps, dim=1)
        pairs = zip(self.reduce, self.norm, strict=True)
        return [norm(reduce(together)) for reduce, norm in pairs]


class NDDR(Lockstep):
    """Trunks joined by fusions."""

    def __init__(self, parts: Parts, options: NDDROptions) -> None:
        """Options as in the paper."""
        self._options = options
        super().__init__(parts)

    def make_mix(self, channels: int, tasks: int) -> Fusion:
        """A fusion."""
        fusion = Fusion(channels, tasks, self._options.own)
        fusion.lr_factor = self._options.lr_factor
        return fusion
