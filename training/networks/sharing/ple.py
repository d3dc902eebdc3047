# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""PLE, progressive layered extraction (Tang et al., RecSys 2020): CGC at one stage after another.

As in `cgc.py`, with experts at each of the later stages of the trunk. Between two stages a task's
gate mixes its own experts and the shared ones, and a further gate mixes all experts of that stage
into what the shared experts of the next one take; at the last stage there are task gates only.
Changed: experts are stages of the trunk, gates look at the mean of the first level that they mix.
Shared: trunk, shared experts and their gates, and all that a task's experts before the last stage
hold, because they reach the other tasks through the shared mixture. The last stage's own experts,
the gates of the last two stages, neck and head are a task's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from training.networks.base import MultiTaskNetwork
from training.networks.sharing.mmoe import LAST, Gate, mixed
from training.networks.sharing.options import within
from training.networks.sharing.parts import Parts
from training.networks.stages import Stage, StagedTrunk
from training.tasks import Features, Head
from training.tasks.base import TaskFeatures
from training.tasks.wrapped import WrappedHead


@dataclass(frozen=True)
class PLEOptions:
    """shared_stages: before the experts. shared_experts, task_experts: how many a stage, a task."""

    shared_stages: int = within(2, 1, LAST - 2)
    shared_experts: int = within(1, 1)
    task_experts: int = within(1, 1)


def experts(parts: Parts, stage: int, count: int) -> nn.ModuleList:
    """So many of one stage of the trunk, each by itself."""
    return nn.ModuleList(parts.stages(stage, stage + 1).stages[0] for _ in range(count))


class Last(WrappedHead):
    """Gates of the last two stages, experts of the last, neck and head of one task.

    Of its features the trunk is the levels before the last two, and the neck the last but one of
    every expert it may mix, then the last of the shared ones.
    """

    def __init__(
        self, channels: Sequence[int], own: nn.ModuleList, shared: int, head: Head
    ) -> None:
        """own: experts of the last stage."""
        super().__init__(head)
        self.shared, self.mixes = shared, shared + len(own)
        self.before = Gate(channels[LAST - 2], self.mixes)
        self.gate = Gate(channels[LAST - 1], self.mixes)
        self.experts = own

    def forward(self, features: TaskFeatures) -> Any:
        """Mix, run the own experts, mix again, answer."""
        own = features.of(self.task.name)
        before, last = own.neck[: self.mixes], [*own.neck[self.mixes :]]
        level = _mixture(self.before, before)
        last += [expert(level) for expert in self.experts]
        return self.head(Features([*own.trunk, level, _mixture(self.gate, last)], []))


class PLE(MultiTaskNetwork):
    """Shared stages, then extraction stage by stage."""

    def __init__(self, parts: Parts, options: PLEOptions) -> None:
        """The trunk is the shared stages."""
        first, shared, own = options.shared_stages, options.shared_experts, options.task_experts
        trunk = parts.stages(0, first)
        channels = trunk.channels
        heads: dict[str, Head] = {}
        for task in parts.tasks:
            last = experts(parts, LAST - 1, own)
            heads[task.name] = Last(channels, last, shared, parts.own(task, channels))
        super().__init__(trunk, nn.Identity(), parts.tasks, heads)
        stages = range(first, LAST - 1)
        self.shared_experts = nn.ModuleList(experts(parts, i, shared) for i in range(first, LAST))
        self.task_experts = nn.ModuleList(
            nn.ModuleDict({t: experts(parts, i, own) for t in parts.names}) for i in stages
        )
        every = shared + own * len(parts.tasks)
        self.shared_gates = nn.ModuleList(Gate(channels[i], every) for i in stages)
        self.task_gates = nn.ModuleList(
            nn.ModuleDict({t: Gate(channels[i], shared + own) for t in parts.names})
            for i in stages[:-1]
        )

    def features(self, image: Tensor) -> TaskFeatures:
        """All stages but the tasks' part of the last."""
        assert isinstance(self.trunk, StagedTrunk)
        levels = self.trunk(self.trunk.start(image))
        names = [task.name for task in self.tasks]
        mine = dict.fromkeys(names, levels[-1])
        common = levels[-1]
        passed: dict[str, list[Tensor]] = {name: [*levels] for name in names}
        offered: dict[str, list[Tensor]] = {}
        for i, own in enumerate(self.task_experts):
            shared = _run(self.shared_experts[i], common)
            found = {name: _run(own[name], mine[name]) for name in names}  # type: ignore[index]
            offered = {name: [*shared, *found[name]] for name in names}
            every = [*shared, *(x for maps in found.values() for x in maps)]
            common = _mixture(self.shared_gates[i], every)
            if i < len(self.task_gates):
                gates: Mapping[str, Gate] = self.task_gates[i]  # type: ignore[assignment]
                mine = {name: _mixture(gates[name], offered[name]) for name in names}
                for name in names:
                    passed[name].append(mine[name])
        last = _run(self.shared_experts[-1], common)

        def make(task: str, index: Tensor | None) -> Features:
            own = Features(passed[task], [*offered[task], *last])
            return own if index is None else own.rows(index)

        return TaskFeatures(make, next(self.trunk.parameters()))


def _run(stages: Any, x: Tensor) -> list[Tensor]:
    modules: Sequence[Stage] = stages
    return [stage(x) for stage in modules]


def _mixture(gate: nn.Module, maps: Sequence[Tensor]) -> Tensor:
    """Weighted by a gate that looks at the first map."""
    return mixed(gate(maps[0]), [[x] for x in maps])[0]
