# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Properties of what sharing structures can do beside their defaults; test_sharing.py has those."""

import math

import pytest

pytest.importorskip('torch', reason='training extras are not installed')
pytest.importorskip('timm', reason='training extras are not installed')

import torch
from test_sharing import TRANSFORMER, make

from training.config import OptimizerConfig
from training.networks.sharing.dselect_k import smooth_step
from training.networks.sharing.moe_ffn import chosen_chances, varied
from training.optimizer import parameter_groups


@pytest.fixture(scope='module')
def image():
    torch.manual_seed(1)
    return torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)


def test_dselect_gates_use_at_most_k_experts_once_their_steps_are_taken(image):
    depths = list(torch.rand(2, 64, 64) + 1)
    t = torch.tensor([-9.0, -0.5, 0.0, 0.5, 9.0])
    assert smooth_step(t, 1.0).tolist() == [0, 0, 0.5, 1, 1]  # exactly
    network = make('dselect_k', experts=4, selected=2).train()
    head = network.head('depth')
    level = network.features(image).trunk[-1]
    weights = head.gate(level)
    assert torch.allclose(weights.sum(1), torch.ones(2)) and (weights > 0).all()
    penalty = head.gate.penalty().item()
    assert penalty == pytest.approx(1e-3 * math.log(4), rel=0.01)
    outputs = head(network.features(image))
    assert head.loss(outputs, depths) > head.head.loss(outputs.outputs, depths)
    with torch.no_grad():
        head.gate.select.weight.zero_()
        head.gate.select.bias.copy_(torch.tensor([-1.0, 1.0, 1.0, 1.0]))  # experts 2 and 3
    weights = head.gate(level)
    assert (weights > 0).tolist() == [[False, False, True, True]] * 2
    assert torch.allclose(weights.sum(1), torch.ones(2)) and head.gate.penalty() < 1e-6


def test_the_chance_of_an_expert_is_how_often_its_own_noise_chooses_it():
    torch.manual_seed(0)
    clean, deviation = torch.randn(5), torch.rand(5) + 0.2
    noisy = clean + torch.randn(5) * deviation
    chances = chosen_chances(clean, noisy, deviation, 2)
    for i in range(5):
        again = noisy.expand(40_000, 5).clone()
        again[:, i] = clean[i] + torch.randn(40_000) * deviation[i]
        often = (again.topk(2).indices == i).any(1).float().mean().item()
        assert chances[i].item() == pytest.approx(often, abs=0.01)


def test_learned_noise_and_the_load_penalty_of_shazeer(image):
    more = {'experts': 4, 'top_k': 2, 'balance': 0.0, 'load': 0.1, 'learned_noise': True}
    network = make('moe_ffn', TRANSFORMER, **more).train()
    outputs = network.head('depth')(network.features(image))
    outputs.penalty.backward()
    routers = network.head('depth').visitor
    assert all(layer.weight.grad.abs().sum() > 0 for layer in routers.noise)
    even = [torch.full((4,), 0.5)]
    assert varied(even) == 0 and varied([torch.tensor([1.0, 1.0, 0.0, 0.0])]) == 1
    assert network.eval().head('depth')(network.features(image)).penalty is None


def test_low_rank_adapters_begin_as_the_trunk_and_stay_of_their_rank(image):
    network = make('adapters', rank=2, excitation=False).eval()
    plain = network.trunk(network.trunk.start(image))
    adapted = network.features(image).of('depth').trunk
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(adapted, plain, strict=True))
    adapter = next(a for a in network.head('depth').visitor.adapters if a.residual is not None)
    with torch.no_grad():
        adapter.residual[-1].weight.normal_()
    x = torch.zeros(64, *[adapter.residual[-1].out_features if i == adapter.axis else 1
                          for i in range(1, 4)]).normal_()  # fmt: skip
    added = (adapter(x, torch.zeros_like(x))).flatten(1)
    assert torch.linalg.matrix_rank(added, rtol=1e-4) == 2
    full = sum(p.numel() for p in make('adapters', excitation=False).parameters())
    assert sum(p.numel() for p in network.parameters()) < full


@pytest.mark.parametrize('name', ['cross_stitch', 'nddr'])
def test_what_is_between_the_trunks_may_learn_faster(name):
    network = make(name, lr_factor=100.0)
    groups = parameter_groups(network, OptimizerConfig(trunk_lr=0.5))
    factor = {id(p): group['lr_scale'] for group in groups for p in group['params']}
    assert {factor[id(p)] for p in network.mixes.parameters()} == {100.0}
    assert {factor[id(p)] for p in network.trunk.parameters()} == {0.5}
    assert {factor[id(p)] for p in network.heads.parameters()} == {1.0}
    plain = parameter_groups(make(name), OptimizerConfig())
    assert {group['lr_scale'] for group in plain} == {1.0}
