"""A head with a neck of its own between the shared trunk and it.

For a task that is added to a frozen network: the shared neck was shaped by other tasks' losses, and
this one learns what the trunk's features hold for the new one. The others do not notice it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from training.tasks.base import Features, Head


class OwnNeck(Head):
    """Trunk features -> `neck` -> `head`; a head to everybody else."""

    def __init__(self, neck: nn.Module, head: Head) -> None:
        """neck: trunk features -> what the head takes for the shared neck's."""
        nn.Module.__init__(self)
        self.task = head.task
        self.neck = neck
        self.head = head

    def forward(self, features: Features) -> Any:
        """As the head's, from its own neck."""
        return self.head(Features(features.trunk, self.neck(features.trunk)))

    def loss(self, outputs: Any, targets: Sequence[Any]) -> Tensor:
        """The head's."""
        return self.head.loss(outputs, targets)

    def normaliser(self, targets: Sequence[Any]) -> float:
        """The head's."""
        return self.head.normaliser(targets)

    def deploy(self, outputs: Any) -> dict[str, Tensor]:
        """The head's."""
        return self.head.deploy(outputs)

    def deployed_names(self) -> dict[str, tuple[str, int]]:
        """The head's."""
        return self.head.deployed_names()
