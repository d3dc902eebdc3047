"""Anchor-free detection on strides 8-32.

Head: decoupled classification and box towers (YOLOX, Ge et al. 2021) of separable convolutions,
one pair a level; boxes as distance distributions (DFL: Li et al., "Generalized Focal Loss", NeurIPS
2020, eq. 3-6). Labels are assigned by task alignment, the classification target is the normalised
alignment (TOOD: Feng et al., ICCV 2021, eq. 4-6), trained with the varifocal weighting (Zhang et
al., CVPR 2021, eq. 2); boxes with GIoU (Rezatofighi et al., CVPR 2019).

Target: `BoxTarget`. Boxes are xyxy input pixels throughout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou, generalized_box_iou_loss

from mtl_perception.tasks import Task
from training.networks.layers import SeparableConv
from training.tasks.base import Features, Head

STRIDES = (8, 16, 32)
BINS = 16
"""Distances run from 0 to BINS - 1 strides."""
TOP_K = 300

CLASS_WEIGHT, BOX_WEIGHT, DFL_WEIGHT = 1.0, 2.0, 0.5


class BoxTarget(NamedTuple):
    """Boxes of one labelled image: float32 [N, 4], class ids int64 [N], ignored regions [M, 4].

    Points inside an ignored region (crowds, merged or too small objects) that match no box add no
    classification loss.
    """

    boxes: Tensor
    labels: Tensor
    ignored: Tensor


@dataclass(frozen=True)
class DetectionOutputs:
    """Raw outputs over all points: class logits [B, P, C], distance logits [B, P, 4, BINS]."""

    logits: Tensor
    distances: Tensor
    points: Tensor
    strides: Tensor


class DetectionHead(Head):
    """Neck levels at strides 8, 16, 32 -> `DetectionOutputs`."""

    def __init__(self, task: Task, trunk_channels: Sequence[int], neck_channels: int) -> None:
        """Two towers of two separable convolutions a level."""
        super().__init__(task, trunk_channels, neck_channels)

        def tower(outputs: int) -> nn.Sequential:
            return nn.Sequential(
                SeparableConv(neck_channels, neck_channels),
                SeparableConv(neck_channels, neck_channels),
                nn.Conv2d(neck_channels, outputs, 1),
            )

        self.classify = nn.ModuleList(tower(len(task.classes)) for _ in STRIDES)
        self.regress = nn.ModuleList(tower(4 * BINS) for _ in STRIDES)
        for level in self.classify:
            nn.init.constant_(level[-1].bias, -math.log(99))  # 1 % prior: RetinaNet section 4.1
        self.register_buffer('bins', torch.arange(BINS, dtype=torch.float32), persistent=False)

    def forward(self, features: Features) -> DetectionOutputs:
        """Run both towers on each level and lay the levels' points one after another."""
        levels = features.neck[1:]
        logits, distances, points, strides = [], [], [], []
        for level, classify, regress, stride in zip(
            levels, self.classify, self.regress, STRIDES, strict=True
        ):
            logits.append(classify(level).flatten(2).transpose(1, 2))
            distances.append(regress(level).flatten(2).transpose(1, 2).unflatten(2, (4, BINS)))
            height, width = level.shape[-2:]
            ys = (torch.arange(height, device=level.device) + 0.5) * stride
            xs = (torch.arange(width, device=level.device) + 0.5) * stride
            grid = torch.stack((xs.repeat(height), ys.repeat_interleave(width)), dim=1)
            points.append(grid)
            strides.append(torch.full((len(grid),), float(stride), device=level.device))
        return DetectionOutputs(
            torch.cat(logits, 1), torch.cat(distances, 1), torch.cat(points), torch.cat(strides)
        )

    def boxes(self, outputs: DetectionOutputs) -> Tensor:
        """Expected distances of the distributions -> boxes [B, P, 4]."""
        distances = self._expected(outputs.distances) * outputs.strides[:, None]
        return torch.cat(
            (outputs.points - distances[..., :2], outputs.points + distances[..., 2:]), dim=-1
        )

    def _expected(self, distances: Tensor) -> Tensor:
        """Mean of the distance distributions [..., BINS], in strides."""
        return (distances.float().softmax(-1) * self.bins).sum(-1)

    def loss(self, outputs: DetectionOutputs, targets: Sequence[BoxTarget]) -> Tensor:
        """Varifocal + GIoU + DFL, each normalised by the batch's sum of classification targets."""
        boxes = self.boxes(outputs)
        logits = outputs.logits.float()
        probabilities = logits.detach().sigmoid()
        class_loss = logits.new_zeros(())
        box_loss = logits.new_zeros(())
        dfl_loss = logits.new_zeros(())
        total = logits.new_zeros(())
        for i, target in enumerate(targets):
            matched, quality = assign(
                probabilities[i], boxes[i].detach(), outputs.points, outputs.strides, target
            )
            positive = matched >= 0
            label = torch.zeros_like(logits[i])
            rows = positive.nonzero().squeeze(1)
            label[rows, target.labels[matched[rows]]] = quality[rows]
            # Varifocal: negatives by p^2, positives by their target.
            weight = torch.where(label > 0, label, 0.75 * probabilities[i] ** 2)
            ignored = inside(outputs.points, target.ignored).any(1) & ~positive
            weight = weight.masked_fill(ignored[:, None], 0)
            class_loss = (
                class_loss
                + (
                    F.binary_cross_entropy_with_logits(logits[i], label, reduction='none') * weight
                ).sum()
            )
            total = total + quality.sum()
            if len(rows):
                wanted = target.boxes[matched[rows]]
                box_loss = (
                    box_loss
                    + (generalized_box_iou_loss(boxes[i][rows], wanted) * quality[rows]).sum()
                )
                dfl_loss = dfl_loss + (self._dfl(outputs, i, rows, wanted) * quality[rows]).sum()
        total = total.clamp(min=1)
        return (CLASS_WEIGHT * class_loss + BOX_WEIGHT * box_loss + DFL_WEIGHT * dfl_loss) / total

    def _dfl(self, outputs: DetectionOutputs, i: int, rows: Tensor, wanted: Tensor) -> Tensor:
        """Distribution focal loss [N]: cross-entropy with the two bins around the true distance."""
        points = outputs.points[rows]
        distance = torch.cat((points - wanted[:, :2], wanted[:, 2:] - points), dim=1)
        distance = (distance / outputs.strides[rows, None]).clamp(0, BINS - 1 - 0.01)
        lower = distance.floor()
        upper_weight = distance - lower
        log_p = outputs.distances[i][rows].float().log_softmax(-1)
        at_lower = log_p.gather(-1, lower.long()[..., None]).squeeze(-1)
        at_upper = log_p.gather(-1, lower.long()[..., None] + 1).squeeze(-1)
        return -(at_lower * (1 - upper_weight) + at_upper * upper_weight).mean(1)

    def deploy(self, outputs: DetectionOutputs) -> dict[str, Tensor]:
        """Top-K points by best class: boxes [B, K, 4], scores [B, K], labels int64 [B, K]."""
        best, label = outputs.logits.float().max(dim=2)
        k = min(TOP_K, best.shape[1])
        scores, index = best.topk(k, dim=1)
        distances = self._expected(
            outputs.distances.gather(1, index[:, :, None, None].expand(-1, -1, 4, BINS))
        )
        distances = distances * outputs.strides[index][..., None]
        points = outputs.points[index]
        return {
            'boxes': torch.cat((points - distances[..., :2], points + distances[..., 2:]), -1),
            'scores': scores.sigmoid(),
            'labels': label.gather(1, index),
        }

    def deployed_names(self) -> dict[str, tuple[str, int]]:
        """Three tensors, as the graph contract names them."""
        return {name: (name, 1) for name in ('boxes', 'scores', 'labels')}


