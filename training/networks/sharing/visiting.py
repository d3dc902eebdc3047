# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""One trunk that every task runs through by itself, with something of its own at every block.

Adapters, AdaShare and MoE-FFN are such. What belongs to a task lies in its head, as a `Visitor`;
the trunk's blocks are wrapped and ask the visitor whose turn it is. A task's run takes the images
that it labels and no others. Each run costs a whole trunk: sharing here saves parameters, not time.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn

from training.networks.base import MultiTaskNetwork
from training.networks.sharing.parts import Parts
from training.networks.stages import StagedTrunk
from training.tasks import Features, Head
from training.tasks.base import TaskFeatures
from training.tasks.targets import TaskTargets
from training.tasks.wrapped import WrappedHead


class Visitor(nn.Module):
    """What one task does at the blocks of the shared trunk."""

    @abstractmethod
    def visit(self, number: int, block: nn.Module, x: Tensor, *more: Any) -> Tensor:
        """In place of `block(x, *more)`, for the number-th wrapped block."""

    def penalty(self) -> Tensor | None:
        """Of the last run: added to the task's mean loss; None for nothing."""
        return None


class Turn:
    """Whose run it is."""

    visitor: Visitor | None = None

    @contextmanager
    def of(self, visitor: Visitor) -> Iterator[None]:
        """Until the block is left."""
        self.visitor = visitor
        try:
            yield
        finally:
            self.visitor = None


class Visited(nn.Module):
    """A block that asks the visitor, if there is one."""

    def __init__(self, block: nn.Module, turn: Turn, number: int) -> None:
        """number: as visitors know the block."""
        super().__init__()
        self.block = block
        self.turn = turn
        self.number = number

    def forward(self, x: Tensor, *more: Any) -> Tensor:
        """As the block, or as the visitor has it."""
        if self.turn.visitor is None:
            return self.block(x, *more)
        return self.turn.visitor.visit(self.number, self.block, x, *more)


class Answer(NamedTuple):
    """Outputs of the head, and the penalty of the run that they come from."""

    outputs: Any
    penalty: Tensor | None


class Penalised(WrappedHead):
    """A head whose forward pass gives an `Answer`."""

    def loss(self, outputs: Answer, targets: TaskTargets) -> Tensor:
        """The head's, and the penalty as often as the loss is divided by later."""
        total = self.head.loss(outputs.outputs, targets)
        if outputs.penalty is None:
            return total
        return total + outputs.penalty * self.head.normaliser(targets)

    def deploy(self, outputs: Answer) -> dict[str, Tensor]:
        """The head's."""
        return self.head.deploy(outputs.outputs)


class Visiting(Penalised):
    """Visitor, neck and head of one task."""

    def __init__(self, visitor: Visitor, head: Head) -> None:
        """head: with its neck."""
        super().__init__(head)
        self.visitor = visitor

    def forward(self, features: TaskFeatures) -> Answer:
        """Run the trunk in this task's turn, then the head."""
        outputs = self.head(features.of(self.task.name))
        return Answer(outputs, self.visitor.penalty() if self.training else None)


class VisitedNetwork(MultiTaskNetwork):
    """A trunk whose blocks are `Visited`, and visiting heads."""

    trunk: StagedTrunk

    def __init__(
        self, parts: Parts, trunk: StagedTrunk, turn: Turn, visitors: Mapping[str, Visitor]
    ) -> None:
        """visitors: by task."""
        heads = {
            task.name: Visiting(visitors[task.name], parts.own(task, trunk.channels))
            for task in parts.tasks
        }
        super().__init__(trunk, nn.Identity(), parts.tasks, heads)
        self.turn = turn

    def features(self, image: Tensor) -> TaskFeatures:
        """The image; a task's run begins when its head asks."""

        def make(task: str, index: Tensor | None) -> Features:
            head = self.head(task)
            assert isinstance(head, Visiting)
            with self.turn.of(head.visitor):
                start = self.trunk.start(image if index is None else image[index])
                return Features(self.trunk(start), [])

        return TaskFeatures(make, next(self.trunk.parameters()))


def wrap(places: Sequence[tuple[nn.Module, str, nn.Module]], turn: Turn) -> None:
    """Put a `Visited` around each module; places: parent, name, module."""
    for number, (parent, name, block) in enumerate(places):
        setattr(parent, name, Visited(block, turn, number))
