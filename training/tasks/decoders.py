# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Decoders of the dense heads: features at strides 4-32 -> [B, channels, H/s, W/s].

`fpn`, the default: every neck level through a 1x1 convolution, upsampled to stride 4 and summed,
after the panoptic FPN decoder (Kirillov et al., CVPR 2019) with SegFormer's economy (Xie et al.,
2021). `finest`: the same of the neck's finest level alone. The others read the trunk. `aspp` stays
at stride 32 and has 256 channels: DeepLabV3's (Chen et al., 2017, section 3.3) as LibMTL takes it
for its heads. `mlp` is SegFormer's all-MLP (eq. 4). UPerNet (Xiao et al., ECCV 2018) and the
semantic FPN (Kirillov et al., CVPR 2019) are those of `segmentation_models_pytorch` (MIT), which
want an input image and a stride-2 level before the trunk's four and use neither.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.layers import ConvNorm, SeparableConv, upsample_to
from training.network_error import NetworkError
from training.tasks.base import Features

NORM_GROUPS = 32
FINEST, COARSEST = 4, 32
"""Strides of the first and last level."""
ASPP_CHANNELS = 256
ASPP_RATES = (12, 24, 36)


class PooledNorm(nn.BatchNorm2d):
    """For a pooled branch: one value per channel has no variance, and takes the running statistics.

    So it is in a part of a step where one image is labelled for the task. It moves no statistics.
    """

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        if not self.training or input.numel() > input.shape[1]:
            return super().forward(input)
        assert self.running_mean is not None and self.running_var is not None
        # Copies: a later part moves the statistics, and this one may not have gone backward yet.
        mean, var = self.running_mean.clone(), self.running_var.clone()
        return F.batch_norm(input, mean, var, self.weight, self.bias, eps=self.eps)


class AllMLP(nn.Module):
    """Every level to `channels` by one linear map, upsampled, concatenated, mixed by another."""

    def __init__(self, trunk_channels: Sequence[int], channels: int) -> None:
        """A 1x1 convolution per level and one for all."""
        super().__init__()
        self.project = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in trunk_channels)
        self.mix = ConvNorm(channels * len(trunk_channels), channels)
        self.dropout = nn.Dropout2d(0.1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Coarse levels last, as they come."""
        levels = [project(f) for project, f in zip(self.project, features, strict=True)]
        levels = [levels[0], *(upsample_to(level, levels[0]) for level in levels[1:])]
        return self.dropout(self.mix(torch.cat(levels, dim=1)))


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling on the last level, and a 3x3 convolution."""

    def __init__(self, trunk_channels: Sequence[int], channels: int) -> None:
        """The width is DeepLab's, whatever `channels` says."""
        super().__init__()
        inputs, width = trunk_channels[-1], ASPP_CHANNELS
        self.branches = nn.ModuleList(
            [ConvNorm(inputs, width), *(ConvNorm(inputs, width, 3, dilation=r) for r in ASPP_RATES)]
        )
        self.pooled = ConvNorm(inputs, width)
        self.pooled[1] = PooledNorm(width)
        self.project = ConvNorm(width * (len(ASPP_RATES) + 2), width)
        self.dropout = nn.Dropout(0.5)
        self.smooth = ConvNorm(width, width, 3)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """The last level alone; its mean over the image is a branch of its own."""
        x = features[-1]
        parts = [branch(x) for branch in self.branches]
        parts.append(self.pooled(x.mean((2, 3), keepdim=True)).expand_as(parts[0]))
        return self.smooth(self.dropout(self.project(torch.cat(parts, dim=1))))


class FromSMP(nn.Module):
    """A decoder of `segmentation_models_pytorch` on the trunk's four levels."""

    def __init__(self, decoder: nn.Module) -> None:
        """decoder: made for encoder channels `[3, 0, *trunk_channels]`."""
        super().__init__()
        self.decoder = decoder

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Put empty maps where the decoder expects the image and a stride-2 level."""
        finest = features[0]
        batch, _, height, width = finest.shape
        image = finest.new_empty(batch, 0, 4 * height, 4 * width)
        return self.decoder([image, finest.new_empty(batch, 0, 2 * height, 2 * width), *features])


def _upernet(trunk_channels: Sequence[int], channels: int) -> nn.Module:
    from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder  # takes 2 s

    decoder = UPerNetDecoder(
        encoder_channels=[3, 0, *trunk_channels], encoder_depth=5, decoder_channels=channels
    )
    _, pooled = decoder.psp.blocks[0]  # the pooling to 1x1, and its ConvNorm
    pooled[1] = PooledNorm(channels)
    return FromSMP(decoder)


def _semantic_fpn(trunk_channels: Sequence[int], channels: int) -> nn.Module:
    from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder  # takes 2 s

    if channels % NORM_GROUPS:
        raise NetworkError(
            f'segmentation.decoder semantic_fpn: neck_channels must be a multiple of {NORM_GROUPS} '
            f'for its group norms, found {channels}'
        )
    return FromSMP(
        FPNDecoder(
            encoder_channels=[3, 0, *trunk_channels],
            encoder_depth=5,
            pyramid_channels=channels,
            segmentation_channels=channels,
            dropout=0.1,
            merge_policy='add',
        )
    )


DECODERS: dict[str, Callable[[Sequence[int], int], nn.Module]] = {
    'mlp': AllMLP,
    'upernet': _upernet,
    'semantic_fpn': _semantic_fpn,
    'aspp': ASPP,
}
"""By the name in the configuration: (trunk channels, channels out)."""

FPN_DECODER, FINEST_DECODER = 'fpn', 'finest'


def check_decoder(kind: str, name: str) -> None:
    """Raise ValueError for a decoder that there is not."""
    known = [FPN_DECODER, FINEST_DECODER, *DECODERS]
    if name not in known:
        raise ValueError(f'{kind}.decoder: expected one of {known}, found {name!r}')


class Decoding(nn.Module):
    """Part of a dense head: its decoder. `stride`: input pixels per cell of what `decode` gives."""

    stride = FINEST
    reads_neck = True
    decoder: nn.Module | None

    def make_decoder(self, name: str, trunk_channels: Sequence[int], neck_channels: int) -> int:
        """Add the layers; returns their output channels."""
        self.decoder = None
        if name in DECODERS:
            self.decoder = DECODERS[name](trunk_channels, neck_channels)
            self.reads_neck = False
            self.stride = COARSEST if name == 'aspp' else FINEST
            return ASPP_CHANNELS if name == 'aspp' else neck_channels
        levels = trunk_channels if name == FPN_DECODER else ()
        self.project = nn.ModuleList(
            ConvNorm(neck_channels, neck_channels, act=False) for _ in levels
        )
        self.fuse = nn.Sequential(nn.ReLU(), SeparableConv(neck_channels, neck_channels))
        return neck_channels

    def decode(self, features: Features) -> Tensor:
        """[B, channels, H / stride, W / stride]."""
        if self.decoder is not None:
            return self.decoder(features.trunk)
        pairs = zip(self.project, features.neck, strict=False)
        levels = [project(f) for project, f in pairs] or [features.neck[0]]
        total = levels[0]
        for level in levels[1:]:
            total = total + upsample_to(level, levels[0])
        return self.fuse(total)
