# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""FiLM by task (Perez et al., AAAI 2018): all tasks share trunk and neck, each modulates it.

The channels of every neck level are scaled and shifted for a task, as the image and the task say:
a learned vector per task attends to those of the other tasks and to the neck's stride-32 level in
`layers` transformer decoder layers (DETR's queries: Carion et al., ECCV 2020), and what has become
of it gives scale and shift. A light head reads the result. Not MulT (Bhattacharjee et al., CVPR
2022) nor SwinMTL (Taghavi et al., IROS 2024), whose tasks share attention maps or a whole decoder.
A further task costs a query and a head. Shared: everything but the heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.network_error import NetworkError
from training.networks.base import MultiTaskNetwork
from training.networks.sharing.options import within
from training.networks.sharing.parts import OfTask, Parts
from training.tasks import Features
from training.tasks.base import TaskFeatures


@dataclass(frozen=True)
class FiLMOptions:
    """layers: of the decoder. attention_heads: must divide network.neck_channels."""

    layers: int = within(2, 1)
    attention_heads: int = within(4, 1)


class QueryDecoder(nn.Module):
    """Queries and a level -> scale and shift for every task."""

    no_weight_decay = ('query',)

    def __init__(self, tasks: int, channels: int, options: FiLMOptions) -> None:
        """Scales begin at 1 and shifts at 0."""
        super().__init__()
        self.query = nn.Parameter(torch.randn(tasks, channels) * channels**-0.5)
        layer = nn.TransformerDecoderLayer(
            channels, options.attention_heads, 4 * channels, 0.0, 'gelu', batch_first=True,
            norm_first=True,
        )  # fmt: skip
        self.layers = nn.TransformerDecoder(layer, options.layers, nn.LayerNorm(channels))
        self.modulate = nn.Linear(channels, 2 * channels)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Level [B, C, H, W] -> scale and shift [B, T, C]."""
        tokens = level.flatten(2).transpose(1, 2)
        asked = self.layers(self.query.expand(len(level), -1, -1), tokens)
        scale, shift = self.modulate(asked).chunk(2, dim=-1)
        return 1 + scale, shift


class FiLM(MultiTaskNetwork):
    """Trunk, neck and query decoder for all; heads."""

    def __init__(self, parts: Parts, options: FiLMOptions) -> None:
        """Raises NetworkError for heads that do not read the neck, or no neck."""
        channels = parts.config.neck_channels
        if parts.config.neck == 'none' or channels % options.attention_heads:
            raise NetworkError(
                f'film modulates the levels of the neck with {options.attention_heads} '
                f'attention heads: network.neck must be fpn or bifpn, network.neck_channels '
                f'({channels}) a multiple of them'
            )
        trunk = parts.trunk()
        heads = {t.name: OfTask(parts.head(t, trunk.channels)) for t in parts.tasks}
        super().__init__(trunk, parts.neck(trunk.channels), parts.tasks, heads)
        self.decoder = QueryDecoder(len(parts.tasks), channels, options)

    def features(self, image: Tensor) -> TaskFeatures:
        """The queries are asked once for all tasks; what is read by a task is made when asked."""
        levels = self.trunk(image)
        neck = self.neck(levels)
        scale, shift = self.decoder(neck[-1])
        places = {task.name: i for i, task in enumerate(self.tasks)}

        def make(task: str, index: Tensor | None) -> Features:
            g, b = (x[:, places[task], :, None, None] for x in (scale, shift))
            own = Features(levels, [g * level + b for level in neck])
            return own if index is None else own.rows(index)

        return TaskFeatures(make, self.decoder.query)
