# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The anchor-based detection head of HybridNets, on strides 8 to 128.

EfficientDet's (Tan et al., CVPR 2020): class and box towers of separable convolutions that all
levels share, with batch norms of their own. Nine anchors a cell, in the paper's sizes and ratios.
Focal loss (Lin et al., ICCV 2017) over anchors of IoU at least 0.5 (positive) or below 0.4
(negative); smooth L1 on the offsets of Fast R-CNN (Girshick, ICCV 2015, appendix of R-CNN).

Changed: a box without such an anchor gets its best one, else small objects would have none; sums
are divided by truth boxes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou, sigmoid_focal_loss

from mtl_perception.tasks import Task
from training.tasks.assigners import inside
from training.tasks.base import Features, Head
from training.tasks.detection import TOP_K
from training.tasks.targets import BoxTarget, Counting, TaskTargets, box_count

FINEST_STRIDE = 8
BASE = 1.25
"""Side of the smallest anchor, in strides."""
SCALES = (2**0.0, 2**0.7, 2**1.32)
RATIOS = ((0.62, 1.58), (1.0, 1.0), (1.58, 0.62))
DEPTH = 4
POSITIVE, NEGATIVE = 0.5, 0.4
POSITIVES_PER_BOX = 3.0
"""Anchors that answer for a box in the mean: the scale of the loss."""
BOX_WEIGHT = 10.0
SMOOTH = 1 / 9
LARGEST_GROWTH = math.log(1000 / 16)
"""Of an anchor's side, as a logarithm: what exp may see."""


@dataclass(frozen=True)
class AnchorOutputs:
    """logits [B, P, C], offsets [B, P, 4], anchors [P, 4] xyxy input pixels."""

    logits: Tensor
    offsets: Tensor
    anchors: Tensor


