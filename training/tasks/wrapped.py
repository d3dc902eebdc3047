# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""A head around a head: everything but the forward pass is the inner one's."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from training.tasks.base import Head
from training.tasks.targets import Counting, TaskTargets


class WrappedHead(Head):
    """Subclasses say what the inner head reads."""

    def __init__(self, head: Head) -> None:
        """Take the task of the inner head."""
        nn.Module.__init__(self)
        self.task = head.task
        self.reads_neck = head.reads_neck
        self.head = head

    def loss(self, outputs: Any, targets: TaskTargets) -> Tensor:
        """The head's."""
        return self.head.loss(outputs, targets)

    def counting(self) -> Counting:
        """The head's."""
        return self.head.counting()

    def deploy(self, outputs: Any) -> dict[str, Tensor]:
        """The head's."""
        return self.head.deploy(outputs)

    def deployed_names(self) -> dict[str, tuple[str, int]]:
        """The head's."""
        return self.head.deployed_names()
