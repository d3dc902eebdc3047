# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""One training step: the losses of a batch, and what becomes the gradient of every parameter.

A loss is the mean over the labels of the whole step, however many devices and parts it is taken in:
summed losses are divided by normalisers that are known beforehand, so parts and processes only add
up. `balancing: {method: equal}` sums the losses and leaves the rest to DDP. Every other method of
`training.balancing` gets the losses task by task, and brings the processes together by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from training.balancing import (
    Balancer,
    BalancingError,
    CutFeatures,
    make_balancer,
    split_parameters,
)
from training.config import ConfigError, RunConfig
from training.device import fitting_images
from training.networks.base import MultiTaskNetwork
from training.processes import Processes, reaches_everything
from training.tasks import Features
from training.tasks.base import TaskFeatures
from training.tasks.targets import Targets, TaskTargets
from training.unread import StepLosses

BatchTargets = Mapping[str, TaskTargets]
"""Targets of a batch by task."""

Batch = tuple[Any, BatchTargets]
"""Inputs of the losses (an image [B, 3, H, W], or cached features), and targets."""

PLAIN = 'equal'
"""The method that needs no balancer: the sum of the losses is what DDP differentiates anyway."""


class _Reaching(torch.autograd.Function):
    """The identity, whose backward pass visits parameters and gives them no gradient."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, *parameters: Tensor) -> Tensor:
        """Keep the loss."""
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """DDP's hooks run for every parameter that is visited."""
        return gradient, *[None] * (len(ctx.needs_input_grad) - 1)


class TaskLosses(nn.Module):
    """Network plus losses in one forward, so that DDP and autocast wrap them together.

    reached: parameters that every backward pass visits, also where their task has no label. DDP
    waits for all of them, and then need not search the graph for those that are missing.
    """

    cut: CutFeatures | None = None
    """Of the last forward with `cut_features`: the trunk's features and what the heads read."""

    def __init__(self, network: MultiTaskNetwork) -> None:
        """Hold the network; it stays the owner of its weights."""
        super().__init__()
        self.network = network
        self.cut_features = False
        self.reached: tuple[nn.Parameter, ...] = ()

    def forward(self, image: Tensor, targets: BatchTargets) -> dict[str, Tensor]:
        """Summed loss of each task that the batch labels; a head sees only its labelled rows.

        A batch without any label gives a zero that depends on the features: the gradients of its
        process still take part in the sum over all.
        """
        image = image.contiguous(memory_format=torch.channels_last)
        features = self.network.features(image)
        if self.cut_features:
            features = self._cut(features)
        losses: dict[str, Tensor] = {}
        for task in self.network.tasks:
            packed = Targets.pack(targets[task.name])
            if packed.rows:
                head = self.network.head(task.name)
                outputs = head(features.rows(packed.row_index.to(image.device)))
                losses[task.name] = head.loss(outputs, packed.labelled())
        losses = losses or {self.network.tasks[0].name: features.nothing()}
        if self.reached and torch.is_grad_enabled():
            first = next(iter(losses))
            losses[first] = _Reaching.apply(losses[first], *self.reached)
        return losses

    def _cut(self, features: Features | TaskFeatures) -> Features:
        if not isinstance(features, Features):
            raise BalancingError(
                f'gradients: features needs one pyramid that all heads read, and with '
                f'{type(self.network).__name__} each task has its own; take gradients: parameters'
            )
        self.cut = CutFeatures([*features.trunk, *features.neck])
        count = len(features.trunk)
        return Features(self.cut.leaves[:count], self.cut.leaves[count:])


def normalisers(network: MultiTaskNetwork, targets: BatchTargets) -> Tensor:
    """For each task: what its summed loss is divided by, and its labelled images; [T, 2]."""
    rows = []
    for task in network.tasks:
        packed = Targets.pack(targets[task.name])
        rows.append((network.head(task.name).normaliser(packed), float(len(packed.rows))))
    return torch.tensor(rows)


def parts(inputs: Any, targets: BatchTargets, count: int) -> Iterator[Batch]:
    """A batch in `count` parts of equal size."""
    for i in range(count):
        yield (
            apply_to_collection(inputs, Tensor, lambda tensor, i=i: tensor[i::count]),
            {task: values[i::count] for task, values in targets.items()},
        )


