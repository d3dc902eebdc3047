# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Losses that are still on the device: read for many steps at once.

To read a number, the host waits until the device has computed it, and the device then waits for the
host's next step. So an ordinary step reads nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


class StepLosses(NamedTuple):
    """Losses of a step by task, float32 [T] on the device; labelled: those that have labels."""

    means: Tensor
    labelled: Sequence[bool]


@dataclass(frozen=True)
class StepRecord:
    """A step that was made: what the board writes.

    made_s: `time.monotonic` when the host was done with it. weights: what a balancing method gave
    the tasks; empty where it has none.
    """

    step: int
    losses: Mapping[str, float]
    gradient_norm: float
    lr: float
    made_s: float
    weights: Mapping[str, float] = field(default_factory=dict)

    @property
    def has_finite_losses(self) -> bool:
        """Whether no loss is NaN or infinite."""
        return all(map(math.isfinite, self.losses.values()))


class Unread:
    """Steps whose losses and gradient norms have not been read yet."""

    def __init__(self, tasks: Sequence[str]) -> None:
        """tasks: in the order of the losses."""
        self.tasks = tasks
        self.values: list[Tensor] = []
        self.made: list[tuple[int, Sequence[bool], float, float, Mapping[str, float]]] = []

    def add(
        self, step: int, losses: StepLosses, norm: Tensor, lr: float, weights: Mapping[str, float]
    ) -> None:
        """Keep a step; norm: of its gradients, a scalar on the device."""
        self.values.append(torch.cat((losses.means, norm.reshape(1))))
        self.made.append((step, losses.labelled, lr, time.monotonic(), weights))

    def read(self) -> list[StepRecord]:
        """All steps since the last call, in one read of the device."""
        rows = torch.stack(self.values).tolist() if self.values else []
        records = []
        for (step, labelled, lr, made_s, weights), (*means, norm) in zip(
            self.made, rows, strict=True
        ):
            named = zip(self.tasks, means, labelled, strict=True)
            losses = {task: mean for task, mean, there in named if there}
            records.append(StepRecord(step, losses, norm, lr, made_s, weights))
        self.values, self.made = [], []
        return records
