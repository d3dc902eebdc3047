# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What PAD-Net and MTI-Net have in common: first answers, and messages between tasks.

Dense tasks (masks, depth, normals) answer twice. The first answers exist for their losses only and
are left out of the deployed graph; detection and classification neither send nor receive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mtl_perception.tasks import Task
from training import tasks as kinds
from training.config import NetworkConfig
from training.network_error import NetworkError
from training.networks.sharing.options import within
from training.networks.sharing.parts import DENSE, OfTask, Parts
from training.tasks import Features, Head
from training.tasks.base import TaskFeatures
from training.tasks.decoders import FINEST_DECODER, FPN_DECODER
from training.tasks.targets import TaskTargets
from training.tasks.wrapped import WrappedHead


@dataclass(frozen=True)
class DistilledOptions:
    """first_weight: of the first answers' losses, at each scale where there are several."""

    first_weight: float = within(1.0, 0.0)


class TwoAnswers(NamedTuple):
    """last: of the final head; first: of the first ones, in training only."""

    last: Any
    first: list[Any]


class Distilled(WrappedHead):
    """A final head, and first ones whose losses are added times `weight`.

    Its features' neck is what the final head reads, then one level for each first head.
    """

    def __init__(self, head: Head, first: Sequence[Head], weight: float) -> None:
        """first: heads that read one level each."""
        super().__init__(head)
        self.first = nn.ModuleList(first)
        self.weight = weight

    def forward(self, features: TaskFeatures) -> TwoAnswers:
        """Both answers; the first ones only where they have a loss."""
        own = features.of(self.task.name)
        count = len(own.neck) - len(self.first)
        last = self.head(Features(own.trunk, own.neck[:count]))
        if not self.training:
            return TwoAnswers(last, [])
        pairs = zip(self.first, own.neck[count:], strict=True)
        return TwoAnswers(last, [head(Features(own.trunk, [level])) for head, level in pairs])

    def loss(self, outputs: TwoAnswers, targets: TaskTargets) -> Tensor:
        """Of the last answer, and of the first ones."""
        total = self.head.loss(outputs.last, targets)
        for head, answer in zip(self.first, outputs.first, strict=False):
            total = total + self.weight * head.loss(answer, targets)  # type: ignore[operator]
        return total

    def deploy(self, outputs: TwoAnswers) -> dict[str, Tensor]:
        """The last answer's."""
        return self.head.deploy(outputs.last)


class Messages(nn.Module):
    """Attention-guided message passing (PAD-Net, module C), between maps of one size.

    F_k + sum over the other tasks t of sigmoid(W_g F_t) * (W F_t), with weights for each pair.
    """

    def __init__(self, tasks: Sequence[str], channels: int) -> None:
        """A gate a sender, a message a pair."""
        super().__init__()
        others = tasks if len(tasks) > 1 else []
        self.gate = nn.ModuleDict({t: nn.Conv2d(channels, channels, 3, padding=1) for t in others})
        self.message = nn.ModuleDict(
            {
                to: nn.ModuleDict(
                    {t: nn.Conv2d(channels, channels, 3, padding=1) for t in tasks if t != to}
                )
                for to in others
            }
        )

    def forward(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """By task; a task alone gets no message."""
        gates = {t: self.gate[t](maps[t]).sigmoid() for t in self.gate}
        distilled = dict(maps)
        for to, senders in self.message.items():
            for t, message in senders.items():  # type: ignore[operator]
                distilled[to] = distilled[to] + gates[t] * message(maps[t])
        return distilled


def dense_tasks(tasks: Sequence[Task]) -> list[str]:
    """Names of the tasks that exchange messages."""
    return [task.name for task in tasks if kinds.of(task).is_dense]


def distilled_heads(
    parts: Parts, structure: str, channels: Sequence[int], decoder: str, levels: int, weight: float
) -> dict[str, Head]:
    """Heads by task: of dense tasks a final one and one for each of `levels`, of others the usual.

    structure: its name, for errors. channels: of the trunk. decoder, weight: of the final heads, of
    the first ones' losses. Raises NetworkError.
    """
    config = parts.config
    last, first = _last_options(config, structure, decoder), _first_options(config)
    heads: dict[str, Head] = {}
    for task in parts.tasks:
        if kinds.of(task).is_dense:
            answers = [parts.head(task, channels, first) for _ in range(levels)]
            heads[task.name] = Distilled(parts.head(task, channels, last), answers, weight)
        else:
            heads[task.name] = OfTask(parts.head(task, channels))
    return heads


def _first_options(config: NetworkConfig) -> NetworkConfig:
    """Options of heads that read one level, without deep supervision."""
    return _with_decoder(config, FINEST_DECODER, auxiliary=0.0)


def _last_options(config: NetworkConfig, structure: str, decoder: str) -> NetworkConfig:
    """Options of the final heads; raises NetworkError where others were asked for."""
    for kind in DENSE:
        asked = getattr(config, kind).decoder
        if asked != FPN_DECODER:
            raise NetworkError(
                f'{structure} decodes by itself: network.{kind}.decoder is {asked!r}, leave it at '
                f'{FPN_DECODER!r}'
            )
    if config.neck == 'none':
        raise NetworkError(f'{structure} works on the levels of the neck: set network.neck to fpn')
    return _with_decoder(config, decoder)


def _with_decoder(config: NetworkConfig, decoder: str, **segmentation: Any) -> NetworkConfig:
    return replace(
        config,
        segmentation=replace(config.segmentation, decoder=decoder, **segmentation),
        depth=replace(config.depth, decoder=decoder),
        normals=replace(config.normals, decoder=decoder),
    )


def features_of(
    shared: Features, necks: Mapping[str, Sequence[Tensor]], anchor: Tensor
) -> TaskFeatures:
    """`necks` for the tasks that have one, the shared neck for the others."""

    def make(task: str, index: Tensor | None) -> Features:
        own = Features(shared.trunk, necks.get(task, shared.neck))
        return own if index is None else own.rows(index)

    return TaskFeatures(make, anchor)


def stacked(maps: Mapping[str, Tensor]) -> Tensor:
    """All tasks' channels one after another."""
    return torch.cat(list(maps.values()), dim=1)
