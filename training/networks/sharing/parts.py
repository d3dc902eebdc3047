# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What the structures are built from: trunks, necks and heads as the configuration has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from mtl_perception.tasks import Task
from training.config import NetworkConfig
from training.network_error import NetworkError
from training.networks.neck import make_neck
from training.networks.stages import StagedTrunk
from training.networks.trunk import STRIDES, Trunk
from training.tasks import KINDS, Head, make_head
from training.tasks.base import TaskFeatures
from training.tasks.own_neck import OwnNeck
from training.tasks.wrapped import WrappedHead

DENSE = tuple(kind.name for kind in KINDS.values() if kind.is_dense)
"""Kinds whose answer is a map."""


@dataclass(frozen=True)
class Parts:
    """initialise: load ImageNet weights into every trunk that is made."""

    config: NetworkConfig
    tasks: tuple[Task, ...]
    initialise: bool

    @property
    def names(self) -> list[str]:
        """Of the tasks."""
        return [task.name for task in self.tasks]

    def trunk(self) -> Trunk:
        """A trunk of its own, with ImageNet weights where there are any."""
        config = self.config
        weights = config.trunk_weights if self.initialise else ''
        pretrained = config.pretrained and self.initialise
        return Trunk(config.trunk, pretrained, config.drop_path_rate, weights)

    def stages(self, first: int = 0, last: int = len(STRIDES)) -> StagedTrunk:
        """The same cut into stages; only levels `first` to `last` - 1."""
        return StagedTrunk(self.trunk(), first, last)

    def neck(self, channels: Sequence[int]) -> nn.Module:
        """The configured neck over features of these channels."""
        return make_neck(self.config.neck, channels, self.config.neck_channels)

    def head(self, task: Task, channels: Sequence[int], options: Any = None) -> Head:
        """A head over trunk features of these channels and the configured neck's.

        Raises NetworkError for a head that wants a neck where the configuration has none.
        """
        head = make_head(task, channels, self.config.neck_channels, options or self.config)
        if head.reads_neck and self.config.neck == 'none':
            raise NetworkError(
                f'neck none: the head of {task.name!r} reads the neck; set '
                f'network.{task.kind}.decoder to one that reads the trunk, or leave the task out'
            )
        return head

    def own(self, task: Task, channels: Sequence[int]) -> Head:
        """A head with a neck of its own, if it reads one."""
        head = self.head(task, channels)
        return OwnNeck(self.neck(channels), head) if head.reads_neck else head


class OfTask(WrappedHead):
    """A head that takes its task's part of `TaskFeatures`."""

    def forward(self, features: TaskFeatures) -> Any:
        """The head's."""
        return self.head(features.of(self.task.name))
