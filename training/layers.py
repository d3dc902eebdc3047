# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Small convolution blocks shared by neck and heads."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class ConvNorm(nn.Sequential):
    """Convolution, batch norm and, unless `act` is False, ReLU; keeps the spatial size."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        groups: int = 1,
        act: bool = True,
        dilation: int = 1,
    ) -> None:
        """Channels in and out, odd kernel size, groups, dilation."""
        pad = kernel // 2 * dilation
        layers: list[nn.Module] = [
            nn.Conv2d(
                inputs, outputs, kernel, 1, pad, dilation=dilation, groups=groups, bias=False
            ),
            nn.BatchNorm2d(outputs),
        ]
        super().__init__(*layers, *([nn.ReLU(inplace=True)] if act else []))


class SeparableConv(nn.Sequential):
    """Depthwise 3x3 then pointwise convolution (MobileNet, Howard et al. 2017), both normalised."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """Channels in and out."""
        super().__init__(
            ConvNorm(inputs, inputs, 3, groups=inputs, act=False), ConvNorm(inputs, outputs)
        )


def upsample_to(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear (half-pixel centres) to the spatial size of `like`."""
    return F.interpolate(x, size=like.shape[-2:], mode='bilinear', align_corners=False)
