# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The anchor-based detection head of YOLOP, on strides 8, 16, 32.

Boxes: centre 2 sigmoid(t) - 0.5 cells from the cell's corner, size anchor * (2 sigmoid(t))^2. An
anchor answers for a box when no side differs by more than `MOST_RATIO`, in the cell of the box's
centre and in the nearest cell beside and above or below it. Losses as in the paper: focal (Lin et
al., ICCV 2017) for classes and objectness, CIoU (Zheng et al., AAAI 2020) for boxes.

Changed: anchors are the nine that YOLOv3 (Redmon and Farhadi, 2018) found on COCO, because our data
are not only BDD100K vehicles; objectness learns the IoU of the predicted box; a box that no anchor
fits gets the one nearest to its shape; sums are divided by truth boxes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou, complete_box_iou_loss

from mtl_perception.tasks import Task
from training.tasks.assigners import inside
from training.tasks.base import Features, Head
from training.tasks.detection import TOP_K
from training.tasks.targets import BoxTarget, Counting, TaskTargets, box_count

STRIDES = (8, 16, 32)
ANCHORS = (
    ((10, 13), (16, 30), (33, 23)), ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)  # fmt: skip
"""Width and height in input pixels, by stride."""
MOST_RATIO = 4.0
FOCUS = 2.0
"""Exponent of the focal losses."""
POSITIVES_PER_BOX = 9.0
"""Anchors that answer for a box in the mean: the scale of the loss."""
CLASS_WEIGHT, OBJECT_WEIGHT, BOX_WEIGHT = 1.0, 1.0, 2.0


@dataclass(frozen=True)
class YoloOutputs:
    """raw [B, P, 5 + C]: box, objectness, class logits of all anchors.

    corner [P, 2] upper left of the cell, anchor [P, 2] width and height, stride [P]; pixels.
    """

    raw: Tensor
    corner: Tensor
    anchor: Tensor
    stride: Tensor


