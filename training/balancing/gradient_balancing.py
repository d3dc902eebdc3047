# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Methods that look at each task's gradient with respect to what the tasks share.

The shared parameters get what the method makes of the gradients. A head's parameters get the plain
gradient of their own loss, because no other task pulls at them; or, where the method defines
weights of losses (an objective), the weighted one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from training.balancing.base import Balancer, Labelled
from training.balancing.gradients import (
    CutFeatures,
    FeatureGradients,
    ParameterGradients,
    average_gradients,
    write_gradient,
)
from training.balancing.options import BalancingError, choice


@dataclass(frozen=True)
class Balanced:
    """gradient: of the shared parameters, float32 [N]. weights: [M] for logging, or [0].

    heads: factors of the heads' gradients [M]; None for ones.
    """

    gradient: Tensor
    weights: Tensor
    heads: Tensor | None = None


class JacobianBalancing(Balancer):
    """Methods that need the gradients themselves, with respect to the shared parameters."""

    groups: ClassVar[int] = 1
    """The parts of a step are dealt into so many independent samples of the gradients."""

    @abstractmethod
    def balance(self, samples: list[ParameterGradients], labelled: Labelled) -> Balanced:
        """What becomes of the gradients; `samples` has `groups` entries, equal on all ranks."""

    def rows(self) -> Tensor:
        """Zeros float32 [T, N] beside the shared parameters, for the state."""
        size = sum(p.numel() for p in self.parameters.shared)
        return torch.zeros(len(self.tasks), size, device=self.device)

    def differentiate(self, losses: Mapping[str, Tensor], features: CutFeatures | None) -> None:
        """One backward pass per task."""
        part = len(self._losses) - 1
        if part == 0:
            shared = self.parameters.shared
            self._samples = [ParameterGradients(shared) for _ in range(self.groups)]
        self._samples[part % self.groups].collect(losses, self._run_backward)

    def merge(self, labelled: Labelled) -> Tensor:
        """See the base class."""
        average_gradients(self.own(labelled.tasks))
        for sample in self._samples:
            sample.reduce(labelled.tasks)
            check_finite(self.name, self.step, labelled.tasks, sample.lengths(labelled.tasks))
        balanced = self.balance(self._samples, labelled)
        del self._samples
        write_gradient(self.parameters.shared, balanced.gradient)
        if balanced.heads is not None:
            self.scale_heads(labelled.tasks, balanced.heads)
        return balanced.weights


@dataclass(frozen=True)
class GramianOptions:
    """gradients: of parameters, or of features (one pass through the trunk, not one per task)."""

    gradients: str = choice('parameters', 'features')


class GramianWeighting(Balancer):
    """Methods whose weights are a function of the gradients' inner products.

    With gradients=features these are inner products of the gradients with respect to the shared
    features; for MGDA that is MGDA-UB.
    """

    Options: ClassVar[type] = GramianOptions
    weights_heads: bool = False
    """The weights are of losses, not only of a direction for what is shared."""

    def __init__(self, options: Any, *args: Any) -> None:
        """Refuse gradients=features with accumulation."""
        self.needs_features = options.gradients == 'features'
        super().__init__(options, *args)
        if self.needs_features and self.parts > 1:
            raise BalancingError(
                f'{self.name}: gradients=features does not go with {self.parts} accumulated parts: '
                f'the weights are known when all parts have run, and the graphs of all but the '
                f'last are gone by then; use gradients=parameters, or one part'
            )

    @abstractmethod
    def weights(self, gramian: Tensor, labelled: Labelled) -> Tensor:
        """Weights float64 [M]; gramian: float64 [M, M], finite."""

    def head_weights(self, gramian: Tensor, weights: Tensor) -> Tensor:
        """Factors of the heads' gradients [M], where the method weights heads."""
        return weights

    def differentiate(self, losses: Mapping[str, Tensor], features: CutFeatures | None) -> None:
        """One backward pass per task, through its head only with gradients=features."""
        if len(self._losses) == 1:
            self._gradients = (
                FeatureGradients(features)
                if self.needs_features and features is not None
                else ParameterGradients(self.parameters.shared)
            )
        self._gradients.collect(losses, self._run_backward)

    def merge(self, labelled: Labelled) -> Tensor:
        """See the base class."""
        gradients, tasks = self._gradients, labelled.tasks
        del self._gradients
        gradients.reduce(tasks)
        gramian = gradients.gramian(tasks)
        check_finite(self.name, self.step, tasks, gramian.diagonal().sqrt())
        weights = self.weights(gramian, labelled)
        average_gradients(self.own(tasks))
        if self.weights_heads:
            self.scale_heads(tasks, self.head_weights(gramian, weights))
        if isinstance(gradients, ParameterGradients):
            write_gradient(self.parameters.shared, gradients.combined(tasks, weights))
        else:
            self._run_backward(gradients.surrogate(tasks, weights))
            average_gradients(self.parameters.shared)
        return weights


def check_finite(method: str, step: int, tasks: Sequence[str], lengths: Tensor) -> None:
    """Raise BalancingError when the length of a gradient, [M], is NaN or infinite."""
    if not torch.isfinite(lengths).all():
        named = dict(zip(tasks, lengths.tolist(), strict=True))
        raise BalancingError(
            f'{method}: a gradient of step {step} is not finite; the lengths are {named}. Lower '
            f'the learning rate, or look at the images of that step'
        )
