# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Stateful gradient balancing: each method against its update, by hand or by autograd."""

import math

import pytest

pytest.importorskip('torch', reason='training extras are not installed')

import torch
from balancing_toy import CONFLICT, Toy, close, gram

from training.balancing.solvers import project_to_simplex
from training.balancing.task_adam import TaskAdam


def test_gradnorm_is_equations_1_and_2():
    toy = Toy([[3.0, 0.0], [0.0, 1.0]])
    balancer = toy.make('GradNorm', {'alpha': 1.0, 'lr': 0.1})
    _, weights = toy.step(balancer, [2.0, 4.0])
    assert weights == {'a': 1.0, 'b': 1.0}
    # |g| = (3, 1), mean 2: 'a' is too long, 'b' too short; a step of 0.1 each, sum kept.
    close(balancer.state['weights'], [0.9, 1.1])
    direction, weights = toy.step(balancer, [1.0, 4.0], 1)
    close(direction, [0.9 * 3, 1.1])
    assert toy.heads['b'].grad.item() == pytest.approx(1.1)
    # Losses fell to (1/2, 1): rates (2/3, 4/3) of their mean.
    again = Toy([[3.0, 0.0], [0.0, 1.0]])
    fresh = again.make('GradNorm', {'alpha': 1.0})
    again.step(fresh, [2.0, 4.0])
    fresh.state['weights'][:] = torch.tensor([0.9, 1.1])
    labelled = fresh.labelled([again.losses([1.0, 4.0])])
    close(fresh.targets(gram(again.rows), labelled), [1.9 * 2 / 3, 1.9 * 4 / 3])


def test_gradnorm_equalises_gradients_when_alpha_is_zero():
    toy = Toy([[3.0, 0.0], [0.0, 1.0]])
    balancer = toy.make('GradNorm', {'alpha': 0.0, 'lr': 0.01})
    for step in range(300):
        direction, _ = toy.step(balancer, step=step)
    assert direction[0].item() == pytest.approx(direction[1].item(), rel=0.05)
    close(balancer.state['weights'].sum(), 2.0)


def test_norm_scaling_makes_gradients_equally_long():
    toy = Toy([[3.0, 0.0], [0.0, 1.0]])
    balancer = toy.make('NormScaling', {'beta': 0.5})
    direction, weights = toy.step(balancer)
    # The first mean is that of the step: (3, 1), whose mean is 2.
    assert weights == pytest.approx({'a': 2 / 3, 'b': 2.0})
    close(direction, [2.0, 2.0])
    assert toy.heads['b'].grad.item() == pytest.approx(2.0)
    # Then (0, 1): the means are half of (3, 1) each time, over 1 - 0.5^2.
    _, weights = toy.step(balancer, step=1, rows=[[0.0, 0.0], [0.0, 1.0]])
    assert weights == pytest.approx({'a': 1.0, 'b': 1.0})  # lengths (1, 1)


def test_norm_scaling_leaves_a_task_without_a_gradient_alone():
    toy = Toy([[0.0, 0.0], [0.0, 4.0]])
    direction, weights = toy.step(toy.make('NormScaling'))
    assert weights == {'a': 1.0, 'b': 1.0}
    close(direction, [0.0, 4.0])


def test_db_mtl_adds_averages_of_one_length():
    toy = Toy([[3.0, 0.0], [0.0, 1.0]])
    balancer = toy.make('DB-MTL', {'beta': 0.5, 'decay': 0.0})
    direction, _ = toy.step(balancer, [2.0, 0.5])
    # Gradients of logarithms (1.5, 2), half of them in the averages; both as long as the longer.
    close(direction, [1.0, 1.0])
    assert toy.heads['a'].grad.item() == 0.5
    direction, _ = toy.step(balancer, [1.0, 1.0], 1, rows=[[0.0, 3.0], [1.0, 0.0]])
    averages = torch.tensor([[0.375, 1.5], [0.5, 0.5]])
    close(balancer.state['average'], averages)
    lengths = averages.norm(dim=1)
    close(direction, (lengths.max() / lengths) @ averages)