def inside(points: Tensor, boxes: Tensor) -> Tensor:
    """Bool [P, N]: which points lie in which xyxy boxes."""
    x, y = points[:, None].unbind(-1)
    return (x > boxes[:, 0]) & (y > boxes[:, 1]) & (x < boxes[:, 2]) & (y < boxes[:, 3])


@torch.no_grad()
def assign(
    probabilities: Tensor,
    boxes: Tensor,
    points: Tensor,
    strides: Tensor,
    target: BoxTarget,
    top_k: int = 10,
    alpha: float = 0.5,
    beta: float = 6.0,
) -> tuple[Tensor, Tensor]:
    """Task-aligned assignment of one image (TOOD eq. 4-6).

    A truth box takes the `top_k` points inside it with the largest t = p^alpha * IoU^beta; a point
    wanted by several goes to the one it overlaps most. Boxes smaller than two cells of the finest
    level are widened to that, else no point would lie inside. Returns the matched box index
    int64 [P] (-1: none) and the classification target float32 [P] in [0, 1].
    """
    count = len(target.boxes)
    matched = torch.full((len(points),), -1, dtype=torch.long, device=points.device)
    quality = torch.zeros(len(points), device=points.device)
    if count == 0:
        return matched, quality
    centre = (target.boxes[:, :2] + target.boxes[:, 2:]) / 2
    half = ((target.boxes[:, 2:] - target.boxes[:, :2]) / 2).clamp(min=float(strides.min()))
    candidate = inside(points, torch.cat((centre - half, centre + half), dim=1))
    iou = box_iou(boxes, target.boxes).clamp(min=1e-6)
    alignment = probabilities[:, target.labels] ** alpha * iou**beta
    alignment = alignment.masked_fill(~candidate, 0)
    top = alignment.topk(min(top_k, len(points)), dim=0)
    chosen = torch.zeros_like(candidate)
    chosen.scatter_(0, top.indices, top.values > 0)
    best_iou, best = iou.masked_fill(~chosen, -1).max(dim=1)
    taken = best_iou >= 0
    matched[taken] = best[taken]
    kept = alignment * F.one_hot(matched.clamp(min=0), count) * taken[:, None]
    # Per box, the largest target equals the largest IoU among its points.
    largest = kept.amax(0).clamp(min=1e-9)
    iou_max = (iou * (kept > 0)).amax(0)
    quality = (kept / largest * iou_max).amax(1)
    return matched, quality
