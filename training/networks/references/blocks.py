# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What the reference networks share: normalised input and convolution blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Normalise(nn.Module):
    """uint8 or float [B, 3, H, W] in 0-255 -> float with ImageNet's mean and deviation removed."""

    scale: Tensor
    shift: Tensor

    def __init__(self) -> None:
        """Constants only."""
        super().__init__()
        std = torch.tensor(IMAGENET_STD)
        self.register_buffer('scale', (1 / (255 * std)).view(1, 3, 1, 1), persistent=False)
        mean = torch.tensor(IMAGENET_MEAN)
        self.register_buffer('shift', (-mean / std).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Scale and shift each channel."""
        return image.float() * self.scale + self.shift


class Conv(nn.Sequential):
    """Convolution, batch norm, activation; odd kernels keep H and W up to the stride."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        dilation: int = 1,
        act: type[nn.Module] | None = nn.SiLU,
    ) -> None:
        """act: constructor of the activation, None for none."""
        padding = dilation * (kernel // 2)
        layers: list[nn.Module] = [
            nn.Conv2d(
                inputs, outputs, kernel, stride, padding, dilation, groups=groups, bias=False
            ),
            nn.BatchNorm2d(outputs),
        ]
        super().__init__(*layers, *([act()] if act else []))