def test_moco_tracks_gradients_and_reaches_mgda():
    toy = Toy(CONFLICT)
    options = {'normalise': False, 'beta': 1.0, 'beta_decay': 0.0, 'gamma': 0.05, 'gamma_decay': 0}
    balancer = toy.make('MoCo', options)
    for step in range(300):
        direction, weights = toy.step(balancer, step=step)
    close(list(weights.values()), [0.75, 0.25], 1e-4)  # test_mgda: the min-norm point
    close(direction, [0.5, 0.5], 1e-4)


def test_moco_first_step_by_hand():
    toy = Toy([[3.0, 0.0], [0.0, 1.0]])
    balancer = toy.make('MoCo', {'beta': 0.5, 'gamma': 0.1})
    _, weights = toy.step(balancer, [2.0, 4.0])
    close(balancer.state['tracked'], [[1.0, 0.0], [0.0, 2.0]])  # half of (2, 4) long
    moved = torch.tensor([0.5 - 0.1 * 1 * 0.5, 0.5 - 0.1 * 4 * 0.5])
    close(list(weights.values()), project_to_simplex(moved))


def three_parts(toy, balancer, samples, step=0):
    for rows in samples:
        toy.rows = torch.as_tensor(rows, dtype=torch.float32) / 3
        balancer.backward(step, toy.losses())
    return balancer.combine()


def test_sdmgrad_of_equal_samples_without_pull_is_mgda():
    toy = Toy(CONFLICT)
    options = {'pull': 0.0, 'iterations': 200, 'lr': 0.1}
    balancer = toy.make('SDMGrad', options, parts=3)
    weights = three_parts(toy, balancer, [CONFLICT] * 3)
    close(list(weights.values()), [0.75, 0.25], 1e-3)
    close(toy.shared.grad, [0.5, 0.5], 1e-3)


def test_sdmgrad_pull_is_towards_the_mean_and_samples_have_their_roles():
    toy = Toy(CONFLICT)
    weights = three_parts(toy, toy.make('SDMGrad', {'pull': 1e4}, parts=3), [CONFLICT] * 3)
    close(list(weights.values()), [0.5, 0.5], 1e-3)
    third = [[5.0, 0.0], [0.0, 7.0]]
    balancer = toy.make('SDMGrad', {'pull': 0.0, 'iterations': 1, 'lr': 0.1}, parts=3)
    weights = three_parts(toy, balancer, [[[1.0, 0], [0, 0.5]], [[2.0, 0], [0, 1.0]], third])
    product = torch.tensor([2.0, 0.5])  # diagonal of the first two samples' products
    scaled = product / product.sqrt().mean() ** 2
    expected = project_to_simplex(0.5 - 0.1 * scaled.double() * 0.5)
    close(list(weights.values()), expected)
    close(toy.shared.grad, expected @ torch.tensor(third).double())


def test_modo_is_its_update_and_samples_have_their_roles():
    toy = Toy(CONFLICT)
    first, second, third = ([[1.0, 0.0], [-1.0, 2.0]], [[2.0, 1.0], [0.0, 1.0]], [[5.0, 0], [0, 7]])
    balancer = toy.make('MoDo', {'lr': 0.05, 'decay': 0.3}, parts=3)
    weights = three_parts(toy, balancer, [first, second, third])
    g1, g2, g3 = (torch.tensor(rows).double() for rows in (first, second, third))
    even = torch.full((2,), 0.5).double()
    expected = project_to_simplex(even - 0.05 * (g1 @ (g2.T @ even) + 0.3 * even))
    close(list(weights.values()), expected)
    close(toy.shared.grad, expected @ g3)
    assert all(head.grad.item() == 3 for head in toy.heads.values())  # plain: 1 from each part


def test_modo_of_equal_samples_goes_to_mgda():
    toy = Toy(CONFLICT)
    balancer = toy.make('MoDo', {'lr': 0.05, 'decay': 0.0}, parts=3)
    for step in range(200):
        weights = three_parts(toy, balancer, [CONFLICT] * 3, step)
    close(list(weights.values()), [0.75, 0.25], 1e-3)


