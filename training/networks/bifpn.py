# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""BiFPN (Tan et al., "EfficientDet", CVPR 2020, section 3) over strides 4-32.

Levels are summed with learned non-negative weights that are normalised by their sum (its eq. for
fast normalised fusion), first from coarse to fine, then from fine to coarse. Changed: four levels
at strides 4-32 and two repetitions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.layers import ConvNorm, SeparableConv, upsample_to

CELLS = 2
EPSILON = 1e-4


class Fuse(nn.Module):
    """Normalised weighted sum of `inputs` maps, then a separable convolution."""

    def __init__(self, inputs: int, channels: int) -> None:
        """Equal weights at the start."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(inputs))
        self.smooth = SeparableConv(channels, channels)

    def forward(self, *maps: Tensor) -> Tensor:
        """Maps of one shape."""
        weight = self.weight.relu()
        weight = weight / (weight.sum() + EPSILON)
        return self.smooth(torch.stack([w * x for w, x in zip(weight, maps, strict=True)]).sum(0))


class Cell(nn.Module):
    """One pass down and one up."""

    def __init__(self, levels: int, channels: int) -> None:
        """The finest level is fused once, the coarsest on the way up only."""
        super().__init__()
        self.down = nn.ModuleList(Fuse(2, channels) for _ in range(levels - 1))
        counts = [3] * (levels - 2) + [2]
        self.up = nn.ModuleList(Fuse(count, channels) for count in counts)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Finest level first."""
        down = list(levels)
        for i in range(len(levels) - 2, -1, -1):
            down[i] = self.down[i](levels[i], upsample_to(down[i + 1], levels[i]))
        up = [down[0]]
        for i, fuse in enumerate(self.up, 1):
            finer = F.max_pool2d(up[-1], 2)
            last = i == len(levels) - 1
            up.append(fuse(levels[i], finer) if last else fuse(levels[i], down[i], finer))
        return up


class BiFPN(nn.Module):
    """Trunk features at strides 4-32 -> as many maps of `channels` channels, same strides."""

    def __init__(self, trunk_channels: Sequence[int], channels: int) -> None:
        """A lateral 1x1 a level and the cells."""
        super().__init__()
        self.lateral = nn.ModuleList(ConvNorm(c, channels, act=False) for c in trunk_channels)
        self.cells = nn.ModuleList(Cell(len(trunk_channels), channels) for _ in range(CELLS))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """One cell after another."""
        levels = [lateral(f) for lateral, f in zip(self.lateral, features, strict=True)]
        for cell in self.cells:
            levels = cell(levels)
        return levels
