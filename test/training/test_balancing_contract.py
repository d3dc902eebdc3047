# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What all balancing methods promise: partial labels, accumulation, resume, seeds, refusals."""

import dataclasses
import logging
import re
from pathlib import Path

import pytest

pytest.importorskip('torch', reason='training extras are not installed')

import torch
from balancing_toy import THREE, Toy

from training.balancing import METHODS, BalancingError, Parameters, make_balancer
from training.balancing.options import read_options

ROWS = torch.tensor(THREE)
VALUES = ([1.0, 2.0, 0.5], [0.8, 1.9, 0.6], [0.9, 1.2, 0.4], [0.7, 1.1, 0.5])
OPTIONS = {'DWA': {'epoch_steps': 1}, 'STCH': {'nadir_steps': 1}}
PARTS = {'SDMGrad': 3, 'MoDo': 3}

every_method = pytest.mark.parametrize('name', METHODS)


def make(toy, name, **keywords):
    keywords = {'parts': PARTS.get(name, 1), 'seed': 5, **keywords}
    return toy.make(name, OPTIONS.get(name, {}), **keywords)


def rows_of(step):
    return ROWS.roll(step, 1) * (1 + 0.1 * step)


@every_method
def test_a_task_without_labels_keeps_its_state(name):
    toy = Toy(ROWS)
    balancer = make(toy, name)
    for step in range(2):
        toy.step(balancer, VALUES[step], step, rows=rows_of(step))
    before = balancer.state_dict()
    direction, weights = toy.step(balancer, VALUES[2], 2, tasks=('a', 'c'), rows=rows_of(2))
    assert toy.heads['b'].grad is None and toy.heads['a'].grad is not None
    assert torch.isfinite(direction).all() and direction.norm() > 0
    assert set(weights) == ({'a', 'c'} if name != 'GradDrop' else set())
    for key, value in balancer.state.items():
        if value.shape[:1] == (3,) and (name, key) not in (
            ('DWA', 'count'), ('DWA', 'sum'), ('DWA', 'before'), ('DWA', 'last'),
        ):  # fmt: skip
            assert torch.equal(value[1], before[key][1]), key
    direction, weights = toy.step(balancer, VALUES[3], 3, rows=rows_of(3))
    assert torch.isfinite(direction).all() and toy.heads['b'].grad is not None


def test_dwa_keeps_the_averages_of_a_task_that_an_epoch_lacks():
    toy = Toy(ROWS)
    balancer = make(toy, 'DWA')
    for step in range(2):
        toy.step(balancer, VALUES[step], step)
    toy.step(balancer, VALUES[2], 2, tasks=('a', 'c'))
    torch.testing.assert_close(balancer.state['last'], torch.tensor([0.9, 1.9, 0.4]).double())
    torch.testing.assert_close(balancer.state['before'], torch.tensor([0.8, 2.0, 0.6]).double())


@every_method
def test_a_step_that_nobody_labels_changes_nothing(name):
    toy = Toy(ROWS)
    balancer = make(toy, name)
    toy.step(balancer, VALUES[0])
    before = balancer.state_dict()
    for _ in range(balancer.parts):
        balancer.backward(1, {})
    assert balancer.combine(validation=toy.losses) == {}
    assert toy.shared.grad is None and all(head.grad is None for head in toy.heads.values())
    assert all(torch.equal(before[key], value) for key, value in balancer.state.items())


@every_method
def test_accumulated_parts_are_one_batch(name):
    """Two parts with other labels each equal one batch: direction, heads, weights and state."""
    whole, split = Toy(ROWS), Toy(ROWS)
    parts = 2 * PARTS.get(name, 1)
    one, two = make(whole, name), make(split, name, parts=parts)
    for step, values in enumerate(VALUES):
        direction, weights = whole.step(one, values, step, rows=rows_of(step))
        again, same = split.step(two, values, step, rows=rows_of(step))
        torch.testing.assert_close(again, direction, atol=1e-5, rtol=1e-5)
        assert same == pytest.approx(weights, abs=1e-5)
        for task, head in whole.heads.items():
            torch.testing.assert_close(split.heads[task].grad, head.grad, atol=1e-5, rtol=1e-5)
    for key, value in one.state.items():
        torch.testing.assert_close(two.state[key], value, atol=1e-5, rtol=1e-5)


@every_method
def test_parts_may_label_different_tasks(name):
    toy = Toy(ROWS)
    parts = 2 * PARTS.get(name, 1)
    balancer = make(toy, name, parts=parts)
    for part in range(parts):
        tasks = ('a', 'b') if part < parts // 2 else ('b', 'c')
        balancer.backward(0, toy.losses(VALUES[0], tasks, 1 / parts))
    weights = balancer.combine(validation=toy.losses)
    assert set(weights) == (set('abc') if name != 'GradDrop' else set())
    assert all(head.grad is not None for head in toy.heads.values())
    assert torch.isfinite(toy.shared.grad).all()


