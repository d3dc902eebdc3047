# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Anchor-free detection on strides 8-32, or 4-32.

Head: decoupled classification and box towers (YOLOX, Ge et al. 2021) of separable convolutions,
one pair per level; boxes as distance distributions (DFL: Li et al., "Generalized Focal Loss",
NeurIPS 2020, eq. 3-6). Labels are assigned as in `assigners.py`; classes learn the
assignment's quality through the quality focal loss (the same paper, eq. 2) or the varifocal loss
(Zhang et al., CVPR 2021, eq. 2); boxes GIoU (Rezatofighi et al., CVPR 2019).

With `one_to_one` a second pair of towers learns one point a box beside the others and is the one
that is deployed: its boxes need no suppression.

Labels may be incomplete: a data set covers some of the classes, or does not tell some of them apart
(`CLASS_SETS`); a teacher misses objects. What is not known adds no loss.

Target: `BoxTarget`. Boxes are xyxy input pixels throughout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_evaluation.truth.truth import TruthBoxes
from mtl_perception.tasks import ALL_TASKS, DETECTION, Task
from training.layers import SeparableConv
from training.tasks.assigners import ASSIGNERS, ONE_TO_ONE, Assigner, Points, inside
from training.tasks.base import Features, Head
from training.tasks.kind import TaskKind
from training.tasks.targets import BoxTargets, Counting, Targets, TaskTargets, box_count

if TYPE_CHECKING:
    from training.data.sample import Sample

LEVELS = {'p3-p5': (8, 16, 32), 'p2-p5': (4, 8, 16, 32)}
CLASS_LOSSES = ('quality_focal', 'varifocal')
BINS = 16
"""Distances run from 0 to BINS - 1 strides."""
FIRST_DISTANCE = 2.0
"""Distance that a fresh head predicts, in strides: boxes of the size a level is for."""
TOP_K = 300

CLASS_WEIGHT, BOX_WEIGHT, DFL_WEIGHT = 1.0, 2.0, 0.5
EPSILON = 1e-7
"""Keeps the GIoU of boxes without area finite, as torchvision's."""
SURE = 0.5
"""Probability from which the student is believed where a teacher's labels are silent."""

CLASS_SETS = ((2, 3, 4, 5), (6, 7), (0, 1))
SET_NAMES = ('vehicle', 'two-wheeler', 'human')
"""Sets of BDD100K's classes that a label may name, and their names in label files."""


@dataclass
class DetectionConfig:
    """levels: p3-p5 or p2-p5 (strides 8-32 or 4-32). assigner: tal or atss.

    class_loss: quality_focal or varifocal. one_to_one adds the branch that needs no suppression.
    tower_depth: convolutions before each tower's last. Raises ValueError on any other value.
    """

    levels: str = 'p3-p5'
    assigner: str = 'tal'
    class_loss: str = 'varifocal'
    one_to_one: bool = False
    tower_depth: int = 2

    def __post_init__(self) -> None:
        """Check the values."""
        for key, known in (
            ('levels', LEVELS), ('assigner', ASSIGNERS), ('class_loss', CLASS_LOSSES),
        ):  # fmt: skip
            if getattr(self, key) not in known:
                raise ValueError(
                    f'detection.{key}: expected one of {list(known)}, found {getattr(self, key)!r}'
                )
        if self.tower_depth < 0:
            raise ValueError(f'detection.tower_depth: expected 0 or more, found {self.tower_depth}')


@dataclass(frozen=True)
class Predictions:
    """Raw outputs over all points: class logits [B, P, C], distance logits [B, P, 4, BINS].

    points: P of them.
    """

    logits: Tensor
    distances: Tensor
    points: Points


@dataclass(frozen=True)
class DetectionOutputs:
    """one_to_many is None where nothing learns from it, one_to_one where the head has no such."""

    one_to_many: Predictions | None
    one_to_one: Predictions | None

    @property
    def deployed(self) -> Predictions:
        """What boxes are made of."""
        predictions = self.one_to_one or self.one_to_many
        assert predictions is not None
        return predictions


