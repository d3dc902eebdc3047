# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""CGC, the gate control of PLE (Tang et al., "Progressive Layered Extraction", RecSys 2020).

As MMoE, but a task's gate mixes the shared experts and experts of its own only:
f_t(x) = sum_e g_t(x)_e [f_shared(x), f_t(x)]_e, g_t(x) = softmax(W_t x). As in `mmoe.py` the
experts are copies of the trunk's later stages; further extraction levels are `ple.py`'s. Shared:
trunk and shared experts. A task's own experts, gate, neck and head are its own, and run for the
images that it labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from training.networks.base import MultiTaskNetwork
from training.networks.sharing.mmoe import LAST, Gate, expert_features, mixed
from training.networks.sharing.options import within
from training.networks.sharing.parts import Parts
from training.networks.stages import StagedTrunk
from training.tasks import Features, Head
from training.tasks.wrapped import WrappedHead


@dataclass(frozen=True)
class CGCOptions:
    """shared_stages: before the experts. shared_experts, task_experts: how many, and a task."""

    shared_stages: int = within(3, 0, LAST - 1)
    shared_experts: int = within(1, 1)
    task_experts: int = within(1, 1)


class Extracting(WrappedHead):
    """Own experts, gate, neck and head of one task; it takes what `mmoe.Gated` takes."""

    def __init__(
        self,
        options: CGCOptions,
        channels: Sequence[int],
        experts: Sequence[StagedTrunk],
        head: Head,
    ) -> None:
        """experts: the task's own."""
        super().__init__(head)
        self.shared = options.shared_experts
        self.shared_stages = options.shared_stages
        self.experts = nn.ModuleList(experts)
        self.gate = Gate(([3, *channels])[self.shared_stages], self.shared + len(experts))

    def forward(self, features: Features) -> Any:
        """Run the own experts, mix, answer."""
        last, own = features.trunk[-1], LAST - self.shared_stages
        experts = [features.neck[i * own : (i + 1) * own] for i in range(self.shared)]
        experts += [expert(last) for expert in self.experts]
        mixture = mixed(self.gate(last), experts)
        return self.head(Features([*features.trunk[: self.shared_stages], *mixture], []))


class CGC(MultiTaskNetwork):
    """Shared stages and experts, extracting heads."""

    def __init__(self, parts: Parts, options: CGCOptions) -> None:
        """The trunk is the shared stages."""
        first = options.shared_stages
        trunk = parts.stages(0, first)
        heads: dict[str, Head] = {}
        for task in parts.tasks:
            own = [parts.stages(first) for _ in range(options.task_experts)]
            head = parts.own(task, trunk.channels)
            heads[task.name] = Extracting(options, trunk.channels, own, head)
        super().__init__(trunk, nn.Identity(), parts.tasks, heads)
        self.experts = nn.ModuleList(parts.stages(first) for _ in range(options.shared_experts))

    def features(self, image: Tensor) -> Features:
        """Shared levels, and all levels of the shared experts."""
        return expert_features(self.trunk, self.experts, image)
