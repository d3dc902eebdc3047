# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What trains faster on a CPU computes the same: values, gradients, names of the parameters."""

import copy

import pytest

torch = pytest.importorskip('torch', reason='training extras are not installed')
pytest.importorskip('timm', reason='training extras are not installed')

from timm.layers.conv2d_same import Conv2dSame  # noqa: E402
from torch import nn  # noqa: E402

from training.networks.cpu import DepthwiseConv2d, suit_cpu  # noqa: E402
from training.networks.trunk import Trunk  # noqa: E402

CONVOLUTIONS = {
    'five wide': nn.Conv2d(8, 8, 5, 1, 2, groups=8),
    'seven wide, strided': nn.Conv2d(8, 8, 7, 2, 3, groups=8, bias=False),
    'strided': nn.Conv2d(8, 8, 3, 2, 1, groups=8),
    'not square': nn.Conv2d(8, 8, (3, 7), (2, 1), (0, 3), groups=8),
    'same': Conv2dSame(8, 8, 5, 2, groups=8),
    'same, three wide': Conv2dSame(8, 8, 3, 2, groups=8, bias=False),
}


@pytest.mark.parametrize('size', [(12, 13), (13, 12)])
@pytest.mark.parametrize('name', CONVOLUTIONS)
def test_a_replaced_convolution_has_the_same_values_and_gradients(name, size):
    torch.manual_seed(0)
    plain = copy.deepcopy(CONVOLUTIONS[name]).double()
    replaced = DepthwiseConv2d(plain)
    image = torch.randn(2, 8, *size, dtype=torch.double, requires_grad=True)
    expected, found = plain(image), replaced(image)
    gradient = torch.randn_like(expected)
    learnt = [image, *plain.parameters()]

    torch.testing.assert_close(found, expected)
    for a, b in zip(
        torch.autograd.grad(found, learnt, gradient),
        torch.autograd.grad(expected, learnt, gradient),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_under_autocast_it_is_as_exact_as_bfloat16():
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 8, 5, 2, 2, groups=8)
    image = torch.randn(2, 8, 12, 12)
    with torch.autocast('cpu', torch.bfloat16):
        found = DepthwiseConv2d(plain)(image)
        found.float().square().sum().backward()
    kernel, plain.weight.grad = plain.weight.grad, None
    plain(image).square().sum().backward()

    assert found.dtype == torch.bfloat16
    assert kernel.dtype == torch.float32
    torch.testing.assert_close(kernel, plain.weight.grad, rtol=0.02, atol=0.5)


@pytest.mark.parametrize('name', ['pvt_v2_b0', 'tf_efficientnet_lite0', 'convnext_atto'])
def test_a_trunk_keeps_its_names_parameters_and_features(name):
    torch.manual_seed(0)
    trunk = Trunk(name).eval()
    parameters = dict(trunk.named_parameters())
    image = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    expected = trunk(image)

    suit_cpu(trunk)

    assert all(a is parameters[n] for n, a in trunk.named_parameters())
    assert list(dict(trunk.named_parameters())) == list(parameters)
    for a, b in zip(trunk(image), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_only_slow_depthwise_convolutions_are_replaced():
    network = nn.Sequential(
        nn.Conv2d(8, 8, 3, 1, 1, groups=8),
        nn.Conv2d(8, 8, 5, 1, 2, groups=4),
        nn.Conv2d(8, 8, 5, 1, 4, dilation=2, groups=8),
        nn.Conv2d(8, 8, 5, 1, 2, groups=8, padding_mode='reflect'),
        nn.Conv2d(8, 8, 5, 1, 2, groups=8),
    )
    suit_cpu(network)
    assert [type(module) for module in network] == [nn.Conv2d] * 4 + [DepthwiseConv2d]
