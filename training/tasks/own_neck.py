# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""A head with a neck of its own between the shared trunk and it.

For a task that is added to a frozen network: the shared neck was shaped by other tasks' losses, and
this one learns what the trunk's features hold for the new one. The others do not notice it.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from training.tasks.base import Features, Head
from training.tasks.wrapped import WrappedHead


class OwnNeck(WrappedHead):
    """Trunk features -> `neck` -> `head`; a head to everybody else."""

    def __init__(self, neck: nn.Module, head: Head) -> None:
        """neck: trunk features -> what the head takes for the shared neck's."""
        super().__init__(head)
        self.neck = neck

    def forward(self, features: Features) -> Any:
        """As the head's, from its own neck."""
        return self.head(Features(features.trunk, self.neck(features.trunk)))
