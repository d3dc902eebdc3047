"""Label assignment: which points of a dense detector answer for which truth boxes.

`task_aligned` is TOOD's (Feng et al., ICCV 2021, eq. 4-6); `one_to_one` takes one point a box by
the same alignment, which keeps both supervisions consistent (YOLOv10: Wang et al., NeurIPS 2024,
section 3.1, from the paper); `adaptive` is ATSS (Zhang et al., CVPR 2020, algorithm 1), the partner
of an ablation. All take the predictions and the truth of one image and return an `Assignment`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou

ALPHA, BETA = 0.5, 6.0
"""Exponents of score and IoU in the alignment."""
TOP_K = 10
"""Points a box takes by task alignment."""
ATSS_K = 9
"""Candidates a level and box."""
ATSS_ANCHOR = 8.0
"""Side of the anchor at a point, in strides."""


class BoxTarget(NamedTuple):
    """Boxes of one labelled image: float32 [N, 4], labels int64 [N], ignored regions [M, 4].

    xyxy input pixels. A label below the class count C is a class; C + g is one of the classes of
    `detection.CLASS_SETS[g]`, the label does not say which. Points inside an ignored region
    (crowds, merged, uncertain or too small objects) that match no box add no classification loss.

    covered: bool [C], the classes whose objects are labelled in this image; the others add no loss.
    None: all of them. complete: False where a teacher drew the boxes, which misses some objects: a
    point that matches no box adds no loss for a class that the student is sure of.
    """

    boxes: Tensor
    labels: Tensor
    ignored: Tensor
    covered: Tensor | None = None
    complete: bool = True


class Assignment(NamedTuple):
    """matched: box index a point, int64 [P], -1: none. quality: target in [0, 1], float32 [P]."""

    matched: Tensor
    quality: Tensor


class Assigner(NamedTuple):
    """assign: (probabilities [P, L], boxes [P, 4], points [P, 2], strides [P], target).

    L counts the classes, then the class sets, whose probability is that of their likeliest class.

    quality_per_box: what the qualities of a truth box sum to with a trained head, the scale of the
    loss.
    """

    assign: Callable[[Tensor, Tensor, Tensor, Tensor, BoxTarget], Assignment]
    quality_per_box: float


def inside(points: Tensor, boxes: Tensor) -> Tensor:
    """Bool [P, N]: which points lie in which xyxy boxes."""
    x, y = points[:, None].unbind(-1)
    return (x > boxes[:, 0]) & (y > boxes[:, 1]) & (x < boxes[:, 2]) & (y < boxes[:, 3])


def reachable(points: Tensor, boxes: Tensor, strides: Tensor) -> Tensor:
    """Bool [P, N]: points that may answer for a box: those inside it.

    A box smaller than two cells of the finest level is widened to that, else no point would lie
    inside.
    """
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = ((boxes[:, 2:] - boxes[:, :2]) / 2).clamp(min=float(strides.min()))
    return inside(points, torch.cat((centre - half, centre + half), dim=1))


@torch.no_grad()
def task_aligned(
    probabilities: Tensor, boxes: Tensor, points: Tensor, strides: Tensor, target: BoxTarget
) -> Assignment:
    """A box takes the `TOP_K` reachable points with the largest t = p^alpha * IoU^beta.

    A point wanted by several boxes goes to the one it overlaps most. Of a box's points the best
    aligned gets its largest IoU as quality, the others less in proportion to t.
    """
    count = len(target.boxes)
    if count == 0:
        return _nothing(points)
    iou, alignment = _alignment(probabilities, boxes, points, strides, target)
    top = alignment.topk(min(TOP_K, len(points)), dim=0)
    chosen = torch.zeros_like(alignment, dtype=torch.bool)
    chosen.scatter_(0, top.indices, top.values > 0)
    matched = _best_overlap(chosen, iou)
    kept = alignment * F.one_hot(matched.clamp(min=0), count) * (matched >= 0)[:, None]
    largest = kept.amax(0).clamp(min=torch.finfo(kept.dtype).tiny)
    quality = (kept / largest * (iou * (kept > 0)).amax(0)).amax(1)
    return Assignment(matched, quality)


@torch.no_grad()
def one_to_one(
    probabilities: Tensor, boxes: Tensor, points: Tensor, strides: Tensor, target: BoxTarget
) -> Assignment:
    """Every box takes its best aligned point; no two boxes share one.

    Where two want the same, the better aligned has it and the other chooses again. Quality is the
    IoU.
    """
    count = len(target.boxes)
    if count == 0:
        return _nothing(points)
    iou, alignment = _alignment(probabilities, boxes, points, strides, target)
    matched, quality = _nothing(points)
    open_boxes = torch.arange(count, device=points.device)
    while len(open_boxes):
        best, point = alignment[:, open_boxes].max(dim=0)
        wanted = best > 0
        open_boxes, best, point = open_boxes[wanted], best[wanted], point[wanted]
        strongest = best.new_zeros(len(points)).scatter_reduce(0, point, best, 'amax')
        winner = best == strongest[point]
        matched = matched.scatter_reduce(0, point[winner], open_boxes[winner], 'amax')
        won = matched[point] == open_boxes
        quality[point[won]] = iou[point[won], open_boxes[won]]
        alignment[point] = 0
        open_boxes = open_boxes[~won]
    return Assignment(matched, quality)


@torch.no_grad()
def adaptive(
    probabilities: Tensor, boxes: Tensor, points: Tensor, strides: Tensor, target: BoxTarget
) -> Assignment:
    """ATSS: a box takes candidates whose anchor overlaps it above the mean plus one deviation.

    Candidates are the `ATSS_K` points nearest to the box's centre on each level; anchors are
    squares. Changed: quality is the predicted box's IoU, as in VarifocalNet (Zhang et al., CVPR
    2021), so that the loss is the same for all assigners; small boxes are widened (`reachable`).
    """
    count = len(target.boxes)
    if count == 0:
        return _nothing(points)
    centre = (target.boxes[:, :2] + target.boxes[:, 2:]) / 2
    half = ATSS_ANCHOR / 2 * strides[:, None]
    overlap = box_iou(torch.cat((points - half, points + half), dim=1), target.boxes)
    distance = torch.cdist(points, centre)
    _, sizes = strides.unique_consecutive(return_counts=True)
    nearest, first = [], 0
    for size in sizes.tolist():
        level = distance[first : first + size].topk(min(ATSS_K, size), dim=0, largest=False)
        nearest.append(level.indices + first)
        first += size
    candidates = torch.cat(nearest)
    overlaps = overlap.gather(0, candidates)
    threshold = overlaps.mean(0) + overlaps.std(0)
    chosen = torch.zeros_like(overlap, dtype=torch.bool)
    chosen.scatter_(0, candidates, overlaps >= threshold)
    chosen &= reachable(points, target.boxes, strides)
    matched = _best_overlap(chosen, overlap)
    iou = box_iou(boxes, target.boxes).gather(1, matched.clamp(min=0)[:, None]).squeeze(1)
    return Assignment(matched, iou.clamp(min=1e-3) * (matched >= 0))


ASSIGNERS: dict[str, Assigner] = {
    'tal': Assigner(task_aligned, 0.6),
    'atss': Assigner(adaptive, 3.0),
}
"""One-to-many assigners by the name in the configuration."""

ONE_TO_ONE = Assigner(one_to_one, 0.7)


def _alignment(
    probabilities: Tensor, boxes: Tensor, points: Tensor, strides: Tensor, target: BoxTarget
) -> tuple[Tensor, Tensor]:
    """IoU and alignment, float32 [P, N]; the latter is 0 where a point cannot answer for a box."""
    iou = box_iou(boxes, target.boxes).clamp(min=1e-5)  # to the sixth power still not 0
    alignment = probabilities[:, target.labels] ** ALPHA * iou**BETA
    return iou, alignment.masked_fill(~reachable(points, target.boxes, strides), 0)


def _best_overlap(chosen: Tensor, overlap: Tensor) -> Tensor:
    """Of the boxes that chose a point, the one that overlaps most: index int64 [P], -1 for none."""
    best, box = overlap.masked_fill(~chosen, -1).max(dim=1)
    return box.masked_fill(best < 0, -1)


def _nothing(points: Tensor) -> Assignment:
    return Assignment(
        torch.full((len(points),), -1, dtype=torch.long, device=points.device),
        torch.zeros(len(points), device=points.device),
    )