def test_excess_mtl_is_equations_6_7_and_9():
    toy = Toy(CONFLICT)
    balancer = toy.make('ExcessMTL', {'step_size': 0.5})
    _, weights = toy.step(balancer)
    close(list(weights.values()), [0.5, 0.5])
    second = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    direction, weights = toy.step(balancer, step=1, rows=second)
    sums = torch.tensor(CONFLICT) ** 2 + second**2
    excess = (second**2 / (sums + 1e-7).sqrt()).sum(1)
    first = torch.tensor(CONFLICT).abs().sum(1)
    expected = (0.5 * excess / first).softmax(0)
    close(list(weights.values()), expected)
    close(direction, expected @ second)
    assert toy.heads['a'].grad.item() == pytest.approx(expected[0].item())


def test_auto_lambda_follows_the_look_ahead():
    """Its derivative equals a finite difference of L_val(theta - eta sum w_i grad L_i)."""
    toy = Toy(CONFLICT)
    targets = torch.tensor([[1.0, 2.0], [-2.0, 0.5]])
    with torch.no_grad():
        toy.shared.copy_(torch.tensor([0.3, -0.2]))
        toy.heads['a'].fill_(0.4)

    def losses(shift=0.0):
        return {
            task: ((toy.shared - target - shift) ** 2).sum() + (toy.heads[task] - 1).pow(2).sum()
            for task, target in zip(toy.tasks, targets, strict=True)
        }

    eta, start = 0.1, torch.tensor([0.1, 0.1])
    own = {t: torch.autograd.grad(x, [toy.shared, toy.heads[t]]) for t, x in losses().items()}

    def validation_after(weights):
        shared = toy.shared - eta * sum(w * own[t][0] for w, t in zip(weights, 'ab', strict=True))
        head = toy.heads['a'] - eta * weights[0] * own['a'][1]
        return (((shared - targets[0] - 0.5) ** 2).sum() + (head - 1).pow(2).sum()).detach()

    slopes = []
    for i in range(2):
        up, down = start.clone(), start.clone()
        up[i] += 1e-2
        down[i] -= 1e-2
        slopes.append((validation_after(up) - validation_after(down)) / 2e-2)

    options = {'lookahead': eta, 'lr': 0.01, 'validation': {'b': 0}}
    balancer = toy.make('Auto-Lambda', options)
    before = [toy.shared.detach().clone(), toy.heads['a'].detach().clone()]
    seen = {}
    step = TaskAdam.step

    def spy(self, value, gradient, present, state):
        seen['gradient'] = gradient.clone()
        step(self, value, gradient, present, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TaskAdam, 'step', spy)
        balancer.backward(0, losses())
        weights = balancer.combine(validation=lambda: losses(0.5))
    close(seen['gradient'], slopes, 1e-3)
    assert torch.equal(toy.shared, before[0]) and torch.equal(toy.heads['a'], before[1])
    close(list(weights.values()), [0.1 - 0.01 * math.copysign(1, s) for s in slopes], 1e-6)
    close(toy.shared.grad, sum(w * own[t][0] for t, w in weights.items()))
    close(toy.heads['b'].grad, weights['b'] * own['b'][1])


def test_task_adam_is_torchs_and_keeps_absent_tasks():
    value = torch.zeros(3, dtype=torch.float64)
    reference = [torch.zeros(1, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    optimisers = [torch.optim.Adam([r], lr=0.1, weight_decay=0.02) for r in reference]
    state = TaskAdam.state(3)
    for step in range(6):
        gradient = torch.tensor([1.0, -0.5, 0.3 * step], dtype=torch.float64)
        present = torch.tensor([True, step % 2 == 0, True])
        TaskAdam(0.1, 0.02).step(value, gradient, present, state)
        for i in present.nonzero().flatten().tolist():
            reference[i].grad = gradient[i : i + 1].clone()
            optimisers[i].step()
    close(value, torch.cat(reference).detach(), 1e-12)


def test_projection_to_the_simplex():
    close(project_to_simplex(torch.tensor([0.2, 0.3, 0.5])), [0.2, 0.3, 0.5])
    close(project_to_simplex(torch.tensor([2.0, 0.0, -1.0])), [1.0, 0.0, 0.0])
    close(project_to_simplex(torch.tensor([1.0, 0.8, -3.0]), 0.5), [0.35, 0.15, 0.0])
