# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Depth in metres along the optical axis.

The head says the logarithm of the depth: errors then count alike near and far, as relative ones
(scale-invariant log error: Eigen et al., NeurIPS 2014, eq. 1, here its absolute part). Target:
float32 [H, W] metres, 0 where unknown. Losses: `log_l1`, |log p - log t|; `l1`, |p - t| in metres,
which is MTAN's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mtl_perception.tasks import Task
from training.tasks.decoders import FPN_DECODER, check_decoder
from training.tasks.kind import TaskKind
from training.tasks.map_loss import MapHead

if TYPE_CHECKING:
    from training.data.sample import Sample

DEPTH_LOSSES = ('log_l1', 'l1')
LOWEST, HIGHEST = -7.0, 9.0
"""Logarithms between which depths lie: 1 mm to 8 km."""


@dataclass
class DepthConfig:
    """decoder: as of `segmentation`. loss: log_l1 or l1."""

    decoder: str = FPN_DECODER
    loss: str = 'log_l1'

    def __post_init__(self) -> None:
        """Check the values."""
        check_decoder('depth', self.decoder)
        if self.loss not in DEPTH_LOSSES:
            raise ValueError(f'depth.loss: expected one of {DEPTH_LOSSES}, found {self.loss!r}')


class DepthHead(MapHead):
    """Features -> logarithm of metres [B, 1, H / stride, W / stride]."""

    def __init__(
        self,
        task: Task,
        trunk_channels: Sequence[int],
        neck_channels: int,
        config: DepthConfig | None = None,
    ) -> None:
        """One number per cell."""
        chosen = config or DepthConfig()
        super().__init__(task, trunk_channels, neck_channels, chosen.decoder, 1)
        self.config = chosen

    @staticmethod
    def known(target: Tensor) -> Tensor:
        """Depths above 0."""
        return target > 0

    def errors(self, found: Tensor, target: Tensor) -> Tensor:
        """As configured."""
        logarithm = found[..., 0]
        if self.config.loss == 'l1':
            return (_metres(logarithm) - target).abs()
        return (logarithm - target.where(target > 0, 1).log()).abs()

    def deploy(self, outputs: Tensor) -> dict[str, Tensor]:
        """Metres float32 [B, H / stride, W / stride]."""
        return {self.task.name: _metres(outputs[:, 0].float())}

    def deployed_names(self) -> dict[str, tuple[str, int]]:
        """One map, named as the task."""
        return {self.task.name: ('depth', self.stride)}


def _metres(logarithm: Tensor) -> Tensor:
    return logarithm.clamp(LOWEST, HIGHEST).exp()


class DepthKind(TaskKind):
    """Maps of metres."""

    name = 'depth'
    head = DepthHead
    label_bytes = 4
    is_dense = True

    def label(self, sample: Sample, task: Task) -> Any:
        """Its map."""
        return sample.maps.get(task.name)


KIND = DepthKind()
