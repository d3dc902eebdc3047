# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""HydraNet: one shared trunk and neck, one head per task (hard parameter sharing).

After Tesla's HydraNet (Karpathy, CVPR 2021 workshop talk) and MultiNet (Teichmann et al., 2018);
changed: PVTv2 trunk, light FPN, anchor-free detection head.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mtl_perception.tasks import Task
from training.network_error import NetworkError
from training.networks.base import DeployedNetwork as DeployedHydraNet
from training.networks.base import MultiTaskNetwork, output_specs
from training.networks.neck import make_neck
from training.networks.trunk import Trunk
from training.tasks import Features, HeadOptions, make_head
from training.tasks.own_neck import OwnNeck

__all__ = ['DeployedHydraNet', 'HydraNet', 'output_specs']


class HydraNet(MultiTaskNetwork):
    """A timm trunk, a light FPN and our heads."""

    def __init__(
        self,
        trunk: str,
        tasks: Sequence[Task],
        pretrained: bool = False,
        neck_channels: int = 64,
        drop_path_rate: float = 0.0,
        trunk_weights: str = '',
        options: HeadOptions | None = None,
        own_neck: Sequence[str] = (),
        frozen_stages: int = 0,
        neck: str = 'fpn',
    ) -> None:
        """Build trunk, neck and heads; see `Trunk` for the weights and `NetworkError`.

        own_neck: tasks whose heads have a neck of their own beside the shared one. frozen_stages:
        of the trunk, from stride 4 up, that are not trained. neck: a name of `neck.py`.
        """
        body = Trunk(trunk, pretrained, drop_path_rate, trunk_weights, frozen_stages)
        shared = make_neck(neck, body.channels, neck_channels)
        heads = {
            task.name: make_head(task, body.channels, neck_channels, options) for task in tasks
        }
        needy = [name for name, head in heads.items() if head.reads_neck and neck == 'none']
        if needy:
            raise NetworkError(
                f'neck none: the heads of {needy} read the neck; set their decoder to one that '
                f'reads the trunk (network.segmentation.decoder and so on), or leave them out'
            )
        for name in own_neck:
            heads[name] = OwnNeck(make_neck(neck, body.channels, neck_channels), heads[name])
        super().__init__(body, shared, tasks, heads)

    def features(self, image: Tensor) -> Features:
        """Run trunk and neck once."""
        trunk = self.trunk(image)
        return Features(trunk, self.neck(trunk))
