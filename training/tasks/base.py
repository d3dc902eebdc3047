"""What every head offers: training outputs, a loss on the labelled rows, and a deployed form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mtl_perception.tasks import Task


@dataclass(frozen=True)
class Features:
    """Shared features of a batch: lists over strides 4, 8, 16, 32 of [B, C, H/s, W/s]."""

    trunk: Sequence[Tensor]
    neck: Sequence[Tensor]

    def rows(self, index: Tensor) -> Features:
        """The features of some images of the batch; int64 [N]."""
        if len(index) == len(self.trunk[0]):
            return self
        return Features([f[index] for f in self.trunk], [f[index] for f in self.neck])


class Head(nn.Module, ABC):
    """One task's head.

    Targets of a batch are in the collated form that `collate` makes from one value an image, None
    where the image is not labelled for the task.
    """

    def __init__(self, task: Task, trunk_channels: Sequence[int], neck_channels: int) -> None:
        """Keep the task; subclasses add their layers."""
        super().__init__()
        self.task = task

    @abstractmethod
    def forward(self, features: Features) -> Any:
        """Training outputs, handed to `loss` or `deploy`."""

    @abstractmethod
    def loss(self, outputs: Any, targets: Sequence[Any]) -> Tensor:
        """Loss summed, not averaged, over the rows; one target a row, none of them None.

        Whatever the head adds up is counted in the unit of `normaliser`: the training loop divides
        the sums of all ranks and accumulated parts by the sum of their normalisers.
        """

    @abstractmethod
    def normaliser(self, targets: Sequence[Any]) -> float:
        """What summed losses are divided by: labelled pixels, truth boxes or images.

        A function of the targets alone, and additive over them. So it is known before the forward
        pass, and one batch, its parts and its shares on several GPUs give the same mean.
        """

    @abstractmethod
    def deploy(self, outputs: Any) -> dict[str, Tensor]:
        """Outputs of the deployed graph by tensor name."""

    @abstractmethod
    def deployed_names(self) -> dict[str, tuple[str, int]]:
        """Tensor name -> (meaning as in `bundle.Meaning`, stride in input pixels)."""
