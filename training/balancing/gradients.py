# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Gradients of one task's loss at a time, with respect to what the tasks share.

Either with respect to the shared parameters (one backward pass through the trunk per task), or with
respect to the shared features (one pass through each head only, after Sener and Koltun, NeurIPS
2018, section 3.3, and one through the trunk for all). The features of a pyramid depend on each
other: stride 32 is computed from stride 16, and the neck from the trunk. Differentiating a loss
with respect to several of them would count those paths more than once; so the heads read leaves
that are cut from the trunk's graph, and the sum of what they ask for goes back into the trunk once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, distributed, nn

_CHUNK = 1 << 20
"""Columns that are widened to float64 at a time."""


class Backward(Protocol):
    """`Fabric.backward` is one, `plain_backward` another."""

    def __call__(self, tensor: Tensor, *, retain_graph: bool = False) -> None:
        """Add the gradients of a scalar to `.grad`."""


def plain_backward(tensor: Tensor, *, retain_graph: bool = False) -> None:
    """`Tensor.backward`."""
    tensor.backward(retain_graph=retain_graph)


@dataclass(frozen=True)
class Parameters:
    """Trainable parameters: those that several tasks' losses reach, and those of one task each."""

    shared: tuple[nn.Parameter, ...]
    heads: Mapping[str, tuple[nn.Parameter, ...]]


def split_parameters(network: nn.Module, heads: Mapping[str, nn.Module]) -> Parameters:
    """What is in no task's own module is shared; frozen parameters are in neither."""
    own = {task: tuple(p for p in m.parameters() if p.requires_grad) for task, m in heads.items()}
    owned = {id(p) for parameters in own.values() for p in parameters}
    shared = (p for p in network.parameters() if p.requires_grad and id(p) not in owned)
    return Parameters(tuple(shared), own)


class CutFeatures:
    """Shared features [B, C, H/s, W/s] and the leaves that heads read in their place.

    Not a dataclass: wrappers of modules (Fabric, DDP) look for tensors in what a forward returns,
    and must not convert or hook these.
    """

    def __init__(self, features: Sequence[Tensor]) -> None:
        """`leaves` has the features' order."""
        self.features = tuple(features)
        self.leaves = tuple(f.detach().requires_grad_() for f in features)


class TaskGradients(ABC):
    """One gradient per task, summed over the accumulated parts of a step."""

    def collect(self, losses: Mapping[str, Tensor], backward: Backward) -> None:
        """One backward pass per task; the heads' gradients stay in `.grad`."""
        for index, (task, loss) in enumerate(losses.items(), 1):
            backward(loss, retain_graph=index < len(losses))
            self.take(task)

    @abstractmethod
    def take(self, task: str) -> None:
        """Add what a backward pass left in `.grad` of what is shared to the task's gradient."""

    @abstractmethod
    def reduce(self, tasks: Sequence[str]) -> None:
        """Bring ranks together, for tasks that any of them has labels for."""

    @abstractmethod
    def gramian(self, tasks: Sequence[str]) -> Tensor:
        """Inner products over all ranks after `reduce`, float64 [M, M] on the CPU."""


class ParameterGradients(TaskGradients):
    """Rows of the Jacobian: task -> float32 [N] over all shared parameters."""

    def __init__(self, shared: Sequence[nn.Parameter]) -> None:
        """Start without gradients."""
        self.shared = shared
        self.rows: dict[str, Tensor] = {}

    def take(self, task: str) -> None:
        """Move the shared parameters' `.grad` into the task's row."""
        if task not in self.rows:
            self.rows[task] = _zeros(self.shared)
        for parameter, place in _places(self.shared, self.rows[task]):
            if parameter.grad is not None:
                place.add_(parameter.grad.reshape(-1))
                parameter.grad = None

    def reduce(self, tasks: Sequence[str]) -> None:
        """Mean over the ranks; zeros for a task that this one lacks."""
        for task in tasks:
            if task not in self.rows:
                self.rows[task] = _zeros(self.shared)
            mean_over_ranks(self.rows[task])

    def gramian(self, tasks: Sequence[str]) -> Tensor:
        """See the base class."""
        rows = [[self.rows[task]] for task in tasks]
        return inner_products(rows, rows)

    def lengths(self, tasks: Sequence[str]) -> Tensor:
        """Euclidean norms after `reduce`, float64 [M] on the CPU."""
        return torch.stack([self.rows[t].norm(dtype=torch.float64) for t in tasks]).cpu()

    def matrix(self, tasks: Sequence[str]) -> Tensor:
        """The Jacobian, float32 [M, N], a copy."""
        return torch.stack([self.rows[task] for task in tasks])

    def combined(self, tasks: Sequence[str], weights: Tensor) -> Tensor:
        """Sum of weighted rows, float32 [N]."""
        return weighted_sum([self.rows[task] for task in tasks], weights)


