# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""A timm trunk cut at its four features, so that something can happen between the stages.

Every stage takes and gives [B, C, H, W], whatever order the model itself uses.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from training.network_error import NetworkError
from training.networks.trunk import STRIDES, Trunk

BLOCKS = frozenset({
    'Block', 'BasicBlock', 'Bottleneck', 'SwinTransformerBlock', 'SwinTransformerV2Block',
    'ConvNeXtBlock', 'InvertedResidual', 'DepthwiseSeparableConv', 'EdgeResidual',
    'UniversalInvertedResidual', 'MobileAttention', 'CondConvResidual', 'ConvBnAct',
})  # fmt: skip
"""Class names of the residual blocks of timm's pyramid models."""


class Stage(nn.Module):
    """From one feature level to the next."""

    def __init__(self, layers: list[nn.Module], enters: bool, channels_last: bool) -> None:
        """enters: takes the normalised image; channels_last: the order inside."""
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.enters = enters
        self.channels_last = channels_last

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H', W']."""
        if not self.channels_last:
            return self.layers(x)
        x = self.layers(x if self.enters else x.permute(0, 2, 3, 1))
        return x.permute(0, 3, 1, 2).contiguous()


class StagedTrunk(nn.Module):
    """The stages of a trunk from `first` on, the same function as the trunk.

    `channels`: of all four levels. `start` makes what stage 0 takes; raises NetworkError for a
    model that is not a sequence of stages.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, trunk: Trunk, first: int = 0, last: int = len(STRIDES)) -> None:
        """Take the trunk's modules over (not copied) for the levels `first` to `last` - 1."""
        super().__init__()
        self.channels = trunk.channels
        self.channels_last = trunk.channels_last
        groups = _groups(trunk)
        self.stages = nn.ModuleList(
            Stage(groups[i], i == 0, trunk.channels_last) for i in range(first, last)
        )
        self.register_buffer('scale', trunk.scale, persistent=False)
        self.register_buffer('shift', trunk.shift, persistent=False)

    def start(self, image: Tensor) -> Tensor:
        """Normalise 0-255 RGB [B, 3, H, W] as the trunk does."""
        return image.float() * self.scale + self.shift

    def forward(self, x: Tensor) -> list[Tensor]:
        """Run the stages from the normalised image, or from the level before `first`."""
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return levels


def blocks_of(module: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """Parent, name and module of every outermost residual block, in order of registration.

    Raises NetworkError when there is none that is known.
    """
    found = list(_blocks(module))
    if not found:
        raise NetworkError(
            'this trunk has no residual blocks that are known here; expected some of '
            f'{sorted(BLOCKS)}: take a ResNet, RegNet, PVT, Swin, ConvNeXt or EfficientNet'
        )
    return found


def _blocks(module: nn.Module) -> Any:
    for name, child in module.named_children():
        if type(child).__name__ in BLOCKS:
            yield module, name, child
        else:
            yield from _blocks(child)


class BlockShape:
    """What a block does to its maps, learnt by running the trunk once.

    channels: of the output; axis: where they are; keeps: input and output are of one shape.
    """

    def __init__(self, before: torch.Size, after: torch.Size, channels_last: bool) -> None:
        """Shapes of the block's first argument and of its result."""
        self.axis = 1 if len(after) == 4 and not channels_last else len(after) - 1
        self.channels = after[self.axis]
        self.entering = before[self.axis]
        self.keeps = before == after


def block_shapes(trunk: StagedTrunk, size: int = 64) -> list[BlockShape]:
    """Of `blocks_of(trunk)`, in their order."""
    blocks = blocks_of(trunk)
    seen: dict[int, BlockShape] = {}
    last = trunk.channels_last

    def watch(module: nn.Module, inputs: Any, output: Any) -> None:
        seen[id(module)] = BlockShape(inputs[0].shape, output.shape, last)

    hooks = [block.register_forward_hook(watch) for _, _, block in blocks]
    device = trunk.scale.device
    training = trunk.training
    trunk.eval()
    with torch.no_grad():
        trunk(trunk.start(torch.zeros(1, 3, size, size, device=device)))
    trunk.train(training)
    for hook in hooks:
        hook.remove()
    return [seen[id(block)] for _, _, block in blocks]


def _groups(trunk: Trunk) -> list[list[nn.Module]]:
    """Modules of the timm model by level."""
    body: Any = trunk.body
    if hasattr(body, 'return_layers'):  # timm's FeatureListNet
        names, ends = list(body), list(body.return_layers)
        ends = [ends[level] for level in trunk.levels]
        groups, begin = [], 0
        for end in ends:
            stop = names.index(end) + 1
            groups.append([body[name] for name in names[begin:stop]])
            begin = stop
        return groups
    if hasattr(body, 'conv_stem') and getattr(body, 'feature_hooks', 0) is None:
        # EfficientNet and MobileNet: the stem, then stages that may end a level.
        stem = [getattr(body, name) for name in ('conv_stem', 'bn1', 'act1') if hasattr(body, name)]
        ends = [stage for stage, level in body._stage_out_idx.items() if level in trunk.levels]
        starts = [0, *ends[:-1]]
        groups = [list(body.blocks[a:b]) for a, b in zip(starts, ends, strict=True)]
        groups[0] = [*stem, *groups[0]]
        return groups
    raise NetworkError(
        f'{type(body).__name__}: this trunk is no sequence of stages, which every sharing '
        f'structure but `hard` and `single` needs; take a ResNet, RegNet, PVT, Swin or EfficientNet'
    )
