# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Auto-Lambda: weights that lower the loss of a validation batch after the step they lead to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from training.balancing.base import Labelled
from training.balancing.gradient_balancing import Balanced, JacobianBalancing
from training.balancing.gradients import (
    ParameterGradients,
    add_to_parameters,
    flat_gradient,
    mean_over_ranks,
    write_gradient,
)
from training.balancing.options import number, per_task
from training.balancing.task_adam import TaskAdam


@dataclass(frozen=True)
class AutoLambdaOptions:
    """lookahead: eta, the virtual step's rate. initial: of all weights. lr: of their Adam.

    validation: task -> weight of its validation loss, 1 where left out, 0 for auxiliary tasks.
    """

    lookahead: float = number(1e-3, 0, 1, above=True)
    initial: float = number(0.1, 0, above=True)
    lr: float = number(1e-4, 0, 1)
    validation: Mapping[str, float] = per_task(0)


class AutoLambda(JacobianBalancing):
    """w descends L_val(theta - eta sum of w_i grad L_i(theta)).

    Liu et al., "Auto-Lambda: Disentangling Dynamic Task Relationships", TMLR 2022, section 3.2,
    with plain gradient descent as virtual step. The paper approximates the derivative
    -eta grad L_i(theta) . grad L_val(theta') by finite differences; here the gradients of each task
    are at hand and it is exact. Weights stay non-negative, are of losses, heads included, and stay
    as they are for tasks without labels.
    """

    name = 'Auto-Lambda'
    Options = AutoLambdaOptions
    needs_validation = True

    def start(self) -> None:
        """Even weights."""
        initial = self.vector(self.options.initial)
        self.state = {'weights': initial, **TaskAdam.state(len(self.tasks))}

    def balance(self, samples: list[ParameterGradients], labelled: Labelled) -> Balanced:
        """Weights after the update."""
        rows, tasks, here = samples[0], labelled.tasks, labelled.present
        heads = {task: flat_gradient(self.parameters.heads[task]) for task in tasks}
        weights = dict(zip(tasks, self.state['weights'][here].tolist(), strict=True))
        shared = rows.combined(tasks, self.state['weights'][here])

        places = [(self.parameters.shared, shared)]
        places += [(self.parameters.heads[task], weights[task] * heads[task]) for task in tasks]
        before = [[p.detach().clone() for p in parameters] for parameters, _ in places]
        for parameters, step in places:
            add_to_parameters(parameters, step, -self.options.lookahead)
        slopes = self._validation_gradients(tasks)
        with torch.no_grad():
            for (parameters, _), saved in zip(places, before, strict=True):
                for parameter, value in zip(parameters, saved, strict=True):
                    parameter.copy_(value)

        gradient = self.vector(0)
        for task, slope in zip(tasks, slopes[1:], strict=True):
            along = (rows.rows[task].double() @ slopes[0].double()).cpu()
            along = along + (heads[task].double() @ slope.double()).cpu()
            gradient[self.tasks.index(task)] = -self.options.lookahead * along
            write_gradient(self.parameters.heads[task], heads[task])
        TaskAdam(self.options.lr).step(self.state['weights'], gradient, here, self.state)
        self.state['weights'].clamp_min_(0)
        used = self.state['weights'][here]
        return Balanced(rows.combined(tasks, used), used, used)

    def _validation_gradients(self, tasks: tuple[str, ...]) -> list[Tensor]:
        """Of the validation loss where the parameters are now: shared, then each task's head."""
        assert self.validation is not None  # combine() has refused
        for parameter in [*self.parameters.shared, *self.own(self.tasks)]:
            parameter.grad = None
        factor = self.per_task(self.options.validation, 1)
        losses = [
            float(factor[self.tasks.index(task)]) * loss for task, loss in self.validation().items()
        ]
        if losses:
            self._run_backward(torch.stack(losses).sum())
        groups = [self.parameters.shared, *(self.parameters.heads[task] for task in tasks)]
        return [mean_over_ranks(flat_gradient(group)) for group in groups]
