# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""TwinLiteNet+ (Che, Lam, Ta and Nguyen, "TwinLiteNetPlus", 2024), from the paper.

Trunk: ESP blocks (ESPNet: Mehta et al., ECCV 2018), whose repeated ones have depthwise dilated
convolutions, down to stride 8 only; the shrunken image joins at each stage. Neck: partial class
activation attention (Liu et al., CVPR 2022). One decoder a mask task: transposed convolutions to
full resolution. No detection. With the published tasks 1.92 M (large) and 0.48 M parameters
(medium); published are 1.94 M and 0.48 M.

Changed: widths and repetitions are chosen to meet those counts and not taken from the authors'
code; the attention has one round and no graph convolution; mask losses are ours (cross-entropy
instead of focal and Tversky loss, able to take class sets); the last width is at least the class
count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_perception.tasks import Task
from training.network_error import NetworkError
from training.networks.base import MultiTaskNetwork
from training.networks.references.blocks import Conv, Normalise
from training.tasks import Features, Head, HeadOptions, make_head
from training.tasks.segmentation import MaskHead, MaskOutputs

DILATIONS = (1, 2, 4, 8, 16)
BINS = (2, 4)
"""Patches of the attention, down and across; strides of 8 times these divide the input."""


@dataclass(frozen=True)
class Size:
    """widths at strides 2, 4, 8; depthwise blocks at strides 4 and 8."""

    widths: tuple[int, int, int]
    depths: tuple[int, int]


SIZES = {'large': Size((32, 128, 256), (5, 8)), 'medium': Size((16, 64, 128), (3, 7))}


class DilatedPyramid(nn.Module):
    """Reduce, convolve at five dilations in parallel, add up hierarchically, concatenate.

    stride 2 reduces by a 3x3 and uses full convolutions; stride 1 has depthwise ones and adds the
    input.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        """Outputs need not be a multiple of five: the first branch has the rest."""
        super().__init__()
        self.residual = stride == 1
        width = outputs // len(DILATIONS)
        first = outputs - width * (len(DILATIONS) - 1)
        kernel = 1 if self.residual else 3
        self.reduce = nn.Conv2d(inputs, width, kernel, stride, kernel // 2, bias=False)
        self.branches = nn.ModuleList(
            nn.Conv2d(
                width, first if i == 0 else width, 3, padding=dilation, dilation=dilation,
                groups=width if self.residual and i else 1, bias=False,
            )
            for i, dilation in enumerate(DILATIONS)
        )  # fmt: skip
        self.norm = nn.Sequential(nn.BatchNorm2d(outputs), nn.PReLU(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H / stride, W / stride]."""
        reduced = self.reduce(x)
        first, *others = (branch(reduced) for branch in self.branches)
        sums = [others[0]]
        for branch in others[1:]:
            sums.append(sums[-1] + branch)
        merged = torch.cat((first, *sums), dim=1)
        return self.norm(x + merged if self.residual else merged)


class Trunk(nn.Module):
    """uint8 [B, 3, H, W] -> features at strides 4 and 8."""

    def __init__(self, size: Size) -> None:
        """A stage's output is its input and its result side by side."""
        super().__init__()
        one, two, three = size.widths
        self.normalise = Normalise()
        self.stem = Conv(3, one, 3, 2, act=nn.PReLU)
        self.join = Conv(one + 3, one + 3, act=nn.PReLU)
        self.down4 = DilatedPyramid(one + 3, two, 2)
        self.stage4 = nn.Sequential(*(DilatedPyramid(two, two) for _ in range(size.depths[0])))
        self.down8 = DilatedPyramid(2 * two + 3, three, 2)
        self.stage8 = nn.Sequential(*(DilatedPyramid(three, three) for _ in range(size.depths[1])))
        self.channels = (2 * two, 2 * three)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Both stages."""
        image = self.normalise(image)
        half, quarter = F.avg_pool2d(image, 3, 2, 1), F.avg_pool2d(image, 4, 4)
        x = self.join(torch.cat((self.stem(image), half), dim=1))
        x = self.down4(x)
        four = torch.cat((x, self.stage4(x)), dim=1)
        x = self.down8(torch.cat((four, quarter), dim=1))
        return [four, torch.cat((x, self.stage8(x)), dim=1)]


class PartialClassAttention(nn.Module):
    """Pixels look up class centres of the whole image through those of their patch."""

    def __init__(self, channels: int, classes: int) -> None:
        """classes: of the activation map, which no label names."""
        super().__init__()
        self.activation = nn.Conv2d(channels, classes, 1)
        self.query = nn.Conv2d(channels, channels // 2, 1)
        self.key = nn.Linear(channels, channels // 2)
        self.value = nn.Linear(channels, channels // 2)
        self.leave = Conv(channels // 2, channels, act=nn.PReLU)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape; H and W are multiples of `BINS`."""
        activation = _patches(self.activation(x))
        pixels = _patches(x)
        confidence = activation.amax(-1, keepdim=True).sigmoid()
        centres = activation.softmax(-1) @ pixels.transpose(-1, -2) * confidence  # [B, bins, K, C]
        query = _patches(self.query(x)).transpose(-1, -2)
        key = self.key(centres)
        value = self.value(centres.mean(1, keepdim=True))
        weight = (query @ key.transpose(-1, -2) / key.shape[-1] ** 0.5).softmax(-1)
        found = _together((weight @ value).transpose(-1, -2), x.shape[2], x.shape[3])
        return x + self.leave(found)


