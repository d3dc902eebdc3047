# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Networks rewritten for ONNX runtimes: the same answers, in forms that a runtime recognises."""

import onnx
import pytest
import timm
import torch
from torch import nn

from training.networks.trunk import Trunk
from training.networks.written_for_onnx import written_for_onnx


@pytest.mark.parametrize('trunk', ['pvt_v2_b0', 'pvt_v2_b2_li'])
def test_a_rewritten_trunk_answers_the_same(trunk):
    torch.manual_seed(0)
    body = timm.create_model(trunk, features_only=True).eval()
    rewritten = written_for_onnx(body)
    kinds = {type(module).__name__ for module in rewritten.modules()}
    image = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        for before, after in zip(body(image), rewritten(image), strict=True):
            torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
    assert 'MlpWithDepthwiseConv' not in kinds
    assert 'GELU' not in kinds


def test_branches_of_training_become_one_convolution():
    torch.manual_seed(0)
    trunk = Trunk('repvit_m0_9').eval()
    for module in trunk.modules():
        if isinstance(module, nn.BatchNorm2d):  # as after training: neither 0 nor 1
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    rewritten = written_for_onnx(nn.Sequential(trunk))
    image = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        for before, after in zip(trunk(image), rewritten(image), strict=True):
            torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    counts = [sum(isinstance(m, nn.Conv2d) for m in each.modules()) for each in (trunk, rewritten)]
    assert counts[1] < counts[0]
    assert not any(isinstance(module, nn.BatchNorm2d) for module in rewritten.modules())


def test_the_network_itself_is_left_alone():
    network = nn.Sequential(nn.Linear(4, 4), nn.GELU()).train()
    rewritten = written_for_onnx(network)
    assert isinstance(network[1], nn.GELU)
    assert network.training
    assert not rewritten.training


def test_the_approximate_gelu_stays_what_it_is():
    assert isinstance(written_for_onnx(nn.Sequential(nn.GELU('tanh')))[0], nn.GELU)


@pytest.mark.parametrize(('rewritten', 'expected'), [(False, 'Erf'), (True, 'Gelu')])
def test_onnxruntime_recognises_the_rewritten_gelu_only(tmp_path, rewritten, expected):
    """The first case says why this file is there: when it fails, GELU needs no rewriting."""
    onnxruntime = pytest.importorskip('onnxruntime')
    network = nn.Sequential(nn.Linear(8, 8), nn.GELU()).eval()
    if rewritten:
        network = written_for_onnx(network)
    graph, optimised = tmp_path / 'graph.onnx', tmp_path / 'optimised.onnx'
    torch.onnx.export(network, (torch.rand(2, 8),), graph, dynamo=True, opset_version=18)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(optimised)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(graph, options, providers=['CPUExecutionProvider'])
    kinds = {node.op_type for node in onnx.load(optimised).graph.node}
    assert any(expected in kind for kind in kinds), kinds