@every_method
def test_a_resumed_run_goes_on_bit_for_bit(name):
    def run(toy, balancer, steps):
        return [toy.step(balancer, VALUES[s], s, rows=rows_of(s))[0] for s in steps]

    straight = Toy(ROWS)
    expected = run(straight, make(straight, name), range(4))
    toy = Toy(ROWS)
    first = make(toy, name)
    found = run(toy, first, range(2))
    saved = first.state_dict()
    assert all(isinstance(value, torch.Tensor) for value in saved.values())
    second = make(toy, name)
    second.load_state_dict(saved)
    run(toy, first, range(2, 4))  # must not reach into what was saved
    found += run(toy, second, range(2, 4))
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


@every_method
def test_randomness_is_a_function_of_seed_and_step(name):
    toy = Toy(ROWS)
    torch.manual_seed(1)
    first, _ = toy.step(make(toy, name), VALUES[0], 7)
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    again, _ = toy.step(make(toy, name), VALUES[0], 7)
    assert torch.equal(first, again)
    torch.manual_seed(1)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize('name', ['RLW', 'PCGrad', 'GradVac', 'GradDrop'])
def test_random_methods_differ_between_steps_and_seeds(name):
    rows = torch.randn(4, 3, generator=torch.Generator().manual_seed(4))
    toy = Toy(rows)

    def direction(seed, step):
        balancer = toy.make(name, seed=seed)
        if name == 'GradVac':
            balancer.state['target'].fill_(0.2)
        return tuple(toy.step(balancer, step=step)[0].tolist())

    assert len({direction(0, step) for step in range(8)}) > 1
    assert len({direction(seed, 0) for seed in range(8)}) > 1


POSITIVE = ['UW', 'DWA', 'GLS', 'STCH', 'IMTL-L', 'FAMO', 'GradNorm', 'DB-MTL']


@pytest.mark.parametrize('name', POSITIVE)
def test_negative_losses_are_refused_in_one_sentence(name):
    toy = Toy(ROWS)
    with pytest.raises(BalancingError, match=r"loss of 'b' at step 3 is -0.5.*cannot be negative"):
        toy.step(make(toy, name), [1.0, -0.5, 1.0], 3)


@pytest.mark.parametrize('name', POSITIVE)
def test_a_loss_of_zero_counts_as_unlabelled(name, caplog):
    toy = Toy(ROWS)
    balancer = make(toy, name)
    toy.step(balancer, VALUES[0])
    with caplog.at_level(logging.WARNING):
        for step in (1, 2):
            direction, weights = toy.step(balancer, [1.0, 0.0, 1.0], step)
            assert set(weights) == {'a', 'c'} and torch.isfinite(direction).all()
            assert toy.heads['b'].grad is None
    assert len([r for r in caplog.records if 'counts as unlabelled' in r.message]) == 1


@pytest.mark.parametrize('name', [n for n in METHODS if n not in POSITIVE])
def test_other_methods_take_any_finite_loss(name):
    toy = Toy(ROWS)
    direction, _ = toy.step(make(toy, name), [1.0, -0.5, 0.0])
    assert torch.isfinite(direction).all()


@every_method
def test_a_loss_that_is_not_finite_is_refused(name):
    toy = Toy(ROWS)
    with pytest.raises(BalancingError, match="loss of 'a' at step 0 is nan"):
        toy.step(make(toy, name), [float('nan'), 1.0, 1.0])


@pytest.mark.parametrize('name', ['MGDA', 'DB-MTL'])
def test_a_gradient_that_is_not_finite_is_refused(name):
    toy = Toy(ROWS)
    balancer = make(toy, name)
    losses = toy.losses(VALUES[0])
    losses['b'] = 1 + toy.shared[0].abs().sqrt()  # at 0
    balancer.backward(0, losses)
    with pytest.raises(BalancingError, match=r"gradient of step 0 is not finite.*'b': nan"):
        balancer.combine()


@every_method
def test_one_labelled_task_and_vanishing_gradients_do_no_harm(name):
    toy = Toy(ROWS)
    balancer = make(toy, name)
    direction, _ = toy.step(balancer, VALUES[0], tasks=('b',))
    assert torch.isfinite(direction).all()
    assert direction @ ROWS[1] > 0
    for rows in (0 * ROWS, torch.stack([ROWS[0], 0 * ROWS[0], -ROWS[0]])):
        direction, weights = toy.step(balancer, VALUES[1], 1, rows=rows)
        assert torch.isfinite(direction).all()
        assert all(torch.isfinite(torch.tensor(list(weights.values()))))