class Tower(nn.Module):
    """Separable convolutions shared by all levels, a batch norm for each level and convolution."""

    def __init__(self, channels: int, outputs: int, levels: int) -> None:
        """Outputs are channels."""
        super().__init__()
        self.convolutions = nn.ModuleList(_separable(channels, channels) for _ in range(DEPTH))
        self.norms = nn.ModuleList(
            nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(DEPTH)) for _ in range(levels)
        )
        self.last = _separable(channels, outputs)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Maps of all levels -> [B, cells of all levels, outputs]."""
        found = []
        for i, x in enumerate(levels):
            norms = cast(nn.ModuleList, self.norms[i])
            for convolution, norm in zip(self.convolutions, norms, strict=True):
                x = F.silu(norm(convolution(x)))
            found.append(self.last(x).flatten(2).transpose(1, 2))
        return torch.cat(found, dim=1)


class AnchorHead(Head):
    """P3 and coarser -> `AnchorOutputs`."""

    def __init__(self, task: Task, channels: int, levels: int) -> None:
        """Two towers."""
        super().__init__(task, (), channels)
        count = len(SCALES) * len(RATIOS)
        self.classify = Tower(channels, count * len(task.classes), levels)
        self.regress = Tower(channels, count * 4, levels)
        bias = cast(Tensor, self.classify.last[-1].bias)
        nn.init.constant_(bias, -math.log(99))  # 1 %: RetinaNet section 4.1

    def forward(self, features: Features) -> AnchorOutputs:
        """Run both towers over all levels."""
        levels = features.neck[1:]
        return AnchorOutputs(
            self.classify(levels).unflatten(2, (-1, len(self.task.classes))).flatten(1, 2),
            self.regress(levels).unflatten(2, (-1, 4)).flatten(1, 2),
            torch.cat([_anchors(x, FINEST_STRIDE * 2**i) for i, x in enumerate(levels)]),
        )

    def boxes(self, offsets: Tensor, anchors: Tensor) -> Tensor:
        """Offsets [..., 4] of anchors -> boxes [..., 4] xyxy input pixels."""
        offsets = offsets.float()
        size = anchors[..., 2:] - anchors[..., :2]
        centre = (anchors[..., :2] + anchors[..., 2:]) / 2 + offsets[..., :2] * size
        half = size * offsets[..., 2:].clamp(max=LARGEST_GROWTH).exp() / 2
        return torch.cat((centre - half, centre + half), dim=-1)

    def loss(self, outputs: AnchorOutputs, targets: TaskTargets) -> Tensor:
        """Class and box loss, summed over the anchors of all rows."""
        total = outputs.logits.new_zeros((), dtype=torch.float32)
        anchors = outputs.anchors
        for logits, offsets, target in zip(
            outputs.logits.float(), outputs.offsets.float(), targets, strict=True
        ):
            matched, counted = match(anchors, target)
            rows = (matched >= 0).nonzero().squeeze(1)
            label = torch.zeros_like(logits)
            if len(rows):
                wanted = target.boxes[matched[rows]]
                label[rows, target.labels[matched[rows]]] = 1
                total = total + BOX_WEIGHT * F.smooth_l1_loss(
                    offsets[rows], _offsets(anchors[rows], wanted), beta=SMOOTH, reduction='sum'
                ) / 4  # fmt: skip
            total = total + (sigmoid_focal_loss(logits, label) * counted[:, None]).sum()
        return total / POSITIVES_PER_BOX

    def counting(self) -> Counting:
        """Truth boxes."""
        return box_count

    def deploy(self, outputs: AnchorOutputs) -> dict[str, Tensor]:
        """Top-K anchors by best class: boxes, scores, labels."""
        best, label = outputs.logits.float().max(dim=2)
        scores, index = best.topk(min(TOP_K, best.shape[1]), dim=1)
        offsets = outputs.offsets.gather(1, index[..., None].expand(-1, -1, 4))
        return {
            'boxes': self.boxes(offsets, outputs.anchors[index]),
            'scores': scores.sigmoid(),
            'labels': label.gather(1, index),
        }

    def deployed_names(self) -> dict[str, tuple[str, int]]:
        """Three tensors, as the graph contract names them."""
        return {name: (name, 1) for name in ('boxes', 'scores', 'labels')}


@torch.no_grad()
def match(anchors: Tensor, target: BoxTarget) -> tuple[Tensor, Tensor]:
    """Box index int64 [P], -1 for none, and bool [P]: which anchors the class loss counts."""
    centre = (anchors[:, :2] + anchors[:, 2:]) / 2
    ignored = inside(centre, target.ignored).any(1)
    if len(target.boxes) == 0:
        return torch.full((len(anchors),), -1, device=anchors.device), ~ignored
    overlap = box_iou(anchors, target.boxes)
    best, box = overlap.max(dim=1)
    alone = overlap.amax(0) < POSITIVE
    forced = (overlap == overlap.amax(0)) & alone & (overlap > 0)
    box = torch.where(forced.any(1), forced.float().argmax(1), box)
    positive = (best >= POSITIVE) | forced.any(1)
    return box.masked_fill(~positive, -1), positive | ((best < NEGATIVE) & ~ignored)


def _separable(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False),
        nn.Conv2d(inputs, outputs, 1),
    )


def _anchors(level: Tensor, stride: int) -> Tensor:
    """All anchors of a level, cell by cell: [h * w * 9, 4]."""
    height, width = level.shape[-2:]
    ys = (torch.arange(height, device=level.device) + 0.5) * stride
    xs = (torch.arange(width, device=level.device) + 0.5) * stride
    centre = torch.stack((xs.repeat(height), ys.repeat_interleave(width)), dim=1)
    sizes = [(w * scale, h * scale) for scale in SCALES for w, h in RATIOS]
    half = torch.tensor(sizes, device=level.device) * (BASE * stride / 2)
    return torch.cat((centre[:, None] - half, centre[:, None] + half), dim=-1).flatten(0, 1)


def _offsets(anchors: Tensor, boxes: Tensor) -> Tensor:
    """The offsets that turn anchors into boxes: centre in anchor sides, sides as logarithms."""
    size = anchors[:, 2:] - anchors[:, :2]
    wanted = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-3)
    shift = (boxes[:, :2] + boxes[:, 2:] - anchors[:, :2] - anchors[:, 2:]) / 2 / size
    return torch.cat((shift, (wanted / size).log()), dim=1)
