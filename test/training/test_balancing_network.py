# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Balancing a real pyramid: HydraNet on pvt_v2_b0, through Fabric, with bf16; and a wired loop."""

import copy

import pytest

pytest.importorskip('torch', reason='training extras are not installed')

import torch
from lightning_fabric import Fabric
from torch import nn
from torchjd.aggregation import Sum, SumWeighting

from mtl_perception.tasks import TASKS
from training.balancing import CutFeatures, make_balancer, split_parameters
from training.balancing.gradient_balancing import GramianOptions, GramianWeighting
from training.balancing.gradients import (
    ParameterGradients,
    flat_gradient,
    plain_backward,
    write_gradient,
)
from training.networks.hydranet import HydraNet
from training.tasks import Features

NAMES = ('drivable', 'semantic', 'weather')
"""Two tasks that read the neck, one that reads the trunk's last stage."""


class SumOfGradients(GramianWeighting):
    """torchjd's Sum, for the test: it must be the gradient of the summed losses."""

    name = 'Sum'

    def weights(self, gramian, labelled):
        return SumWeighting()(gramian)


class Losses(nn.Module):
    """What `training.train.TaskLosses` is to the loop, with cut features where wanted."""

    def __init__(self, network, cut):
        super().__init__()
        self.network, self.cut = network, cut

    def forward(self, image, labelled=NAMES):
        features, cut = self.network.features(image), None
        if self.cut:
            cut = CutFeatures([*features.trunk, *features.neck])
            count = len(features.trunk)
            features = Features(cut.leaves[:count], cut.leaves[count:])
        rows = {'semantic': torch.tensor([0])}  # the second image has no semantic labels
        losses = {}
        for task in labelled:
            head = self.network.head(task)
            outputs = head(features.rows(rows.get(task, torch.arange(2))))
            pixels = torch.arange(64 * 64, dtype=torch.uint8).view(64, 64) % 3
            target = 1 if task == 'weather' else pixels
            targets = [target] * len(rows.get(task, range(2)))
            losses[task] = head.loss(outputs, targets) / head.normaliser(targets)
        return losses, cut


@pytest.fixture(scope='module')
def network():
    torch.manual_seed(0)
    return HydraNet('pvt_v2_b0', [TASKS[name] for name in NAMES], neck_channels=16).train()


@pytest.fixture(scope='module')
def image():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=generator)


def run(losses_of, image, labelled=NAMES):
    torch.manual_seed(3)  # dropout
    return losses_of(image, labelled)


def gradients(network):
    parameters = split_parameters(network, network.heads)
    heads = [p for head in parameters.heads.values() for p in head]
    return flat_gradient([*parameters.shared, *heads])


def plain(network, image, labelled=NAMES):
    network.zero_grad()
    losses, _ = run(Losses(network, cut=False), image, labelled)
    sum(losses.values()).backward()
    return gradients(network)


