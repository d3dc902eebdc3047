# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Task adapters (Maninis et al., "Attentive Single-Tasking of Multiple Tasks", CVPR 2019).

Every task runs through the shared trunk alone, modulated at each residual block by a squeeze-and-
excitation gate of its own and, where input and output of the block have one shape, by a residual
adapter, a 1x1 convolution beside the block:

    y = SE_t(block(x) + A_t(x)),   SE_t(z) = z * 2 sigmoid(W2 relu(W1 mean(z)))

Changed: whole blocks, not the convolutions in them, so that any timm trunk will do; gates begin at
1 and adapters at 0, so training begins from the plain trunk; no adversarial term on the gradients.
With `rank` the adapter is the product of two matrices of that rank, the second 0 at the start, as
in LoRA (Hu et al., ICLR 2022), there within the projections of a block and here beside it. Shared:
the trunk. Gates, adapters, neck and head are a task's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from training.networks.sharing.options import within
from training.networks.sharing.parts import Parts
from training.networks.sharing.visiting import Turn, VisitedNetwork, Visitor, wrap
from training.networks.stages import BlockShape, block_shapes, blocks_of


@dataclass(frozen=True)
class AdaptersOptions:
    """reduction: channels between W1 and W2. residual, excitation: which of the two there are.

    rank: of the residual adapters; 0 for full matrices.
    """

    reduction: int = within(4, 1)
    rank: int = within(0, 0)
    residual: bool = True
    excitation: bool = True


class Adapter(nn.Module):
    """Gate and residual adapter of one task at one block, whatever order its channels are in."""

    def __init__(self, shape: BlockShape, options: AdaptersOptions) -> None:
        """The identity at the start."""
        super().__init__()
        self.axis, channels = shape.axis, shape.channels
        self.residual: nn.Module | None = None
        if options.residual and shape.keeps:
            up = nn.Linear(options.rank or channels, channels, bias=False)
            nn.init.zeros_(up.weight)
            down = nn.Linear(channels, options.rank, bias=False) if options.rank else None
            self.residual = nn.Sequential(down, up) if down else up
        self.gate = None
        if options.excitation:
            inner = max(4, channels // options.reduction)
            last = nn.Linear(inner, channels)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.gate = nn.Sequential(nn.Linear(channels, inner), nn.ReLU(), last)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Input and output of the block -> its adapted output."""
        if self.residual is not None:
            y = y + self.residual(x.movedim(self.axis, -1)).movedim(-1, self.axis)
        if self.gate is not None:
            where = [i for i in range(1, y.ndim) if i != self.axis]
            shape = [y.shape[i] if i in (0, self.axis) else 1 for i in range(y.ndim)]
            y = y * (2 * self.gate(y.mean(where)).sigmoid()).view(shape)
        return y


class AdapterSet(Visitor):
    """The adapters of one task."""

    def __init__(self, shapes: Sequence[BlockShape], options: AdaptersOptions) -> None:
        """One a block."""
        super().__init__()
        self.adapters = nn.ModuleList(Adapter(shape, options) for shape in shapes)

    def visit(self, number: int, block: nn.Module, x: Tensor, *more: Any) -> Tensor:
        """Run the block, then adapt."""
        return self.adapters[number](x, block(x, *more))


class Adapters(VisitedNetwork):
    """A shared trunk with adapters."""

    def __init__(self, parts: Parts, options: AdaptersOptions) -> None:
        """A set a task."""
        trunk, turn = parts.stages(), Turn()
        shapes = block_shapes(trunk)
        wrap(blocks_of(trunk), turn)
        super().__init__(parts, trunk, turn, {t: AdapterSet(shapes, options) for t in parts.names})
