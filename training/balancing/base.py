# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What every balancing method is: losses of a step in, `.grad` of every parameter out.

The training loop, on every rank, with its forward passes outside of DDP's own synchronisation
(`fabric.no_backward_sync`):

    for part in parts:                        # one, unless gradients are accumulated
        balancer.backward(step, losses)       # task -> scalar; tasks without labels left out
    weights = balancer.combine()              # `.grad` is filled and equal on all ranks
    clip; optimizer.step()
    if balancer.needs_after_step:             # FAMO
        balancer.after_step(losses of the same images, now)

A task's loss of a step is the mean over ranks of the sum over parts of what `backward` was given,
and is labelled ("present") when any of them had it. Random draws are functions of (seed, step) and
equal on all ranks; `state` holds everything that a resumed run needs.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from training.balancing.gradients import (
    Backward,
    CutFeatures,
    Parameters,
    mean_over_ranks,
)
from training.balancing.options import BalancingError, NoOptions

log = logging.getLogger(__name__)

Validation = Callable[[], Mapping[str, Tensor]]
"""Runs an extra batch and returns its losses, task -> scalar."""


@dataclass(frozen=True)
class Labelled:
    """The tasks of a step that any part on any rank had labels for: M of all T.

    losses: float64 [M]; present: bool [T].
    """

    tasks: tuple[str, ...]
    losses: Tensor
    present: Tensor


