"""HydraNet: one shared trunk and neck, one head a task (hard parameter sharing).

After Tesla's HydraNet (Karpathy, CVPR 2021 workshop talk) and MultiNet (Teichmann et al., 2018);
changed: PVTv2 trunk, light FPN, anchor-free detection head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mtl_perception.bundle import OutputSpec
from mtl_perception.tasks import Task
from training.networks.neck import FPN
from training.networks.trunk import Trunk
from training.tasks import Features, Head, make_head


class HydraNet(nn.Module):
    """Shared features and the heads that read them, one a task.

    `features` takes uint8 [B, 3, H, W] RGB; `head(task)` takes features, or chosen rows of them,
    which is how unlabelled images cost a head nothing. It has no forward of its own: training runs
    it through `training.train.TaskLosses`, deployment through `DeployedHydraNet`.
    """

    def __init__(
        self,
        trunk: str,
        tasks: Sequence[Task],
        pretrained: bool = False,
        neck_channels: int = 64,
        drop_path_rate: float = 0.0,
    ) -> None:
        """Build trunk, neck and a head for each task (module names are the task names)."""
        super().__init__()
        self.trunk = Trunk(trunk, pretrained, drop_path_rate)
        self.neck = FPN(self.trunk.channels, neck_channels)
        self.tasks = tuple(tasks)
        self.heads = nn.ModuleDict(
            {task.name: make_head(task, self.trunk.channels, neck_channels) for task in tasks}
        )

    def features(self, image: Tensor) -> Features:
        """Run trunk and neck once."""
        trunk = self.trunk(image)
        return Features(trunk, self.neck(trunk))

    def head(self, task: str) -> Head:
        """The head of a task."""
        head = self.heads[task]
        assert isinstance(head, Head)
        return head


class DeployedHydraNet(nn.Module):
    """The graph of DESIGN.md section 2: uint8 [B, H, W, 3] in, the manifest's small tensors out."""

    def __init__(self, network: HydraNet) -> None:
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


def output_specs(network: HydraNet, height: int, width: int) -> tuple[OutputSpec, ...]:
    """What `DeployedHydraNet` returns for an input size, found by running it once."""
    deployed = DeployedHydraNet(network).eval()
    with torch.no_grad():
        outputs = deployed(torch.zeros(1, height, width, 3, dtype=torch.uint8))
    owner: Mapping[str, tuple[str, str, int]] = {
        name: (task.name, meaning, stride)
        for task in network.tasks
        for name, (meaning, stride) in network.head(task.name).deployed_names().items()
    }
    return tuple(
        OutputSpec(
            name, owner[name][0], owner[name][1], str(tensor.dtype).removeprefix('torch.'),
            tuple(tensor.shape[1:]), owner[name][2],
        )  # type: ignore[arg-type]
        for name, tensor in outputs.items()
    )  # fmt: skip
