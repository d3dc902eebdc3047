# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""HybridNets (Vu, Ngo and Phan, "HybridNets: End-to-End Perception Network", 2022), from the paper.

Trunk: EfficientNet-B3 (timm's). Neck: six BiFPN cells of 160 channels on P3-P7 (EfficientDet: Tan
et al., CVPR 2020). Detection: anchors (`anchor_head.py`). Segmentation: P3-P7 and the trunk's
stride-4 map, each through 3x3 convolutions and doublings to 64 channels at stride 4, added; one
such decoder for all mask tasks. 12.66 M parameters with the published tasks, 12.83 M published.

Changed: each mask task has its own 1x1 classifier and softmax on the shared decoder, where the
paper has one softmax over the classes of all; mask losses are ours (cross-entropy instead of
Tversky and focal loss, able to take class sets).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_perception.tasks import Task
from training.networks.base import MultiTaskNetwork
from training.networks.references.anchor_head import AnchorHead
from training.networks.references.blocks import Conv
from training.networks.trunk import Trunk
from training.tasks import Features, Head, HeadOptions, make_head
from training.tasks.segmentation import MaskHead, MaskOutputs

TRUNK = 'efficientnet_b3'
CHANNELS, CELLS, LEVELS = 160, 6, 5
MASK_CHANNELS = 64


class Separable(nn.Module):
    """Activation, depthwise 3x3, pointwise, batch norm: EfficientDet's unit of fusion."""

    def __init__(self, channels: int) -> None:
        """Keeps the channels."""
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.pointwise = Conv(channels, channels, act=None)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return self.pointwise(self.depthwise(F.silu(x)))


class WeightedSum(nn.Module):
    """Fast normalised fusion: non-negative weights that sum to one (EfficientDet section 3.3)."""

    def __init__(self, inputs: int) -> None:
        """One weight an input."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(inputs))

    def forward(self, *maps: Tensor) -> Tensor:
        """Weighted mean of maps of one shape."""
        weight = self.weight.relu()
        weight = weight / (weight.sum() + 1e-4)
        total = weight[0] * maps[0]
        for value, further in zip(weight[1:], maps[1:], strict=True):
            total = total + value * further
        return total


class BiFPNCell(nn.Module):
    """One pass down and one up over P3-P7."""

    def __init__(self) -> None:
        """Four fusions down, four up."""
        super().__init__()
        self.down_sum = nn.ModuleList(WeightedSum(2) for _ in range(LEVELS - 1))
        self.down = nn.ModuleList(Separable(CHANNELS) for _ in range(LEVELS - 1))
        self.up_sum = nn.ModuleList(WeightedSum(n) for n in (3,) * (LEVELS - 2) + (2,))
        self.up = nn.ModuleList(Separable(CHANNELS) for _ in range(LEVELS - 1))

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Finest level first."""
        down = list(levels)
        for i in range(LEVELS - 2, -1, -1):
            coarser = F.interpolate(down[i + 1], size=down[i].shape[-2:], mode='nearest')
            down[i] = self.down[i](self.down_sum[i](levels[i], coarser))
        up = [down[0]]
        for i in range(1, LEVELS):
            finer = _halved(up[i - 1])
            maps = (levels[i], down[i], finer) if i < LEVELS - 1 else (levels[i], finer)
            up.append(self.up[i - 1](self.up_sum[i - 1](*maps)))
        return up


class MaskBranch(nn.Sequential):
    """`doublings` times 3x3 convolution and doubling; without doublings the convolution alone."""

    def __init__(self, inputs: int, doublings: int) -> None:
        """MASK_CHANNELS out."""
        layers: list[nn.Module] = []
        for i in range(max(1, doublings)):
            layers.append(Conv(inputs if i == 0 else MASK_CHANNELS, MASK_CHANNELS, 3))
            if doublings:
                layers.append(nn.Upsample(scale_factor=2, mode='bilinear', align_corners=False))
        super().__init__(*layers)


class BiFPN(nn.Module):
    """Trunk features -> shared mask features at stride 4, then P3-P7."""

    def __init__(self, trunk_channels: Sequence[int]) -> None:
        """P6 and P7 are pooled from the trunk's last level."""
        super().__init__()
        finest, *others = trunk_channels
        self.lateral = nn.ModuleList(Conv(c, CHANNELS, act=None) for c in (*others, others[-1]))
        self.cells = nn.Sequential(*(BiFPNCell() for _ in range(CELLS)))
        self.masks = nn.ModuleList(MaskBranch(CHANNELS, i + 1) for i in range(LEVELS))
        self.finest = MaskBranch(finest, 0)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The mask features need every level at stride 4."""
        c2, c3, c4, c5 = features
        p6 = _halved(self.lateral[3](c5))
        levels = [layer(c) for layer, c in zip(self.lateral, (c3, c4, c5), strict=False)]
        levels = self.cells([*levels, p6, _halved(p6)])
        masks = self.finest(c2)
        for branch, level in zip(self.masks, levels, strict=True):
            # P6 and P7 may be rounded up: half a cell too much is cut by resizing.
            grown = F.interpolate(
                branch(level), size=masks.shape[-2:], mode='bilinear', align_corners=False
            )
            masks = masks + grown
        return [masks, *levels]


class MaskClassifier(MaskHead):
    """The shared mask features -> logits at stride 4."""

    def __init__(self, task: Task, options: HeadOptions) -> None:
        """One 1x1 convolution."""
        super().__init__(task, (), MASK_CHANNELS, options.segmentation)
        self.dropout = nn.Dropout2d(0.2)
        self.logits = nn.Conv2d(MASK_CHANNELS, len(task.classes), 1)

    def forward(self, features: Features) -> MaskOutputs:
        """Classify every cell."""
        return MaskOutputs(self.logits(self.dropout(features.neck[0])))


class HybridNets(MultiTaskNetwork):
    """EfficientNet-B3, BiFPN, and a head for each task."""

    def __init__(
        self,
        tasks: Sequence[Task],
        options: HeadOptions,
        pretrained: bool = False,
        trunk_weights: str = '',
    ) -> None:
        """ImageNet weights as for any `Trunk`; the paper starts from such."""
        trunk = Trunk(TRUNK, pretrained, weights=trunk_weights)
        neck = BiFPN(trunk.channels)
        heads: dict[str, Head] = {}
        for task in tasks:
            if task.kind == 'detection':
                heads[task.name] = AnchorHead(task, CHANNELS, LEVELS)
            elif task.kind == 'segmentation':
                heads[task.name] = MaskClassifier(task, options)
            else:
                heads[task.name] = make_head(task, trunk.channels, CHANNELS)
        super().__init__(trunk, neck, tasks, heads)

    def features(self, image: Tensor) -> Features:
        """Run trunk and neck once."""
        trunk = self.trunk(image)
        return Features(trunk, self.neck(trunk))


def _halved(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 2, 1)