class YoloHead(Head):
    """PAN maps -> `YoloOutputs`."""

    def __init__(self, task: Task, channels: Sequence[int]) -> None:
        """One 1x1 convolution per level."""
        super().__init__(task, channels, channels[0])
        values = 5 + len(task.classes)
        self.predict = nn.ModuleList(
            nn.Conv2d(c, len(anchors) * values, 1)
            for c, anchors in zip(channels, ANCHORS, strict=True)
        )
        for layer in self.predict:
            bias = cast(Tensor, layer.bias)
            nn.init.constant_(bias.view(-1, values)[:, 4], -math.log(99))  # 1 %

    def forward(self, features: Features) -> YoloOutputs:
        """Lay the anchors of all levels one after another."""
        raw, corners, anchors, strides = [], [], [], []
        for level, layer, shapes, stride in zip(
            features.neck[1:], self.predict, ANCHORS, STRIDES, strict=True
        ):
            height, width = level.shape[-2:]
            count = len(shapes)
            values = layer(level).unflatten(1, (count, -1)).permute(0, 3, 4, 1, 2)
            raw.append(values.flatten(1, 3))
            ys = torch.arange(height, device=level.device) * stride
            xs = torch.arange(width, device=level.device) * stride
            grid = torch.stack((xs.repeat(height), ys.repeat_interleave(width)), dim=1).float()
            corners.append(grid.repeat_interleave(count, 0))
            shape = torch.tensor(shapes, dtype=torch.float32, device=level.device)
            anchors.append(shape.repeat(height * width, 1))
            strides.append(torch.full((len(grid) * count,), float(stride), device=level.device))
        return YoloOutputs(
            torch.cat(raw, 1), torch.cat(corners), torch.cat(anchors), torch.cat(strides)
        )

    def boxes(self, raw: Tensor, corner: Tensor, anchor: Tensor, stride: Tensor) -> Tensor:
        """Raw values [..., 4] -> boxes [..., 4] xyxy input pixels."""
        value = 2 * raw.float().sigmoid()
        centre = corner + (value[..., :2] - 0.5) * stride[..., None]
        half = value[..., 2:] ** 2 * anchor / 2
        return torch.cat((centre - half, centre + half), dim=-1)

    def loss(self, outputs: YoloOutputs, targets: TaskTargets) -> Tensor:
        """Class, objectness and box loss, summed over the anchors of all rows."""
        total = outputs.raw.new_zeros((), dtype=torch.float32)
        for raw, target in zip(outputs.raw.float(), targets, strict=True):
            matched = match(outputs, target)
            rows = (matched >= 0).nonzero().squeeze(1)
            objectness = torch.zeros_like(raw[:, 4])
            if len(rows):
                found = self.boxes(
                    raw[rows, :4], outputs.corner[rows], outputs.anchor[rows], outputs.stride[rows]
                )
                wanted = target.boxes[matched[rows]]
                objectness[rows] = box_iou(found.detach(), wanted).diagonal().clamp(min=0.1)
                labels = F.one_hot(target.labels[matched[rows]], len(self.task.classes)).float()
                total = total + BOX_WEIGHT * complete_box_iou_loss(found, wanted).sum()
                total = total + CLASS_WEIGHT * focal(raw[rows, 5:], labels).sum()
            centre = outputs.corner + outputs.stride[:, None] / 2
            counted = ~inside(centre, target.ignored).any(1) | (matched >= 0)
            total = total + OBJECT_WEIGHT * (focal(raw[:, 4], objectness) * counted).sum()
        return total / POSITIVES_PER_BOX

    def counting(self) -> Counting:
        """Truth boxes."""
        return box_count

    def deploy(self, outputs: YoloOutputs) -> dict[str, Tensor]:
        """Top-K anchors by objectness times best class: boxes, scores, labels."""
        raw = outputs.raw.float()
        best, label = raw[..., 5:].max(dim=2)
        score = raw[..., 4].sigmoid() * best.sigmoid()
        scores, index = score.topk(min(TOP_K, score.shape[1]), dim=1)
        # Whole rows, then their boxes: OpenVINO 2026.4 moves a cut made before the gathering.
        best_rows = raw.gather(1, index[..., None].expand(-1, -1, raw.shape[2]))
        boxes = self.boxes(
            best_rows[..., :4],
            outputs.corner[index], outputs.anchor[index], outputs.stride[index],
        )  # fmt: skip
        return {'boxes': boxes, 'scores': scores, 'labels': label.gather(1, index)}

    def deployed_names(self) -> dict[str, tuple[str, int]]:
        """Three tensors, as the graph contract names them."""
        return {name: (name, 1) for name in ('boxes', 'scores', 'labels')}


def focal(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy weighted by the distance to the target, which need not be 0 or 1."""
    distance = (target - logits.detach().sigmoid()).abs() ** FOCUS
    return distance * F.binary_cross_entropy_with_logits(logits, target, reduction='none')


@torch.no_grad()
def match(outputs: YoloOutputs, target: BoxTarget) -> Tensor:
    """Box index of every anchor, int64 [P], -1 for none; of several the one nearest in shape."""
    if len(target.boxes) == 0:
        return torch.full((len(outputs.stride),), -1, device=outputs.stride.device)
    size = (target.boxes[:, 2:] - target.boxes[:, :2]).clamp(min=1e-3)
    ratio = size / outputs.anchor[:, None]
    unlike = torch.maximum(ratio, 1 / ratio).amax(2)
    centre = (target.boxes[:, :2] + target.boxes[:, 2:]) / 2
    away = ((centre - outputs.corner[:, None]) / outputs.stride[:, None, None] - 0.5).abs()
    far, near = away.amax(2), away.amin(2)
    fits = (unlike < MOST_RATIO) & (far < 1) & (near <= 0.5)
    own = unlike.masked_fill(far > 0.5, torch.inf)
    fits |= ~fits.any(0) & (own == own.amin(0)) & own.isfinite()
    nearest, box = unlike.masked_fill(~fits, torch.inf).min(dim=1)
    return box.masked_fill(nearest.isinf(), -1)
