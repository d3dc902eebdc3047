# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Loss weighting: each method against its defining property or a closed-form example."""

import math

import pytest

pytest.importorskip('torch', reason='training extras are not installed')

import torch
from balancing_toy import CONFLICT, THREE, Toy, close


def test_equal_and_static_weight_trunk_and_heads():
    toy = Toy(CONFLICT)
    direction, weights = toy.step(toy.make('equal'))
    close(direction, [0.0, 2.0])
    assert weights == {'a': 1.0, 'b': 1.0}
    direction, weights = toy.step(toy.make('static', {'weights': {'b': 0.5}}))
    close(direction, [0.5, 1.0])
    assert toy.heads['b'].grad.item() == 0.5 and weights == {'a': 1.0, 'b': 0.5}


def test_uncertainty_weighting_equals_its_objective():
    """Kendall eqs. 7 and 10, by autograd; the gradient of s has a closed form."""
    toy = Toy(CONFLICT)
    balancer = toy.make('UW', {'log_variance': 0.3, 'forms': {'b': 'classification'}, 'lr': 0.1})
    s = torch.full((2,), 0.3, dtype=torch.float64, requires_grad=True)
    losses = torch.tensor([2.0, 3.0], dtype=torch.float64)
    objective = (torch.tensor([0.5, 1.0]) * (-s).exp() * losses + s / 2).sum()
    expected = torch.autograd.grad(objective, s)[0]
    close(balancer.gradient(losses), expected)

    direction, weights = toy.step(balancer, [2.0, 3.0])
    close(list(weights.values()), [0.5 * math.exp(-0.3), math.exp(-0.3)])
    close(direction, [weights['a'] - weights['b'], 2 * weights['b']])
    optimiser = torch.optim.Adam([s], lr=0.1)
    s.grad = expected
    optimiser.step()
    close(balancer.state['log_variance'], s.detach(), 1e-9)


def test_uncertainty_weighting_settles_at_the_loss():
    """At the optimum of the regression form sigma^2 = L."""
    toy = Toy(CONFLICT)
    balancer = toy.make('UW', {'lr': 0.05})
    for step in range(400):
        toy.step(balancer, [2.0, 0.5], step)
    close(balancer.state['log_variance'].exp(), [2.0, 0.5], 1e-2)


def test_imtl_l_brings_scaled_losses_to_one():
    toy = Toy(CONFLICT)
    balancer = toy.make('IMTL-L', {'lr': 0.05})
    for step in range(400):
        _, weights = toy.step(balancer, [4.0, 0.25], step)
    close([weights['a'] * 4.0, weights['b'] * 0.25], [1.0, 1.0], 1e-2)


def test_dwa_is_equation_7():
    toy = Toy(CONFLICT)
    balancer = toy.make('DWA', {'epoch_steps': 2})
    epochs = [([4.0, 2.0], [2.0, 2.0]), ([1.0, 1.0], [2.0, 3.0])]
    for step, values in enumerate(v for epoch in epochs for v in epoch):
        _, weights = toy.step(balancer, values, step)
        assert weights == {'a': 1.0, 'b': 1.0}
    _, weights = toy.step(balancer, [1.0, 1.0], 4)
    ratios = torch.tensor([1.5 / 3.0, 2.0 / 2.0])
    close(list(weights.values()), 2 * (ratios / 2.0).softmax(0))


def test_gls_is_the_gradient_of_the_geometric_mean():
    toy = Toy(THREE)
    losses = toy.losses([1.0, 4.0, 0.5])
    objective = torch.stack(list(losses.values())).prod() ** (1 / 3)
    expected = torch.autograd.grad(objective, toy.shared)[0]
    direction, _ = toy.step(toy.make('GLS'), [1.0, 4.0, 0.5])
    close(direction, expected)


def test_rlw_weights_are_random_and_sum_to_one():
    toy = Toy(THREE)
    balancer = toy.make('RLW', seed=3)
    draws = [tuple(toy.step(balancer, step=step)[1].values()) for step in range(20)]
    assert len(set(draws)) == 20
    close([sum(draw) for draw in draws], [1.0] * 20)
    again = toy.make('RLW', seed=3)
    assert tuple(toy.step(again, step=7)[1].values()) == draws[7]


def test_stch_is_its_smooth_maximum():
    toy = Toy(THREE)
    options = {'mu': 0.3, 'preferences': {'a': 2.0, 'b': 1.0, 'c': 1.0}, 'ideal': {'b': 0.5}}
    losses = torch.stack(list(toy.losses([1.0, 2.0, 1.5]).values()))
    wanted = torch.tensor([0.5, 0.25, 0.25])
    shifted = wanted * (losses - torch.tensor([0.0, 0.5, 0.0]))
    expected = torch.autograd.grad(0.3 * (shifted / 0.3).exp().sum().log(), toy.shared)[0]
    direction, _ = toy.step(toy.make('STCH', options), [1.0, 2.0, 1.5])
    close(direction, expected)
    _, weights = toy.step(toy.make('STCH', {'mu': 1e-4}), [1.0, 2.0, 1.5])
    close(list(weights.values()), [0.0, 1 / 3, 0.0])


def test_stch_with_nadir_is_the_authors_objective():
    toy = Toy(CONFLICT)
    balancer = toy.make('STCH', {'mu': 0.5, 'nadir_steps': 2})
    for step, values in enumerate(([1.0, 8.0], [3.0, 8.0])):
        _, weights = toy.step(balancer, values, step)
        close(list(weights.values()), [1 / values[0], 1 / values[1]])
    losses = torch.stack(list(toy.losses([1.5, 2.0]).values()))
    logs = (losses / torch.tensor([2.0, 8.0])).log()
    expected = torch.autograd.grad(2 * 0.5 * (logs / 0.5).exp().sum().log(), toy.shared)[0]
    direction, _ = toy.step(balancer, [1.5, 2.0], 2)
    close(direction, expected)


def test_famo_is_algorithm_1():
    """Objective of the step and update of the logits, by autograd and torch's Adam."""
    toy = Toy(CONFLICT)
    balancer = toy.make('FAMO', {'lr': 0.1, 'weight_decay': 0.01})
    logits = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.1, weight_decay=0.01)
    for step, (before, after) in enumerate((([2.0, 1.0], [1.0, 0.9]), ([1.0, 0.9], [0.9, 0.5]))):
        losses = torch.stack(list(toy.losses(before).values())).double()
        z = logits.softmax(0)
        c = 1 / (z / losses).sum().detach()
        expected = torch.autograd.grad(c * (z.detach() * losses.log()).sum(), toy.shared)[0]
        fall = (torch.tensor(before).log() - torch.tensor(after).log()).double()
        logits.grad = torch.autograd.grad(z, logits, fall)[0]
        optimiser.step()

        balancer.backward(step, toy.losses(before))
        weights = balancer.combine()
        balancer.after_step(toy.losses(after))
        close(toy.shared.grad, expected)
        close(sum(weights.values()), 1.0)
        close(balancer.state['logits'], logits.detach(), 1e-7)
    assert logits[0] < 0 < logits[1]  # 'a' fell faster at first, so 'b' is pushed