class Step:
    """The gradients of a step over all its parts and processes; one object a run."""

    def __init__(
        self, fabric: Fabric, wrapped: Any, network: MultiTaskNetwork, config: RunConfig
    ) -> None:
        """wrapped: the losses as Fabric set them up. Raises ConfigError for the balancing."""
        self.fabric, self.wrapped, self.network, self.config = fabric, wrapped, network, config
        self.tasks = [task.name for task in network.tasks]
        self.processes = Processes(fabric)
        weights = [config.loss_weights.get(task, 1.0) for task in self.tasks]
        self.loss_weights = fabric.to_device(torch.tensor(weights))
        self.balancer = _open_balancer(fabric, wrapped, network, config)
        alone = fabric.world_size == 1 or self.balancer is not None
        if not alone and reaches_everything(config):
            trained = (p for p in network.parameters() if p.requires_grad)
            wrapped.module.reached = tuple(trained)
        self.weights: dict[str, float] = {}
        """What the method weighted each task of the last step with; empty where it has none."""

    def backward(self, step: int, batch: Batch, held_out: Batch | None = None) -> StepLosses:
        """Fill `.grad`; returns the losses, which are still on the device.

        Without a balancing method nothing in here waits for the device. held_out: for methods with
        `needs_validation`. Raises BalancingError.
        """
        amounts, labelled = self.amounts(batch[1])
        # Whole: a part of page-locked memory is not page-locked.
        batch = self.fabric.to_device(batch)
        if self.balancer is None:
            sums = self._plain(batch, amounts)
            for task, there in zip(self.tasks, labelled, strict=True):
                if not there:  # AdamW leaves out what has no gradient, in whatever process
                    self.network.head(task).zero_grad()
        else:
            sums = self._balanced(self.balancer, step, batch, amounts, held_out)
        return StepLosses(self.processes.total(sums) / amounts, labelled)

    def after_update(self, step: int, batch: Batch) -> None:
        """Show FAMO the losses of the same images again, after the optimiser's update."""
        if self.balancer is None or not self.balancer.needs_after_step:
            return
        amounts, _ = self.amounts(batch[1])
        again: dict[str, Tensor] = {}
        self.seed(step)
        with torch.no_grad(), kept_statistics(self.network):
            for part in parts(*batch, self.config.optimizer.accumulate):
                for task, loss in self.means(self._forward(part), amounts).items():
                    again[task] = again.get(task, 0) + loss
        self.balancer.after_step(again)

    def seed(self, step: int) -> None:
        """Dropout and stochastic depth must not depend on where a run was interrupted."""
        torch.manual_seed(hash((self.config.seed, step, self.fabric.global_rank)))

    def amounts(self, targets: BatchTargets) -> tuple[Tensor, list[bool]]:
        """What each task's sum is divided by, [T] on the device, and which tasks have labels.

        Over all processes, whose hosts know both before their devices have begun.
        """
        counted = self.processes.total(normalisers(self.network, targets))
        amounts: Tensor = self.fabric.to_device(counted[:, 0].clamp(min=1))
        return amounts, (counted[:, 1] > 0).tolist()

    def means(self, sums: Mapping[str, Tensor], amounts: Tensor) -> dict[str, Tensor]:
        """Task -> this part's share of the weighted loss; their mean over processes is the loss."""
        factors = self.loss_weights / amounts * self.fabric.world_size
        return {task: loss * factors[self.tasks.index(task)] for task, loss in sums.items()}

    def what_fits(self, batch: Batch) -> str:
        """After a step that ran out of memory: how many images at a time do not, by trying."""
        opt = self.config.optimizer
        part = next(parts(*batch, opt.accumulate))
        images = opt.batch_size // opt.accumulate // self.fabric.world_size
        with self.fabric.autocast():
            fitting = fitting_images(self.wrapped.module, self.fabric.to_device(part), images)
        found = f'out of memory at the first step, with {images} images at a time'
        if not fitting:
            return f'{found}, and with one; take a smaller crop (augment.height, augment.width)'
        return (
            f'{found}; {fitting} fit: set optimizer.accumulate={opt.accumulate * images // fitting}'
        )

    def _plain(self, batch: Batch, amounts: Tensor) -> Tensor:
        """Backward of the weighted sum; returns the unweighted sums of this process, [T]."""
        sums = torch.zeros_like(amounts)
        count = self.config.optimizer.accumulate
        for i, part in enumerate(parts(*batch, count)):
            with self.fabric.no_backward_sync(self.wrapped, enabled=i + 1 < count):
                losses = self.wrapped(*self.fabric.to_device(part))
                none = amounts.new_zeros(())
                summed = torch.stack([losses.get(task, none) for task in self.tasks])
                weighted = (summed * self.loss_weights / amounts).sum()
                # DDP averages gradients over the processes; a sum over them is meant.
                self.fabric.backward(weighted * self.fabric.world_size)
            sums += summed.detach()
        return sums

    def _balanced(
        self, balancer: Balancer, step: int, batch: Batch, amounts: Tensor, held_out: Batch | None
    ) -> Tensor:
        """Hand the parts to the method; returns as `_plain`."""
        sums = torch.zeros_like(amounts)
        with self.fabric.no_backward_sync(self.wrapped):
            for part in parts(*batch, self.config.optimizer.accumulate):
                losses = self._forward(part)
                cut = self.wrapped.module.cut if balancer.needs_features else None
                balancer.backward(step, self.means(losses, amounts), cut)
                for task, loss in losses.items():
                    sums[self.tasks.index(task)] += loss.detach()
            self.weights = balancer.combine(held_out and (lambda: self._held_out(held_out)))
        return sums

    def _held_out(self, batch: Batch) -> dict[str, Tensor]:
        with kept_statistics(self.network):
            return self.means(self._forward(batch), self.amounts(batch[1])[0])

    def _forward(self, part: Batch) -> dict[str, Tensor]:
        """Summed losses of a part by task; nothing for one without labels."""
        losses: dict[str, Tensor] = self.wrapped(*self.fabric.to_device(part))
        return losses if any(Targets.pack(row).rows for row in part[1].values()) else {}


@contextmanager
def kept_statistics(network: nn.Module) -> Iterator[None]:
    """Forwards in here leave the batch norms' running statistics as they were."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    # Frozen statistics are left alone: a backward pass still to come needs them untouched.
    buffers = [buffer for norm in norms if norm.training for buffer in norm.buffers()]
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)


def _open_balancer(
    fabric: Fabric, wrapped: Any, network: MultiTaskNetwork, config: RunConfig
) -> Balancer | None:
    options = dict(config.balancing)
    method = options.pop('method', None)
    if method is None:
        raise ConfigError(
            f'balancing: {config.balancing} names no method; expected {{method: NAME, ...options}}'
        )
    if method == PLAIN and not options:
        return None
    try:
        balancer = make_balancer(
            str(method),
            options,
            split_parameters(network, dict(network.heads.items())),
            seed=config.seed,
            parts=config.optimizer.accumulate,
            precision=config.precision,
            backward=fabric.backward,
        )
    except BalancingError as error:
        raise ConfigError(f'balancing: {error}') from error
    if balancer.needs_features:
        wrapped.module.cut_features = True
    return balancer