class Balancer(ABC):
    """Shared bookkeeping; see the module's docstring for how a loop uses it.

    Attributes:
        state: float64 or int64 vectors [T] in the order of `tasks` on the CPU, and of some methods
            float32 [T, N] beside the parameters.
    """

    Options: ClassVar[type] = NoOptions
    name: ClassVar[str]
    positive: bool = False
    """Takes logarithms of losses, or divides by them: they must not be negative, and a task whose
    loss is exactly zero counts as unlabelled in that step."""
    needs_after_step: ClassVar[bool] = False
    needs_validation: ClassVar[bool] = False
    needs_features: bool = False

    def __init__(
        self, options: Any, parameters: Parameters, seed: int, parts: int, backward: Backward
    ) -> None:
        """Use `make_balancer`, which validates."""
        self.options = options
        self.parameters = parameters
        self.tasks = tuple(parameters.heads)
        self.seed, self.parts = seed, parts
        self.state: dict[str, Tensor]
        self._run_backward = backward
        self._losses: list[Mapping[str, Tensor]] = []
        self._warned = False
        everything = [p for head in parameters.heads.values() for p in head]
        self._everything = [*parameters.shared, *everything]
        self.device = self._everything[0].device
        self.start()

    def start(self) -> None:
        """Make the state, if the method has one; raise BalancingError for what cannot work."""
        self.state = {}

    def backward(
        self, step: int, losses: Mapping[str, Tensor], features: CutFeatures | None = None
    ) -> None:
        """Differentiate the losses of one part of a step; every rank calls it for every part.

        losses: task -> scalar with a graph. features: what the heads read, for methods with
        `needs_features`. Raises BalancingError.
        """
        for task, loss in losses.items():
            if task not in self.tasks or loss.ndim:
                raise BalancingError(
                    f'{self.name}: expected one scalar loss for some of the tasks '
                    f'{list(self.tasks)}, found {task!r} of shape {tuple(loss.shape)}'
                )
        if len(self._losses) == self.parts:
            raise BalancingError(
                f'{self.name}: more than {self.parts} calls of backward() in step {step}; call '
                f'combine() after {self.parts}, or make the balancer with as many parts as there '
                f'are'
            )
        if self.needs_features and features is None:
            raise BalancingError(
                f'{self.name} with gradients=features: backward() was given no features; let the '
                f'heads read the leaves of CutFeatures and hand it over'
            )
        if not self._losses:
            self.step = step
            for parameter in self._everything:
                parameter.grad = None
        self._losses.append({task: loss.detach() for task, loss in losses.items()})
        self.differentiate(losses, features)

    def combine(self, validation: Validation | None = None) -> dict[str, float]:
        """End a step: fill `.grad`, equal on all ranks, and update the state.

        validation: for methods with `needs_validation`. A task that nobody has labels for has no
        `.grad` afterwards. Returns the weight of each labelled task, for logging; empty where a
        method has no weights. Raises BalancingError.
        """
        if len(self._losses) != self.parts:
            raise BalancingError(
                f'{self.name}: combine() after {len(self._losses)} calls of backward(), expected '
                f'{self.parts}'
            )
        if self.needs_validation and validation is None:
            raise BalancingError(
                f'{self.name}: combine() was given no validation batch; pass a function that runs '
                f'one and returns its losses'
            )
        labelled = self.labelled(self._losses)
        self._losses, self.validation = [], validation
        if not labelled.tasks:
            for parameter in self._everything:
                parameter.grad = None
            return {}
        weights = self.merge(labelled)
        for parameter in self.own([task for task in self.tasks if task not in labelled.tasks]):
            parameter.grad = None
        return dict(zip(labelled.tasks, weights.tolist(), strict=False))

    @abstractmethod
    def differentiate(self, losses: Mapping[str, Tensor], features: CutFeatures | None) -> None:
        """Run the backward passes of one part."""

    @abstractmethod
    def merge(self, labelled: Labelled) -> Tensor:
        """Fill `.grad` of shared parameters and labelled heads; weights [M], or [0]."""

    def after_step(self, losses: Mapping[str, Tensor]) -> None:
        """Take the step's losses again, after the optimiser's step (`needs_after_step`)."""
        raise BalancingError(f'{self.name} has no use for losses after the step')

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that changes from step to step; tensors only."""
        return {name: tensor.clone() for name, tensor in self.state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue as the balancer that gave `state`; raises BalancingError when it differs."""
        expected = {name: tuple(tensor.shape) for name, tensor in self.state.items()}
        found = {name: tuple(tensor.shape) for name, tensor in state.items()}
        if found != expected:
            raise BalancingError(
                f'{self.name}: the saved state does not fit: expected {expected}, found {found}; '
                f'resume with the tasks, network and balancing method that the run began with'
            )
        for name, tensor in self.state.items():
            tensor.copy_(state[name])

    def labelled(self, parts: Sequence[Mapping[str, Tensor]]) -> Labelled:
        """Losses of the step over parts and ranks; raises BalancingError for unusable ones."""
        sums = torch.zeros(2, len(self.tasks), dtype=torch.float64, device=self.device)
        for losses in parts:
            for task, loss in losses.items():
                sums[0, self.tasks.index(task)] += loss.detach()
                sums[1, self.tasks.index(task)] += 1
        total, count = mean_over_ranks(sums).cpu()
        present = count > 0
        for task, loss in zip(self.tasks, total.tolist(), strict=True):
            if not np.isfinite(loss) or (self.positive and loss < 0):
                raise BalancingError(
                    f'{self.name}: the loss of {task!r} at step {self.step} is {loss:g}, expected '
                    + ('a positive number, because the method takes the logarithm of losses or '
                       'divides by them; use a loss that cannot be negative, or another method'
                       if self.positive else 'a finite number')
                )  # fmt: skip
        if self.positive:
            self._warn_of_zero(present & (total == 0))
            present = present & (total > 0)
        tasks = tuple(t for t, there in zip(self.tasks, present.tolist(), strict=True) if there)
        return Labelled(tasks, total[present], present)

    def _warn_of_zero(self, zero: Tensor) -> None:
        if zero.any() and not self._warned:
            self._warned = True
            log.warning(
                '%s: the loss of %s at step %d is 0, which has no logarithm; such a task counts '
                'as unlabelled in its step',
                self.name, self.tasks[int(zero.nonzero()[0])], self.step,
            )  # fmt: skip

    def own(self, tasks: Sequence[str]) -> list[nn.Parameter]:
        """Parameters of the heads of some tasks."""
        return [p for task in tasks for p in self.parameters.heads[task]]

    def scale_heads(self, tasks: Sequence[str], factors: Tensor) -> None:
        """Multiply `.grad` of each task's head; factors [M]."""
        for task, factor in zip(tasks, factors.tolist(), strict=True):
            for parameter in self.parameters.heads[task]:
                if parameter.grad is not None:
                    parameter.grad *= factor

    def vector(self, value: float) -> Tensor:
        """A new float64 [T] of one value."""
        return torch.full((len(self.tasks),), value, dtype=torch.float64)

    def per_task(self, given: Mapping[str, float], default: float) -> Tensor:
        """An option given by task, float64 [T]."""
        return torch.tensor([given.get(t, default) for t in self.tasks], dtype=torch.float64)

    def generator(self) -> torch.Generator:
        """Random numbers of this step, on the CPU."""
        return torch.Generator().manual_seed(self._step_seed())

    @contextmanager
    def seeded(self) -> Iterator[None]:
        """Make torch's global generators those of this step, and restore them."""
        with torch.random.fork_rng([self.device] if self.device.type == 'cuda' else []):
            torch.manual_seed(self._step_seed())
            yield

    def _step_seed(self) -> int:
        words = np.random.SeedSequence([self.seed, self.step]).generate_state(1, np.uint64)
        return int(words[0] >> np.uint64(1))