class Neck(nn.Module):
    """Attention on the stride-8 map, then fewer channels."""

    def __init__(self, channels: int, outputs: int) -> None:
        """Outputs are what the decoders read."""
        super().__init__()
        self.attention = PartialClassAttention(channels, outputs // 4)
        self.reduce = Conv(channels, outputs, 3, act=nn.PReLU)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The stride-8 map alone."""
        return [self.reduce(self.attention(features[-1]))]


class Doubling(nn.Module):
    """Transposed convolution to twice the size, then a 3x3."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """Both normalised."""
        super().__init__()
        self.up = nn.Sequential(
            nn.ConvTranspose2d(inputs, outputs, 2, 2, bias=False),
            nn.BatchNorm2d(outputs),
            nn.PReLU(outputs),
        )
        self.mix = Conv(outputs, outputs, 3, act=nn.PReLU)

    def forward(self, x: Tensor) -> Tensor:
        """Twice H and W."""
        return self.mix(self.up(x))


class MaskDecoder(MaskHead):
    """The stride-8 map -> logits at full resolution."""

    stride = 1

    def __init__(self, task: Task, channels: int, options: HeadOptions) -> None:
        """Three doublings; the last one classifies."""
        super().__init__(task, (), channels, options.segmentation)
        classes = len(task.classes)
        narrow = max(8, classes)
        self.decode = nn.Sequential(
            Doubling(channels, channels // 2), Doubling(channels // 2, narrow)
        )
        self.logits = nn.ConvTranspose2d(narrow, classes, 2, 2)

    def forward(self, features: Features) -> MaskOutputs:
        """Decode and classify every pixel."""
        return MaskOutputs(self.logits(self.decode(features.neck[0])))


class TwinLiteNetPlus(MultiTaskNetwork):
    """A decoder for each mask task, our linear classifier for image attributes."""

    def __init__(self, tasks: Sequence[Task], options: HeadOptions, size: str) -> None:
        """Raises NetworkError for a detection task, which this network has no head for."""
        chosen = SIZES[size]
        trunk = Trunk(chosen)
        channels = chosen.widths[1]
        heads: dict[str, Head] = {}
        for task in tasks:
            if task.kind == 'detection':
                raise NetworkError(
                    f'task {task.name!r}: TwinLiteNet+ has no detection; leave the task out'
                )
            if task.kind == 'segmentation':
                heads[task.name] = MaskDecoder(task, channels, options)
            else:
                heads[task.name] = make_head(task, trunk.channels, channels)
        super().__init__(trunk, Neck(trunk.channels[-1], channels), tasks, heads)

    def features(self, image: Tensor) -> Features:
        """Run trunk and neck once."""
        trunk = self.trunk(image)
        return Features(trunk, self.neck(trunk))


def _patches(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, patches, C, pixels of a patch]."""
    down, across = BINS
    height, width = x.shape[-2:]
    x = x.unflatten(3, (across, width // across)).unflatten(2, (down, height // down))
    return x.permute(0, 2, 4, 1, 3, 5).flatten(4).flatten(1, 2)


def _together(x: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `_patches`."""
    down, across = BINS
    x = x.unflatten(3, (height // down, width // across)).unflatten(1, BINS)
    return x.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
