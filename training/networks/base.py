# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What every network offers: shared features, one head per task, and the graph that is deployed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from mtl_perception.bundle import OutputSpec
from mtl_perception.tasks import Task
from training.network_error import NetworkError
from training.tasks import Features, Head
from training.tasks.base import TaskFeatures


class MultiTaskNetwork(nn.Module, ABC):
    """trunk and neck make shared features, the heads read them; module names are the task names.

    `features` takes uint8 [B, 3, H, W] RGB; `head(task)` takes features, or chosen rows of them,
    which is how unlabelled images cost a head nothing. What it takes is a `Features` that all heads
    read, or, where tasks have features of their own (`sharing/`), a `TaskFeatures`. There is no
    forward of its own: training runs it through `training.train.TaskLosses`, deployment through
    `DeployedNetwork`.
    """

    def __init__(
        self, trunk: nn.Module, neck: nn.Module, tasks: Sequence[Task], heads: Mapping[str, Head]
    ) -> None:
        """heads: one for each task. Raises NetworkError where two name a tensor alike."""
        super().__init__()
        owners: dict[str, str] = {}
        for task, head in heads.items():
            for tensor in head.deployed_names():
                if (other := owners.setdefault(tensor, task)) != task:
                    raise NetworkError(
                        f'tasks {other!r} and {task!r} both have an output {tensor!r}, and a graph '
                        f'has one of that name: train them apart, or define one of them anew under '
                        f'a name of your own'
                    )
        self.trunk = trunk
        self.neck = neck
        self.tasks = tuple(tasks)
        self.heads = nn.ModuleDict(heads)

    @abstractmethod
    def features(self, image: Tensor) -> Features | TaskFeatures:
        """What several heads read; a structure may leave a task's own part to its head."""

    def shared_parameters(self) -> tuple[nn.Parameter, ...]:
        """Trained parameters that are in no task's head: what gradient balancing looks at.

        A head holds all that its own task's loss alone reaches, so these are the parameters that
        the losses of several tasks can reach.
        """
        from training.balancing.gradients import split_parameters  # brings torchjd with it

        return split_parameters(self, dict(self.heads.items())).shared

    def head(self, task: str) -> Head:
        """The head of a task."""
        return cast(Head, self.heads[task])


class DeployedNetwork(nn.Module):
    """The graph of a bundle: uint8 [B, H, W, 3] in, the manifest's small tensors out."""

    def __init__(self, network: MultiTaskNetwork) -> None:
        """Wrap a trained network; outputs follow `network.tasks` in order."""
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Outputs by tensor name."""
        features = self.network.features(image.permute(0, 3, 1, 2))
        outputs: dict[str, Tensor] = {}
        for task in self.network.tasks:
            head = self.network.head(task.name)
            outputs.update(head.deploy(head(features)))
        return outputs


def output_specs(network: MultiTaskNetwork, height: int, width: int) -> tuple[OutputSpec, ...]:
    """What `DeployedNetwork` returns for an input size, found by running it once."""
    deployed = DeployedNetwork(network).eval()
    device = next(network.parameters()).device
    with torch.no_grad():
        outputs = deployed(torch.zeros(1, height, width, 3, dtype=torch.uint8, device=device))
    owner = {
        name: (task.name, meaning, stride)
        for task in network.tasks
        for name, (meaning, stride) in network.head(task.name).deployed_names().items()
    }
    return tuple(
        OutputSpec(
            name,
            owner[name][0],
            owner[name][1],
            str(tensor.dtype).removeprefix('torch.'),
            tuple(tensor.shape[1:]),
            owner[name][2],
        )
        for name, tensor in outputs.items()
    )