def giou_loss(boxes: Tensor, wanted: Tensor) -> Tensor:
    """1 - GIoU of pairs of boxes [..., 4] -> [...] (Rezatofighi et al., CVPR 2019, algorithm 1).

    torchvision's picks the pairs that overlap with a mask, for which a GPU has to be waited for.
    """
    area, wanted_area = ((b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1]) for b in (boxes, wanted))
    left_top = torch.maximum(boxes[..., :2], wanted[..., :2])
    sides = (torch.minimum(boxes[..., 2:], wanted[..., 2:]) - left_top).clamp(min=0)
    both = sides[..., 0] * sides[..., 1]
    union = area + wanted_area - both
    around = torch.maximum(boxes[..., 2:], wanted[..., 2:]) - torch.minimum(
        boxes[..., :2], wanted[..., :2]
    )
    hull = around[..., 0] * around[..., 1]
    return 1 - both / (union + EPSILON) + (hull - union) / (hull + EPSILON)


class DetectionHead(Head):
    """Neck levels -> `DetectionOutputs`."""

    bins: Tensor
    members: Tensor

    def __init__(
        self,
        task: Task,
        trunk_channels: Sequence[int],
        neck_channels: int,
        config: DetectionConfig | None = None,
    ) -> None:
        """Two towers per level, four with `one_to_one`."""
        super().__init__(task, trunk_channels, neck_channels)
        self.config = config or DetectionConfig()
        self.level_strides = LEVELS[self.config.levels]
        self.depth = self.config.tower_depth
        self.register_buffer('bins', torch.arange(BINS, dtype=torch.float32), persistent=False)
        rare = torch.full((len(task.classes),), -math.log(99))  # 1 %: RetinaNet section 4.1
        # The logits of a geometric distribution with this mean.
        near = (-math.log1p(1 / FIRST_DISTANCE) * self.bins).repeat(4)
        sets = CLASS_SETS if task.classes == DETECTION.classes else ()
        members = torch.eye(len(task.classes) + len(sets), len(task.classes), dtype=torch.bool)
        for row, classes in enumerate(sets, len(task.classes)):
            members[row, list(classes)] = True
        self.register_buffer('members', members, persistent=False)
        self.classify = self._towers(neck_channels, rare)
        self.regress = self._towers(neck_channels, near)
        if self.config.one_to_one:
            self.one_classify = self._towers(neck_channels, rare)
            self.one_regress = self._towers(neck_channels, near)

    def _towers(self, channels: int, bias: Tensor) -> nn.ModuleList:
        """One per level; `bias` [outputs] is what the last convolution starts with."""
        towers = nn.ModuleList()
        for _ in self.level_strides:
            last = nn.Conv2d(channels, len(bias), 1)
            last.bias = nn.Parameter(bias.clone())
            convolutions = (SeparableConv(channels, channels) for _ in range(self.depth))
            towers.append(nn.Sequential(*convolutions, last))
        return towers

    def forward(self, features: Features) -> DetectionOutputs:
        """Run the towers on each level; in eval mode only those that are deployed."""
        levels = features.neck[-len(self.level_strides) :]
        if not self.config.one_to_one:
            return DetectionOutputs(self._predict(levels, self.classify, self.regress), None)
        many = self._predict(levels, self.classify, self.regress) if self.training else None
        # The richer supervision alone shapes what is shared.
        one = self._predict([f.detach() for f in levels], self.one_classify, self.one_regress)
        return DetectionOutputs(many, one)

    def _predict(
        self, levels: Sequence[Tensor], classify: nn.ModuleList, regress: nn.ModuleList
    ) -> Predictions:
        """Lay the levels' points one after another."""
        logits, distances, points, strides = [], [], [], []
        for level, class_tower, box_tower, stride in zip(
            levels, classify, regress, self.level_strides, strict=True
        ):
            logits.append(class_tower(level).flatten(2).transpose(1, 2))
            distances.append(box_tower(level).flatten(2).transpose(1, 2).unflatten(2, (4, BINS)))
            height, width = level.shape[-2:]
            ys = (torch.arange(height, device=level.device) + 0.5) * stride
            xs = (torch.arange(width, device=level.device) + 0.5) * stride
            # Sums, not repeat() and full(): with free sizes torch exports wrong shapes of those.
            rows, columns = 0 * xs + ys[:, None], xs + 0 * ys[:, None]
            grid = torch.stack((columns.flatten(), rows.flatten()), dim=1)
            points.append(grid)
            strides.append(0 * grid[:, 0] + float(stride))
        sizes = tuple(grid.shape[0] for grid in points)
        return Predictions(
            torch.cat(logits, 1),
            torch.cat(distances, 1),
            Points(torch.cat(points), torch.cat(strides), sizes),
        )

    def boxes(self, predictions: Predictions) -> Tensor:
        """Expected distances of the distributions -> boxes [B, P, 4]."""
        distances = self._expected(predictions.distances) * predictions.points.strides[:, None]
        points = predictions.points.xy
        return torch.cat((points - distances[..., :2], points + distances[..., 2:]), dim=-1)

    def _expected(self, distances: Tensor) -> Tensor:
        """Mean of the distance distributions [..., BINS], in strides."""
        return (distances.float().softmax(-1) * self.bins).sum(-1)

    def loss(self, outputs: DetectionOutputs, targets: TaskTargets) -> Tensor:
        """Class + GIoU + DFL loss, summed over the points of all rows and over the branches."""
        truth = Targets.pack(targets).values
        total = torch.zeros((), device=outputs.deployed.logits.device)
        for predictions, assigner in (
            (outputs.one_to_many, ASSIGNERS[self.config.assigner]),
            (outputs.one_to_one, ONE_TO_ONE),
        ):
            if predictions is not None:
                total = total + self._branch_loss(predictions, assigner, truth)
        return total

    def counting(self) -> Counting:
        """Truth boxes.

        The usual divisor, the sum of the classification targets (TOOD), depends on the predictions
        of the whole batch, which parts of a batch do not know; the loss is scaled by its mean, the
        assigner's `quality_per_box`, instead.
        """
        return box_count

    def _branch_loss(
        self, predictions: Predictions, assigner: Assigner, truth: BoxTargets
    ) -> Tensor:
        """All images at once, without waiting for the device.

        A point that matches no box takes part with weight 0, which costs less than to pick out the
        others would.
        """
        boxes = self.boxes(predictions)
        logits = predictions.logits.float()
        probabilities = logits.detach().sigmoid()
        matched, quality = assigner.assign(
            self._of_labels(probabilities), boxes.detach(), predictions.points, truth
        )
        positive, box = (matched >= 0)[..., None], matched.clamp(min=0)
        members = self.members[truth.labels.gather(1, box)] & positive
        likeliest = (probabilities + members.float()).argmax(2)
        wanted = positive & (
            likeliest[..., None] == torch.arange(logits.shape[2], device=logits.device)
        )
        label = wanted * quality[..., None]
        known = positive | ~inside(predictions.points.xy, truth.ignored).any(2)[..., None]
        known = known & (truth.complete[:, None, None] | positive | (probabilities < SURE))
        if truth.covered is not None:
            known = known & truth.covered[:, None]
        # Of a class set, the classes that are less likely are neither right nor wrong.
        known = (known & ~members) | wanted
        weight = self._class_weight(probabilities, label) * known
        class_loss = F.binary_cross_entropy_with_logits(logits, label, weight, reduction='sum')
        true_boxes = truth.boxes.gather(1, box[..., None].expand(-1, -1, 4))
        box_loss = BOX_WEIGHT * giou_loss(boxes, true_boxes)
        box_loss = box_loss + DFL_WEIGHT * self._dfl(predictions, true_boxes)
        total = CLASS_WEIGHT * class_loss + (box_loss * quality).sum()
        return total / assigner.quality_per_box

    def _of_labels(self, probabilities: Tensor) -> Tensor:
        """[B, P, C] -> [B, P, C + G]: with the likeliest class of every class set."""
        sets = self.members[probabilities.shape[2] :]
        largest = [probabilities.where(members, 0).amax(2, keepdim=True) for members in sets]
        return torch.cat((probabilities, *largest), dim=2)

    def _class_weight(self, probability: Tensor, label: Tensor) -> Tensor:
        """What the cross-entropy [P, C] is weighted with."""
        if self.config.class_loss == 'varifocal':
            return torch.where(label > 0, label, 0.75 * probability**2)
        return (label - probability) ** 2

    def _dfl(self, predictions: Predictions, wanted: Tensor) -> Tensor:
        """Distribution focal loss [B, P]: cross-entropy with the two bins around the true distance.

        wanted: the box [B, P, 4] that each point is to predict.
        """
        xy, strides = predictions.points.xy, predictions.points.strides
        distance = torch.cat((xy - wanted[..., :2], wanted[..., 2:] - xy), dim=-1)
        distance = (distance / strides[:, None]).clamp(0, BINS - 1 - 0.01)
        lower = distance.floor()
        upper_weight = distance - lower
        log_p = predictions.distances.float().log_softmax(-1)
        at_lower = log_p.gather(-1, lower.long()[..., None]).squeeze(-1)
        at_upper = log_p.gather(-1, lower.long()[..., None] + 1).squeeze(-1)
        return -(at_lower * (1 - upper_weight) + at_upper * upper_weight).mean(-1)

    def deploy(self, outputs: DetectionOutputs) -> dict[str, Tensor]:
        """The best K pairs of point and class: boxes [B, K, 4], scores [B, K], labels int64 [B, K].

        A point may stand for several classes (COCO-style AP ranks each). Only the K points with the
        best class can hold one of the K best pairs, so the rest is left out first: the same pairs
        for a tenth of the work.
        """
        predictions = outputs.deployed
        logits = predictions.logits.float()
        classes = logits.shape[2]
        # Not min(): where sizes are free, this is known to be TOP_K for all that are allowed.
        k = TOP_K if logits.shape[1] >= TOP_K else logits.shape[1]
        _, likely = logits.amax(dim=2).topk(k, dim=1)
        pairs = logits.gather(1, likely[:, :, None].expand(-1, -1, classes)).flatten(1)
        scores, pair = pairs.topk(k, dim=1)
        index = likely.gather(1, pair // classes)
        distances = self._expected(
            predictions.distances.gather(1, index[:, :, None, None].expand(-1, -1, 4, BINS))
        )
        distances = distances * predictions.points.strides[index][..., None]
        points = predictions.points.xy[index]
        boxes = torch.cat((points - distances[..., :2], points + distances[..., 2:]), -1)
        return dict(
            zip(self._tensor_names(), (boxes, scores.sigmoid(), pair % classes), strict=True)
        )

    def deployed_names(self) -> dict[str, tuple[str, int]]:
        """Three tensors, as the graph contract names them."""
        boxes, scores, labels = self._tensor_names()
        meaning = 'unique_boxes' if self.config.one_to_one else 'boxes'
        return {boxes: (meaning, 1), scores: ('scores', 1), labels: ('labels', 1)}

    def _tensor_names(self) -> tuple[str, str, str]:
        """With the task's name before them, but for the tasks of bundles that have been made."""
        prefix = '' if self.task.name in ALL_TASKS else f'{self.task.name}_'
        return f'{prefix}boxes', f'{prefix}scores', f'{prefix}labels'


class DetectionKind(TaskKind):
    """Boxes; ids of classes, and of class sets, are the labels."""

    name = 'detection'
    head = DetectionHead

    def label(self, sample: Sample, task: Task) -> Any:
        """`training.data.sample.Boxes`."""
        return sample.boxes.get(task.name)

    def truth(self, label: Any, task: Task) -> TruthBoxes:
        """Of boxes without class sets (`training.data.box_classes.scored`)."""
        names = tuple(task.classes[i] for i in label.labels)
        return TruthBoxes(label.xyxy, names, label.ignored)


KIND = DetectionKind()
