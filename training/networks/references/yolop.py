# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""YOLOP (Wu et al., "You Only Look Once for Panoptic Driving Perception", 2022), from the paper.

Trunk: CSPDarknet (CSPNet: Wang et al., CVPRW 2020; widths of YOLOv4's small form) with SPP. Neck:
FPN top-down, PAN bottom-up. Detection: three anchors a cell on strides 8-32 (`yolo_head.py`).
Segmentation: one decoder a task from the FPN's stride-8 map, through three nearest-neighbour
upsamplings to full resolution. 7.9 M parameters with the published tasks, as published.

Changed: mask losses are ours (cross-entropy as there, without the lanes' IoU term, and able to take
class sets); a decoder's last two widths are at least its class count, which 16 and 8 channels would
not carry for 19 classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_perception.tasks import Task
from training.networks.base import MultiTaskNetwork
from training.networks.references.blocks import Conv, Normalise
from training.networks.references.yolo_head import YoloHead
from training.tasks import Features, Head, HeadOptions, make_head
from training.tasks.segmentation import MaskHead, MaskOutputs

TRUNK_CHANNELS = (64, 128, 256, 512)
"""At strides 4, 8, 16, 32."""
MASK_CHANNELS = 256
"""Of the FPN's stride-8 map, which the decoders read."""
BOX_CHANNELS = (128, 256, 512)
"""Of the PAN's maps at strides 8, 16, 32."""


class CSPStage(nn.Module):
    """Half of the channels through `depth` bottlenecks, half past them, joined by a 1x1."""

    def __init__(self, inputs: int, outputs: int, depth: int = 1, residual: bool = False) -> None:
        """residual: bottlenecks add to their input."""
        super().__init__()
        hidden = outputs // 2
        self.residual = residual
        self.enter = Conv(inputs, hidden)
        self.bottlenecks = nn.ModuleList(
            nn.Sequential(Conv(hidden, hidden), Conv(hidden, hidden, 3)) for _ in range(depth)
        )
        self.leave = nn.Conv2d(hidden, hidden, 1, bias=False)
        self.past = nn.Conv2d(inputs, hidden, 1, bias=False)
        self.norm = nn.Sequential(nn.BatchNorm2d(2 * hidden), nn.SiLU())
        self.join = Conv(2 * hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Same H and W."""
        inner = self.enter(x)
        for bottleneck in self.bottlenecks:
            inner = inner + bottleneck(inner) if self.residual else bottleneck(inner)
        return self.join(self.norm(torch.cat((self.leave(inner), self.past(x)), dim=1)))


class SpatialPyramidPooling(nn.Module):
    """Max pools of 5, 9 and 13 cells beside the input (He et al., 2015, as in YOLOv4)."""

    def __init__(self, channels: int) -> None:
        """Keeps the channels."""
        super().__init__()
        self.enter = Conv(channels, channels // 2)
        self.join = Conv(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Same H and W."""
        x = self.enter(x)
        pools = [F.max_pool2d(x, size, 1, size // 2) for size in (5, 9, 13)]
        return self.join(torch.cat((x, *pools), dim=1))


class CSPDarknet(nn.Module):
    """uint8 [B, 3, H, W] -> features at strides 4, 8, 16, 32."""

    def __init__(self) -> None:
        """The first layer reads 2x2 pixels as 12 channels."""
        super().__init__()
        two, three, four, five = TRUNK_CHANNELS
        self.normalise = Normalise()
        self.stem = Conv(12, 32, 3)
        self.stages = nn.ModuleList(
            (
                nn.Sequential(Conv(32, two, 3, 2), CSPStage(two, two, 1, residual=True)),
                nn.Sequential(Conv(two, three, 3, 2), CSPStage(three, three, 3, residual=True)),
                nn.Sequential(Conv(three, four, 3, 2), CSPStage(four, four, 3, residual=True)),
                nn.Sequential(
                    Conv(four, five, 3, 2), SpatialPyramidPooling(five), CSPStage(five, five)
                ),
            )
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Run the stages one after another."""
        x = self.stem(F.pixel_unshuffle(self.normalise(image), 2))
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class FPNPAN(nn.Module):
    """Trunk features -> FPN map at stride 8 (for masks), PAN maps at strides 8, 16, 32."""

    def __init__(self) -> None:
        """Channels follow the trunk's."""
        super().__init__()
        _, three, four, five = TRUNK_CHANNELS
        self.lateral5 = Conv(five, four)
        self.down5 = CSPStage(2 * four, four)
        self.lateral4 = Conv(four, three)
        self.out3 = CSPStage(2 * three, three)
        self.up3 = Conv(three, three, 3, 2)
        self.out4 = CSPStage(2 * three, four)
        self.up4 = Conv(four, four, 3, 2)
        self.out5 = CSPStage(2 * four, five)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Top-down, then bottom-up."""
        _, c3, c4, c5 = features
        p5 = self.lateral5(c5)
        p4 = self.lateral4(self.down5(torch.cat((_doubled(p5), c4), dim=1)))
        masks = torch.cat((_doubled(p4), c3), dim=1)
        n3 = self.out3(masks)
        n4 = self.out4(torch.cat((self.up3(n3), p4), dim=1))
        n5 = self.out5(torch.cat((self.up4(n4), p5), dim=1))
        return [masks, n3, n4, n5]


class MaskDecoder(MaskHead):
    """The stride-8 map -> logits at full resolution."""

    stride = 1

    def __init__(self, task: Task, options: HeadOptions) -> None:
        """Convolution, stage or both before each of three upsamplings."""
        super().__init__(task, TRUNK_CHANNELS, MASK_CHANNELS, options.segmentation)
        classes = len(task.classes)
        wide, narrow = max(16, classes), max(8, classes + classes % 2)
        self.layers = nn.ModuleList(
            (
                Conv(MASK_CHANNELS, 128, 3),
                nn.Sequential(CSPStage(128, 64), Conv(64, 32, 3)),
                nn.Sequential(Conv(32, wide, 3), CSPStage(wide, narrow)),
            )
        )
        self.logits = nn.Conv2d(narrow, classes, 3, padding=1)

    def forward(self, features: Features) -> MaskOutputs:
        """Decode and classify every pixel."""
        x = features.neck[0]
        for layer in self.layers:
            x = _doubled(layer(x))
        return MaskOutputs(self.logits(x))


class YOLOP(MultiTaskNetwork):
    """The three published kinds of heads, and ours for image attributes."""

    def __init__(self, tasks: Sequence[Task], options: HeadOptions) -> None:
        """A head for each task."""
        heads: dict[str, Head] = {}
        for task in tasks:
            if task.kind == 'detection':
                heads[task.name] = YoloHead(task, BOX_CHANNELS)
            elif task.kind == 'segmentation':
                heads[task.name] = MaskDecoder(task, options)
            else:
                heads[task.name] = make_head(task, TRUNK_CHANNELS, MASK_CHANNELS)
        super().__init__(CSPDarknet(), FPNPAN(), tasks, heads)

    def features(self, image: Tensor) -> Features:
        """Run trunk and neck once."""
        trunk = self.trunk(image)
        return Features(trunk, self.neck(trunk))


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode='nearest')