class FeatureGradients(TaskGradients):
    """Gradients with respect to the leaves of `CutFeatures`, for this rank's images."""

    def __init__(self, cut: CutFeatures) -> None:
        """Start without gradients."""
        self.cut = cut
        self.pieces: dict[str, list[Tensor]] = {}

    def take(self, task: str) -> None:
        """Move the leaves' `.grad` to the task."""
        leaves = self.cut.leaves
        self.pieces[task] = [torch.zeros_like(x) if x.grad is None else x.grad for x in leaves]
        for leaf in leaves:
            leaf.grad = None

    def reduce(self, tasks: Sequence[str]) -> None:
        """Nothing but zeros for missing tasks: each rank's images are coordinates of their own."""
        for task in tasks:
            self.pieces.setdefault(task, [torch.zeros_like(x) for x in self.cut.leaves])

    def gramian(self, tasks: Sequence[str]) -> Tensor:
        """See the base class; a loss is a mean over the ranks, hence the second division."""
        rows = [self.pieces[task] for task in tasks]
        local = inner_products(rows, rows).to(self.cut.features[0].device)
        return mean_over_ranks(local).cpu() / world_size()

    def surrogate(self, tasks: Sequence[str], weights: Tensor) -> Tensor:
        """A scalar whose gradient with respect to the features is the weighted gradients' sum."""
        total = torch.zeros((), device=self.cut.features[0].device)
        for index, feature in enumerate(self.cut.features):
            wanted = weighted_sum([self.pieces[task][index] for task in tasks], weights)
            total = total + (feature * wanted).sum(dtype=torch.float32)
        return total


def weighted_sum(tensors: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Sum of M tensors of one shape, each times its weight of [M]."""
    total = torch.zeros_like(tensors[0])
    for tensor, weight in zip(tensors, weights.tolist(), strict=True):
        total.add_(tensor, alpha=weight)
    return total


def inner_products(left: Sequence[Sequence[Tensor]], right: Sequence[Sequence[Tensor]]) -> Tensor:
    """Of vectors that are given in pieces, float64 [len(left), len(right)] on the CPU."""
    device = left[0][0].device
    total = torch.zeros(len(left), len(right), dtype=torch.float64, device=device)
    for piece in range(len(left[0])):
        first, second = ([row[piece].reshape(-1) for row in rows] for rows in (left, right))
        for start in range(0, first[0].numel(), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            a = torch.stack([row[chunk] for row in first]).double()
            b = a if left is right else torch.stack([row[chunk] for row in second]).double()
            total += a @ b.T
    return total.cpu()


def write_gradient(parameters: Sequence[nn.Parameter], flat: Tensor) -> None:
    """Put a flat gradient [N] into `.grad`, in each parameter's dtype and memory format."""
    for parameter, place in _places(parameters, flat):
        gradient = torch.empty_like(parameter, requires_grad=False)
        gradient.copy_(place.view(parameter.shape))
        parameter.grad = gradient


def flat_gradient(parameters: Sequence[nn.Parameter]) -> Tensor:
    """A copy of `.grad`, float32 [N]; zero where there is none."""
    flat = _zeros(parameters)
    for parameter, place in _places(parameters, flat):
        if parameter.grad is not None:
            place.copy_(parameter.grad.reshape(-1))
    return flat


def add_to_parameters(parameters: Sequence[nn.Parameter], flat: Tensor, factor: float) -> None:
    """Add a multiple of a flat vector [N] to the parameters themselves."""
    with torch.no_grad():
        for parameter, place in _places(parameters, flat):
            parameter.add_(place.view(parameter.shape), alpha=factor)


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Mean of `.grad` over the ranks; a rank without one counts as zero."""
    if world_size() > 1:
        write_gradient(parameters, mean_over_ranks(flat_gradient(parameters)))


def world_size() -> int:
    """Ranks of the default process group, 1 without one."""
    ready = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if ready else 1


def mean_over_ranks(tensor: Tensor) -> Tensor:
    """All-reduced in place, on the tensor's device; every rank gets the same bits."""
    if world_size() > 1:
        distributed.all_reduce(tensor)
        tensor /= world_size()
    return tensor


def _zeros(parameters: Sequence[nn.Parameter]) -> Tensor:
    device = parameters[0].device if parameters else torch.device('cpu')
    return torch.zeros(sum(p.numel() for p in parameters), device=device)


def _places(
    parameters: Sequence[nn.Parameter], flat: Tensor
) -> Iterator[tuple[nn.Parameter, Tensor]]:
    start = 0
    for parameter in parameters:
        yield parameter, flat[start : start + parameter.numel()]
        start += parameter.numel()
