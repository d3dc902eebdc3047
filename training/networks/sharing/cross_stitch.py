# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Cross-Stitch networks (Misra et al., CVPR 2016, eq. 1), for any number of tasks.

After each stage the map of task i becomes sum_j alpha_ij x_j, with a matrix alpha a channel that is
learnt. It starts with `own` on the diagonal and (1 - own) / (T - 1) beside it, as the paper's
convex start. The paper lets alpha learn faster than the rest, by factors up to 1000:
`lr_factor`, 1 unless it is set. Changed: after the four stages of the trunk, where the paper has
five poolings; trunks begin alike, not from single-task training. Shared: all trunks and all alphas
(`lockstep.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.networks.sharing.lockstep import Lockstep, Mix
from training.networks.sharing.options import within
from training.networks.sharing.parts import Parts


@dataclass(frozen=True)
class CrossStitchOptions:
    """own: alpha_ii at the start. per_channel: one matrix a channel, as the paper; else one.

    lr_factor: of alpha's learning rate.
    """

    own: float = within(0.9, 0.0, 1.0)
    per_channel: bool = True
    lr_factor: float = within(1.0, 0.1, 1000.0)


def start_weights(tasks: int, own: float) -> Tensor:
    """[T, T]: `own` on the diagonal, the rest shared out beside it; 1 for one task."""
    if tasks == 1:
        return torch.ones(1, 1)
    weights = torch.full((tasks, tasks), (1 - own) / (tasks - 1))
    return weights.fill_diagonal_(own)


class Stitch(Mix):
    """alpha [C or 1, T, T]."""

    no_weight_decay = ('alpha',)

    def __init__(self, channels: int, tasks: int, own: float) -> None:
        """channels: 1 for one matrix."""
        super().__init__()
        self.alpha = nn.Parameter(start_weights(tasks, own).repeat(channels, 1, 1))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Weighted sums."""
        weights = self.alpha.permute(1, 2, 0)[..., None, None]  # [T, T, C, 1, 1]
        return [
            torch.stack([w * x for w, x in zip(row, maps, strict=True)]).sum(0) for row in weights
        ]


class CrossStitch(Lockstep):
    """Trunks joined by cross-stitch units."""

    def __init__(self, parts: Parts, options: CrossStitchOptions) -> None:
        """Options as in the paper."""
        self._options = options
        super().__init__(parts)

    def make_mix(self, channels: int, tasks: int) -> Stitch:
        """A unit."""
        options = self._options
        stitch = Stitch(channels if options.per_channel else 1, tasks, options.own)
        stitch.lr_factor = options.lr_factor
        return stitch