@every_method
def test_defaults_are_within_their_ranges(name):
    kind = METHODS[name].Options
    assert read_options(kind, name, dataclasses.asdict(kind()), ()) == kind()


@pytest.mark.parametrize(
    ('name', 'options', 'message'),
    [
        ('PCgrad', {}, "unknown balancing method 'PCgrad'.*did you mean 'PCGrad'"),
        ('DWA', {'temprature': 2}, "option of DWA 'temprature'.*did you mean 'temperature'"),
        ('DWA', {'temperature': 0}, "'temperature' is 0, expected a number above 0"),
        ('DWA', {'epoch_steps': 1.5}, "'epoch_steps' is 1.5, expected an integer from 1"),
        ('CAGrad', {'c': True}, "'c' is True, expected a number"),
        ('CAGrad', {'c': float('nan')}, "'c' is nan, expected a number"),
        ('AlignedMTL', {'scale': 'max'}, "'max', expected one of .*'median'"),
        ('MoCo', {'normalise': 1}, r"'normalise' is 1, expected one of \[False, True\]"),
        ('static', {'weights': {'q': 1.0}}, "unknown task in static: option 'weights' 'q'"),
        ('static', {'weights': 3}, 'expected a value for each of some tasks'),
        ('UW', {'forms': {'a': 'regresion'}}, "'regresion', expected one of"),
        ('equal', {'weight': 1}, 'unknown option of equal'),
    ],
)
def test_wrong_options_are_named(name, options, message):
    with pytest.raises(BalancingError, match=message):
        Toy(ROWS).make(name, options)


@pytest.mark.parametrize(
    ('name', 'options', 'keywords', 'message'),
    [
        ('MGDA', {'gradients': 'features'}, {'parts': 2}, 'does not go with 2 accumulated parts'),
        ('SDMGrad', {}, {'parts': 2}, 'three independent samples.*found 2'),
        ('MoDo', {}, {'parts': 1}, 'three independent samples.*found 1'),
        ('PCGrad', {}, {'precision': '16-mixed'}, 'PCGrad compares gradients.*use bf16-mixed'),
        ('RLW', {}, {'seed': -1}, 'seed -1'),
    ],
)
def test_what_cannot_work_together_is_refused(name, options, keywords, message):
    with pytest.raises(BalancingError, match=message):
        Toy(ROWS).make(name, options, **keywords)


def test_a_frozen_trunk_has_no_gradients_to_balance_but_losses_to_weight():
    toy = Toy(ROWS)
    frozen = Parameters((), toy.parameters.heads)
    with pytest.raises(BalancingError, match='unfreeze the trunk'):
        make_balancer('CAGrad', {}, frozen)
    for name, parts in (('UW', 1), ('GLS', 2)):
        balancer = make_balancer(name, {}, frozen, parts=parts)
        for _ in range(parts):
            balancer.backward(0, toy.losses())
        assert set(balancer.combine()) == {'a', 'b', 'c'}


def test_wrong_calls_are_refused():
    toy = Toy(ROWS)
    balancer = toy.make('MGDA')
    with pytest.raises(BalancingError, match=r'combine\(\) after 0 calls'):
        balancer.combine()
    balancer.backward(0, toy.losses())
    with pytest.raises(BalancingError, match=r'more than 1 calls of backward\(\)'):
        balancer.backward(0, toy.losses())
    with pytest.raises(BalancingError, match=r'one scalar loss.*of shape'):
        toy.make('MGDA').backward(0, {'a': torch.zeros(2)})
    with pytest.raises(BalancingError, match='no use for losses after the step'):
        balancer.after_step({})
    with pytest.raises(BalancingError, match=r'after_step\(\) comes once'):
        toy.make('FAMO').after_step(toy.losses())
    unlabelled = toy.make('FAMO')
    unlabelled.backward(0, {})
    assert unlabelled.combine() == {}
    unlabelled.after_step({})  # as after any step
    auto = toy.make('Auto-Lambda')
    auto.backward(0, toy.losses())
    with pytest.raises(BalancingError, match='no validation batch'):
        auto.combine()
    with pytest.raises(BalancingError, match='given no features'):
        toy.make('MGDA', {'gradients': 'features'}).backward(0, toy.losses())
    other = Toy(ROWS[:2]).make('UW')
    with pytest.raises(BalancingError, match='saved state does not fit'):
        other.load_state_dict(toy.make('UW').state_dict())


def test_the_document_lists_every_method_once():
    text = (Path(__file__).parents[2] / 'docs' / 'balancing.md').read_text('utf-8')
    rows = re.findall(r'^\| `([^`]+)` \|', text, re.M)
    assert sorted(rows) == sorted(METHODS)
