# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Methods that weight the losses and look at nothing but losses."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from training.balancing.base import Balancer, Labelled
from training.balancing.gradients import (
    CutFeatures,
    ParameterGradients,
    average_gradients,
    write_gradient,
)


class LossWeighting(Balancer):
    """An objective that is a function of the losses; its derivatives are the weights.

    They weight trunk and heads alike. One backward pass a part; except where the weights depend on
    the losses of this very step (not `ahead`) and gradients are accumulated: then the gradients are
    kept a task and weighted at the end, for one backward pass per task and part.
    """

    ahead: ClassVar[bool] = True
    """The weights are known before the losses of the step."""

    @abstractmethod
    def weights(self, losses: Tensor, present: Tensor) -> Tensor:
        """Weight of each task, float64 [T]; methods that are `ahead` look at neither argument.

        losses: float64 [T], zero where not present, bool [T].
        """

    def observe(self, losses: Tensor, present: Tensor) -> None:
        """Update the state by the step's losses, given as to `weights`."""

    def differentiate(self, losses: Mapping[str, Tensor], features: CutFeatures | None) -> None:
        """One weighted backward pass, or one per task."""
        first = len(self._losses) == 1
        if not self.ahead and self.parts > 1:
            if first:
                self._gradients = ParameterGradients(self.parameters.shared)
            self._gradients.collect(losses, self._run_backward)
            return
        if not self.ahead:
            self._weights = self.weights(*self._spread(self.labelled(self._losses)))
        elif first:
            self._weights = self.weights(self.vector(0), self.vector(0) > 0)
        if losses:
            value = dict(zip(self.tasks, self._weights.tolist(), strict=True))
            self._run_backward(torch.stack([value[t] * loss for t, loss in losses.items()]).sum())

    def merge(self, labelled: Labelled) -> Tensor:
        """See the base class."""
        losses, present = self._spread(labelled)
        if not self.ahead and self.parts > 1:
            self._weights = self.weights(losses, present)
            self._gradients.reduce(labelled.tasks)
            used = self._weights[present]
            write_gradient(self.parameters.shared, self._gradients.combined(labelled.tasks, used))
            average_gradients(self.own(labelled.tasks))
            self.scale_heads(labelled.tasks, used)
            del self._gradients
        else:
            average_gradients([*self.parameters.shared, *self.own(labelled.tasks)])
        weights = self._weights[present]
        self.observe(losses, present)
        return weights

    def _spread(self, labelled: Labelled) -> tuple[Tensor, Tensor]:
        losses = self.vector(0)
        losses[labelled.present] = labelled.losses
        return losses, labelled.present
