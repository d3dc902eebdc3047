# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Label assignment: which points of a dense detector answer for which truth boxes.

`task_aligned` is TOOD's (Feng et al., ICCV 2021, eq. 4-6), with the exponents and top k that YOLOv8
made usual (TOOD's own are 1, 6 and 13); `one_to_one` takes one point per box by the same alignment,
which keeps both supervisions consistent (YOLOv10: Wang et al., NeurIPS 2024, section 3.1, from the
paper); `adaptive` is ATSS (Zhang et al., CVPR 2020, algorithm 1), the partner of an ablation. All
take the predictions and the truth of a batch and return an `Assignment`; none loops over images,
and only `one_to_one` ever waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou

from training.tasks.targets import BoxTarget, BoxTargets

__all__ = [
    'ASSIGNERS', 'ONE_TO_ONE', 'Assigner', 'Assignment', 'BoxTarget', 'Points', 'inside',
]  # fmt: skip

ALPHA, BETA = 0.5, 6.0
"""Exponents of score and IoU in the alignment."""
TOP_K = 10
"""Points that a box takes by task alignment."""
ATSS_K = 9
"""Candidates a level and box."""
ATSS_ANCHOR = 8.0
"""Side of the anchor at a point, in strides."""
ROUNDS = 4
"""Of `one_to_one`, between two looks at whether any box is left."""


class Points(NamedTuple):
    """The points of all levels, one level after another.

    xy: float32 [P, 2] input pixels. strides: float32 [P]. sizes: points of each level.
    """

    xy: Tensor
    strides: Tensor
    sizes: tuple[int, ...]


class Assignment(NamedTuple):
    """matched: box index, int64 [B, P], -1: none. quality: target in [0, 1], float32 [B, P]."""

    matched: Tensor
    quality: Tensor


class Assigner(NamedTuple):
    """assign: (probabilities [B, P, L], boxes [B, P, 4], points, truth) -> `Assignment`.

    L counts the classes, then the class sets, whose probability is that of their likeliest class.

    quality_per_box: what the qualities of a truth box sum to with a trained head, the scale of the
    loss.
    """

    assign: Callable[[Tensor, Tensor, Points, BoxTargets], Assignment]
    quality_per_box: float


def inside(points: Tensor, boxes: Tensor) -> Tensor:
    """Bool [..., P, N]: which points [P, 2] lie in which xyxy boxes [..., N, 4]."""
    x, y = points[:, None].unbind(-1)
    left, top, right, bottom = boxes[..., None, :, :].unbind(-1)
    return (x > left) & (y > top) & (x < right) & (y < bottom)


def reachable(points: Points, truth: BoxTargets) -> Tensor:
    """Bool [B, P, N]: points that may answer for a box: those inside it.

    A box smaller than two cells of the finest level is widened to that, else no point would lie
    inside.
    """
    corner, opposite = truth.boxes[..., :2], truth.boxes[..., 2:]
    centre = (corner + opposite) / 2
    half = torch.maximum((opposite - corner) / 2, points.strides.min())
    widened = torch.cat((centre - half, centre + half), dim=-1)
    return inside(points.xy, widened) & truth.real[:, None]


@torch.no_grad()
def task_aligned(
    probabilities: Tensor, boxes: Tensor, points: Points, truth: BoxTargets
) -> Assignment:
    """A box takes the `TOP_K` reachable points with the largest t = p^alpha * IoU^beta.

    A point wanted by several boxes goes to the one it overlaps most. Of a box's points the best
    aligned gets its largest IoU as quality, the others less in proportion to t.
    """
    iou, alignment = _alignment(probabilities, boxes, points, truth)
    top = alignment.topk(min(TOP_K, len(points.xy)), dim=1)
    chosen = torch.zeros_like(alignment, dtype=torch.bool)
    chosen.scatter_(1, top.indices, top.values > 0)
    matched = _best_overlap(chosen, iou)
    number = torch.arange(iou.shape[2], device=iou.device)
    kept = alignment.where(matched[..., None] == number, 0)
    largest = kept.amax(1, keepdim=True).clamp(min=torch.finfo(kept.dtype).tiny)
    quality = (kept / largest * iou.where(kept > 0, 0).amax(1, keepdim=True)).amax(2)
    return Assignment(matched, quality)


@torch.no_grad()
def one_to_one(
    probabilities: Tensor, boxes: Tensor, points: Points, truth: BoxTargets
) -> Assignment:
    """Every box takes its best aligned point; no two boxes share one.

    Where two want the same, the better aligned has it and the other chooses again. Quality is the
    IoU.
    """
    iou, alignment = _alignment(probabilities, boxes, points, truth)
    count = iou.shape[2]
    number = torch.arange(count, device=iou.device).expand(len(iou), -1)
    # One column more, for what boxes without a point write.
    matched = iou.new_full((len(iou), iou.shape[1] + 1), -1, dtype=torch.long)
    unmatched = truth.real
    for turn in range(count):
        if turn and turn % ROUNDS == 0 and not unmatched.any():
            break
        best, point = alignment.max(dim=1)
        unmatched = unmatched & (best > 0)
        best = best.where(unmatched, 0)
        strongest = torch.zeros_like(alignment[..., 0]).scatter_reduce(1, point, best, 'amax')
        winner = unmatched & (best == strongest.gather(1, point))
        place = point.where(winner, iou.shape[1])
        matched = matched.scatter_reduce(1, place, number, 'amax')
        won = winner & (matched.gather(1, point) == number)
        unmatched = unmatched & ~won
        taken = matched[:, :-1] >= 0
        alignment = alignment.masked_fill(taken[..., None] | ~unmatched[:, None], 0)
    matched = matched[:, :-1]
    overlap = iou.gather(2, matched.clamp(min=0)[..., None]).squeeze(2)
    return Assignment(matched, overlap.where(matched >= 0, 0))


@torch.no_grad()
def adaptive(probabilities: Tensor, boxes: Tensor, points: Points, truth: BoxTargets) -> Assignment:
    """ATSS: a box takes candidates whose anchor overlaps it above the mean plus one deviation.

    Candidates are the `ATSS_K` points nearest to the box's centre on each level; anchors are
    squares. Changed: quality is the predicted box's IoU, as in VarifocalNet (Zhang et al., CVPR
    2021), so that the loss is the same for all assigners; small boxes are widened (`reachable`).
    """
    half = ATSS_ANCHOR / 2 * points.strides[:, None]
    anchors = torch.cat((points.xy - half, points.xy + half), dim=1)
    overlap = box_iou(anchors.expand(len(boxes), -1, -1), truth.boxes)
    distance = torch.cdist(points.xy, (truth.boxes[..., :2] + truth.boxes[..., 2:]) / 2)
    nearest, first = [], 0
    for level in distance.split(points.sizes, dim=1):
        size = level.shape[1]
        nearest.append(level.topk(min(ATSS_K, size), dim=1, largest=False).indices + first)
        first += size
    candidates = torch.cat(nearest, dim=1)
    overlaps = overlap.gather(1, candidates)
    threshold = overlaps.mean(1, keepdim=True) + overlaps.std(1, keepdim=True)
    chosen = torch.zeros_like(overlap, dtype=torch.bool)
    chosen.scatter_(1, candidates, overlaps >= threshold)
    matched = _best_overlap(chosen & reachable(points, truth), overlap)
    iou = box_iou(boxes, truth.boxes).gather(2, matched.clamp(min=0)[..., None]).squeeze(2)
    return Assignment(matched, iou.clamp(min=1e-3).where(matched >= 0, 0))


ASSIGNERS: dict[str, Assigner] = {
    'tal': Assigner(task_aligned, 0.6),
    'atss': Assigner(adaptive, 3.0),
}
"""One-to-many assigners by the name in the configuration."""

ONE_TO_ONE = Assigner(one_to_one, 0.7)


def _alignment(
    probabilities: Tensor, boxes: Tensor, points: Points, truth: BoxTargets
) -> tuple[Tensor, Tensor]:
    """IoU and alignment, float32 [B, P, N]; the latter is 0 where a point cannot answer for a box.

    Raised to the sixth power, the smallest IoU is still not 0.
    """
    iou = box_iou(boxes, truth.boxes).clamp(min=1e-5)
    label = truth.labels[:, None].expand(-1, probabilities.shape[1], -1)
    alignment = probabilities.gather(2, label) ** ALPHA * iou**BETA
    return iou, alignment.where(reachable(points, truth), 0)


def _best_overlap(chosen: Tensor, overlap: Tensor) -> Tensor:
    """Of the boxes that chose a point, the one that overlaps most: int64 [B, P], -1 for none."""
    best, box = overlap.where(chosen, -1).max(dim=2)
    return box.masked_fill(best < 0, -1)