def difference(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def test_everything_is_shared_or_a_heads(network):
    parameters = split_parameters(network, network.heads)
    assert set(parameters.heads) == set(NAMES)
    count = sum(map(len, parameters.heads.values())) + len(parameters.shared)
    assert count == len(list(network.parameters()))
    trunk = {id(p) for p in [*network.trunk.parameters(), *network.neck.parameters()]}
    assert {id(p) for p in parameters.shared} == trunk


@pytest.mark.parametrize('kind', ['parameters', 'features'])
@pytest.mark.parametrize('labelled', [NAMES, ('drivable', 'weather')])
def test_the_sum_of_gradients_is_plain_backward(network, image, kind, labelled):
    expected = plain(network, image, labelled)
    parameters = split_parameters(network, network.heads)
    balancer = SumOfGradients(GramianOptions(kind), parameters, 0, 1, plain_backward)
    losses, cut = run(Losses(network, balancer.needs_features), image, labelled)
    balancer.backward(0, losses, cut)
    assert balancer.combine() == dict.fromkeys(labelled, 1.0)
    assert difference(gradients(network), expected) < 1e-6


def test_torchjds_sum_of_the_jacobian_is_plain_backward(network, image):
    expected = plain(network, image)
    shared = split_parameters(network, network.heads).shared
    network.zero_grad()
    rows = ParameterGradients(shared)
    rows.collect(run(Losses(network, cut=False), image)[0], plain_backward)
    write_gradient(shared, Sum()(rows.matrix(NAMES)))
    assert difference(gradients(network), expected) < 1e-6


def test_features_of_a_pyramid_that_are_not_cut_count_paths_twice(network, image):
    """The trap that CutFeatures is for: stride 32 depends on stride 16, the neck on the trunk."""
    expected = plain(network, image)
    network.zero_grad()
    torch.manual_seed(3)
    features = network.features(image)
    pyramid = [*features.trunk, *features.neck]
    head = network.head('weather')
    loss = head.loss(head(features), [1, 1])
    asked = torch.autograd.grad(loss, pyramid, retain_graph=True, allow_unused=True)
    known = [(f, a) for f, a in zip(pyramid, asked, strict=True) if a is not None]
    torch.autograd.backward([f for f, _ in known], [a for _, a in known])
    twice = flat_gradient(list(network.trunk.parameters()))
    network.zero_grad()
    torch.manual_seed(3)
    head.loss(head(network.features(image)), [1, 1]).backward()
    once = flat_gradient(list(network.trunk.parameters()))
    assert difference(twice, once) > 0.1
    assert expected.norm() > 0


@pytest.mark.parametrize('kind', ['parameters', 'features'])
def test_bf16_autocast_through_fabric(network, image, kind):
    """Fabric allows only its own backward on what its modules return, and converts outputs."""
    copied = copy.deepcopy(network)
    fabric = Fabric(accelerator='cpu', precision='bf16-mixed')
    wrapped = fabric.setup_module(Losses(copied, cut=False))
    losses, _ = run(wrapped, image)
    fabric.backward(sum(losses.values()))
    expected = gradients(copied)
    balancer = make_balancer(
        'PCGrad', {'gradients': kind}, split_parameters(copied, copied.heads),
        precision='bf16-mixed', backward=fabric.backward,
    )  # fmt: skip
    wrapped = fabric.setup_module(Losses(copied, balancer.needs_features))
    losses, cut = run(wrapped, image)
    balancer.backward(0, losses, cut)
    weights = balancer.combine()
    found = gradients(copied)
    assert found.dtype == torch.float32 and torch.isfinite(found).all()
    assert all(weight >= 1 for weight in weights.values())
    if set(weights.values()) == {1.0}:  # no conflicts: the sum
        assert difference(found, expected) < 0.05
    heads = [p for head in copied.heads.values() for p in head.parameters()]
    size = sum(p.numel() for p in heads)
    assert difference(flat_gradient(heads), expected[-size:]) < 0.05


@pytest.mark.parametrize(
    ('name', 'options'),
    [('UW', {}), ('FAMO', {}), ('MGDA', {'gradients': 'features'}), ('Auto-Lambda', {})],
)
def test_wired_loop_learns(network, image, name, options):
    """The loop that `base.py` describes, whole; one method of each kind of need."""
    network = copy.deepcopy(network)
    parameters = split_parameters(network, network.heads)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    balancer = make_balancer(name, options, parameters, seed=0)
    losses_of = Losses(network, balancer.needs_features)
    totals = []
    for step in range(3):
        losses, cut = run(losses_of, image)
        balancer.backward(step, losses, cut)
        weights = balancer.combine(lambda: losses_of(image)[0])
        assert set(weights) == set(NAMES)
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        if balancer.needs_after_step:
            with torch.no_grad():
                balancer.after_step(run(losses_of, image)[0])
        totals.append(sum(loss.item() for loss in losses.values()))
    assert totals[-1] < 0.95 * totals[0]
