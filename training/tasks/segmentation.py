"""Semantic segmentation at stride 4 (drivable area, 19-class mask).

Head: every neck level through a 1x1 convolution, upsampled to stride 4 and summed, after the
panoptic FPN decoder (Kirillov et al., CVPR 2019) with SegFormer's economy (Xie et al., 2021).

Target: uint8 [H, W] at input size. A value below the class count is a class, 255 is unlabelled, and
`len(classes) + g` says only that the pixel is of one of the classes of `GROUPS[task][g]`: data sets
with coarser labels (one road class, seven super-classes) then train the fine task without inventing
labels. The loss is the cross-entropy of the label set, -log sum_{c in set} p_c, which for single
classes is the ordinary one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_perception.tasks import DRIVABLE, SEMANTIC, UNLABELLED, Task
from training.networks.layers import ConvNorm, SeparableConv, upsample_to
from training.tasks.base import Features, Head

COARSE7 = (
    (0,), (1, 9), (11, 12), (13, 14, 15, 16, 17, 18), (3, 4, 5, 6, 7), (2, 8), (10,),
)  # fmt: skip
"""IDD-Lite's seven super-classes as sets of the 19 ids."""

GROUPS: dict[str, tuple[tuple[int, ...], ...]] = {
    DRIVABLE.name: ((0, 1),),
    SEMANTIC.name: COARSE7,
}

STRIDE = 4
LOSS_STRIDE = 2
"""The loss is taken at half resolution, for a quarter of its time and memory."""


class SegmentationHead(Head):
    """Neck levels -> logits [B, C, H/4, W/4]."""

    def __init__(self, task: Task, trunk_channels: Sequence[int], neck_channels: int) -> None:
        """One projection a neck level, a separable convolution on their sum, a 1x1 classifier."""
        super().__init__(task, trunk_channels, neck_channels)
        self.project = nn.ModuleList(
            ConvNorm(neck_channels, neck_channels, act=False) for _ in trunk_channels
        )
        self.fuse = nn.Sequential(nn.ReLU(), SeparableConv(neck_channels, neck_channels))
        self.logits = nn.Conv2d(neck_channels, len(task.classes), 1)
        groups = GROUPS.get(task.name, ())
        members = torch.zeros(len(groups), len(task.classes))
        for row, group in enumerate(groups):
            members[row, list(group)] = 1
        self.register_buffer('members', members, persistent=False)

    def forward(self, features: Features) -> Tensor:
        """Project, upsample to stride 4, add, fuse, classify."""
        levels = [project(f) for project, f in zip(self.project, features.neck, strict=True)]
        total = levels[0]
        for level in levels[1:]:
            total = total + upsample_to(level, levels[0])
        return self.logits(self.fuse(total))

    def loss(self, outputs: Tensor, targets: Sequence[Tensor]) -> Tensor:
        """Mean over labelled pixels of the batch; zero when there is none."""
        target = torch.stack(list(targets))[:, ::LOSS_STRIDE, ::LOSS_STRIDE]
        target = target.to(outputs.device).long()
        logits = F.interpolate(
            outputs.float(), size=target.shape[-2:], mode='bilinear', align_corners=False
        )
        log_p = logits.log_softmax(dim=1)
        classes = log_p.shape[1]
        fine = F.nll_loss(
            log_p, target.where(target < classes, UNLABELLED), ignore_index=UNLABELLED,
            reduction='sum',
        )  # fmt: skip
        labelled = target != UNLABELLED
        coarse = labelled & (target >= classes)
        total = fine
        if coarse.any():
            log_p_at = log_p.permute(0, 2, 3, 1)[coarse]
            member = self.members[target[coarse] - classes]
            total = total - log_p_at.masked_fill(member == 0, -torch.inf).logsumexp(1).sum()
        return total / labelled.sum().clamp(min=1)

    def deploy(self, outputs: Tensor) -> dict[str, Tensor]:
        """Stride-4 logits float32 [B, C, H/4, W/4]; `decode.py` upsamples and takes the argmax."""
        return {self.task.name: outputs.float()}

    def deployed_names(self) -> dict[str, tuple[str, int]]:
        """One logits tensor, named as the task."""
        return {self.task.name: ('logits', STRIDE)}
