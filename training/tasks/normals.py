# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Surface normals in camera coordinates: x right, y down, z forward, towards the camera.

Target: float32 [H, W, 3] unit vectors, zeros where unknown. Losses: `cosine`, 1 - p . t (MTAN: Liu
et al., CVPR 2019, eq. 6); `l1`, sum of |p - t| over the three components of the unit vectors
(ASTMT: Maninis et al., CVPR 2019, section 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn import functional as F

from mtl_perception.tasks import Task
from training.tasks.decoders import FPN_DECODER, check_decoder
from training.tasks.kind import TaskKind
from training.tasks.map_loss import MapHead

if TYPE_CHECKING:
    from training.data.sample import Sample

NORMALS_LOSSES = ('cosine', 'l1')


@dataclass
class NormalsConfig:
    """decoder: as of `segmentation`. loss: cosine or l1."""

    decoder: str = FPN_DECODER
    loss: str = 'cosine'

    def __post_init__(self) -> None:
        """Check the values."""
        check_decoder('normals', self.decoder)
        if self.loss not in NORMALS_LOSSES:
            raise ValueError(f'normals.loss: expected one of {NORMALS_LOSSES}, found {self.loss!r}')


class NormalsHead(MapHead):
    """Features -> vectors of any length [B, 3, H / stride, W / stride]."""

    def __init__(
        self,
        task: Task,
        trunk_channels: Sequence[int],
        neck_channels: int,
        config: NormalsConfig | None = None,
    ) -> None:
        """Three numbers per cell."""
        chosen = config or NormalsConfig()
        super().__init__(task, trunk_channels, neck_channels, chosen.decoder, 3)
        self.config = chosen

    @staticmethod
    def known(target: Tensor) -> Tensor:
        """Vectors that are not zeros."""
        return target.any(dim=-1)

    def errors(self, found: Tensor, target: Tensor) -> Tensor:
        """As configured."""
        unit = F.normalize(found, dim=-1, eps=1e-6)
        if self.config.loss == 'l1':
            return (unit - target).abs().sum(-1)
        return 1 - (unit * target).sum(-1)

    def deploy(self, outputs: Tensor) -> dict[str, Tensor]:
        """Unit vectors float32 [B, 3, H / stride, W / stride]."""
        return {self.task.name: F.normalize(outputs.float(), dim=1, eps=1e-6)}

    def deployed_names(self) -> dict[str, tuple[str, int]]:
        """One map, named as the task."""
        return {self.task.name: ('normals', self.stride)}


class NormalsKind(TaskKind):
    """Maps of vectors."""

    name = 'normals'
    head = NormalsHead
    label_bytes = 12
    is_dense = True

    def label(self, sample: Sample, task: Task) -> Any:
        """Its map."""
        return sample.maps.get(task.name)


KIND = NormalsKind()
