# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The loss of class masks whose labels may be sets of classes.

Base: the cross-entropy of the label set, -log sum_{c in set} p_c, which for single classes is the
ordinary one. On top, by configuration: hard pixels only (OHEM: Shrivastava et al., CVPR 2016, over
pixels), more weight near class borders, and the Lovasz-softmax surrogate of the mean IoU (Berman et
al., CVPR 2018). Every term is a sum whose divisor is a function of the labels alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mtl_perception.tasks import UNLABELLED
from training.tasks.targets import Targets, TaskTargets

LOSS_STRIDE = 2
"""The loss is taken at half resolution, for a quarter of its time and memory."""


@dataclass
class MaskLossConfig:
    """ohem: share of an image's labelled pixels that count, the hardest; 1 is all of them.

    boundary: what is added to the weight 1 of pixels beside another class. lovasz: weight of the
    Lovasz-softmax term. auxiliary: weight of a second, coarser classifier on the trunk's stride 16
    (deep supervision), which is not deployed. Raises ValueError on what cannot be combined.
    """

    ohem: float = 1.0
    boundary: float = 0.0
    lovasz: float = 0.0
    auxiliary: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 < self.ohem <= 1:
            raise ValueError(f'segmentation.ohem: a share above 0 up to 1, found {self.ohem}')
        if min(self.boundary, self.lovasz, self.auxiliary) < 0:
            raise ValueError('segmentation: boundary, lovasz and auxiliary are weights, 0 or more')
        if self.ohem < 1 and self.boundary:
            raise ValueError(
                'segmentation: ohem picks pixels by their loss, boundary by their place; set one'
            )


def at_loss_stride(targets: TaskTargets | Tensor) -> Tensor:
    """Masks [H, W], packed or one by one -> [B, H / 2, W / 2]."""
    masks = targets if isinstance(targets, Tensor) else Targets.pack(targets).values
    return masks[:, ::LOSS_STRIDE, ::LOSS_STRIDE]


def at_labels(outputs: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """Outputs [B, C, ...] where `at_loss_stride` takes its labels: float32 [B, C, h, w] of `size`.

    Those are the centres of every second pixel. Bilinear, clamped at the border, as masks are
    decoded; to resize to half the size instead would look half a pixel beside each label.
    """
    values = outputs.float()
    with torch.autocast(values.device.type, enabled=False):
        rows, columns = (
            _interpolation(inputs, labels, values.device)
            for inputs, labels in zip(values.shape[2:], size, strict=True)
        )
        return rows @ values @ columns.T


def _interpolation(inputs: int, labels: int, device: torch.device) -> Tensor:
    """Weights [labels, inputs] of linear interpolation along an axis: a hat around each place.

    Two products with such matrices are the bilinear map. Their backward pass is two products as
    well, where that of `grid_sample` adds up in an order that differs from run to run on a GPU.
    """
    place = (LOSS_STRIDE * torch.arange(labels, device=device) + 0.5) * inputs
    place = (place / (LOSS_STRIDE * labels) - 0.5).clamp(0, inputs - 1)
    return (1 - (place[:, None] - torch.arange(inputs, device=device)).abs()).clamp(min=0)


def amounts(target: Tensor, config: MaskLossConfig) -> Tensor:
    """What the pixels of each image count for together: float32 [B] of targets [B, h, w]."""
    labelled = target != UNLABELLED
    if config.boundary:
        return (labelled * pixel_weight(target, config.boundary)).sum((1, 2))
    counts = labelled.sum((1, 2)).float()
    return (config.ohem * counts).ceil()


def mask_loss(logits: Tensor, target: Tensor, members: Tensor, config: MaskLossConfig) -> Tensor:
    """Sum over what `amounts` counts; logits [B, C, ...] of any size, target int64 [B, h, w].

    target: a class, 255 unlabelled, C + g the class set members[g], bool [G, C].
    """
    log_p = at_labels(logits, target.shape[-2:]).log_softmax(dim=1)
    pixels = set_cross_entropy(log_p, target, members)
    amount = amounts(target, config)
    if config.ohem < 1:
        ranked = pixels.flatten(1).sort(dim=1, descending=True).values
        taken = torch.arange(ranked.shape[1], device=ranked.device) < amount[:, None]
        total = (ranked * taken).sum()
    elif config.boundary:
        total = (pixels * pixel_weight(target, config.boundary)).sum()
    else:
        total = pixels.sum()
    if config.lovasz:
        terms = [lovasz_softmax(p.exp(), t, members) for p, t in zip(log_p, target, strict=True)]
        total = total + config.lovasz * (torch.stack(terms) * amount).sum()
    return total


def set_cross_entropy(log_p: Tensor, target: Tensor, members: Tensor) -> Tensor:
    """-log of the probability of the label set of each pixel, 0 where unlabelled: [B, h, w]."""
    classes = log_p.shape[1]
    single = target.where(target < classes, UNLABELLED)
    pixels = F.nll_loss(log_p, single, ignore_index=UNLABELLED, reduction='none')
    coarse = (target != UNLABELLED) & (target >= classes)
    # To look costs nothing on a CPU; a GPU would have to be waited for.
    if len(members) == 0 or (log_p.device.type == 'cpu' and not coarse.any()):
        return pixels
    member = members[(target - classes).clamp(0, len(members) - 1)].movedim(3, 1)
    of_set = log_p.masked_fill(~member, -torch.inf).logsumexp(1)
    return pixels.where(~coarse, -of_set)


def pixel_weight(target: Tensor, boundary: float) -> Tensor:
    """1, and `boundary` more where a labelled 3x3 neighbour has another label: [B, h, w]."""
    labelled = target != UNLABELLED
    values = target.float()
    high = F.max_pool2d(values.where(labelled, -1.0), 3, 1, 1)
    low = -F.max_pool2d(-values.where(labelled, float(UNLABELLED)), 3, 1, 1)
    return 1 + boundary * (labelled & (high > low)).float()


def lovasz_softmax(probabilities: Tensor, target: Tensor, members: Tensor) -> Tensor:
    """Mean over the labels present of the Lovasz extension of 1 - IoU (Berman, eq. 8-12).

    One image: probabilities [C, h, w], target [h, w]. A class set is one label whose probability is
    the sum of its classes'; pixels whose set merely overlaps another label say nothing about it.
    """
    single = torch.eye(len(probabilities), dtype=torch.bool, device=probabilities.device)
    sets = torch.cat((single, members))
    labelled = target != UNLABELLED
    truth = target[labelled]
    scores = probabilities[:, labelled]
    losses = []
    for label in truth.unique():
        foreground = truth == label
        known = foreground | ~(sets[truth] & sets[label]).any(1)
        foreground = foreground[known].float()
        error = (foreground - scores[sets[label]].sum(0)[known]).abs()
        error, order = error.sort(descending=True)
        losses.append(error @ _jaccard_steps(foreground[order]))
    return torch.stack(losses).mean() if losses else probabilities.sum() * 0


def _jaccard_steps(foreground: Tensor) -> Tensor:
    """By how much each further error, worst first, raises 1 - IoU."""
    total = foreground.sum()
    intersection = total - foreground.cumsum(0)
    union = total + (1 - foreground).cumsum(0)
    distance = 1 - intersection / union
    return torch.diff(distance, prepend=distance.new_zeros(1))
