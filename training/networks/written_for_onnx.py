# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The same functions, written so that ONNX runtimes run them fast; nothing is computed otherwise.

torch's exporter writes GELU as `x * (0.5 * (1 + erf))`, which ONNX Runtime does not recognise and
runs in five passes, and PVTv2's mixed feed-forward layer turns its widest tensor between tokens
and planes twice a block. Here GELU is in the order that ONNX Runtime, OpenVINO and TensorRT fuse,
and the layer stays in planes from its first to its last matrix product, which become 1x1
convolutions; what is turned is four to eight times narrower. TensorFlow's "same" padding depends on
the image size; for images of a multiple of 32 it does not, and is written as a constant. Branches
that are parallel in training only (RepViT, FastViT, MobileOne) become the one convolution that
they add up to.
"""

from __future__ import annotations

import copy
import math
from typing import TypeVar

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.models.pvt_v2 import MlpWithDepthwiseConv
from timm.utils.model import reparameterize_model
from torch import Tensor, nn
from torch.nn import functional as F

from training.networks.trunk import Trunk

AnyModule = TypeVar('AnyModule', bound=nn.Module)


def written_for_onnx(network: AnyModule) -> AnyModule:
    """A copy of a network in eval mode with those modules exchanged; the network is left alone."""
    network = copy.deepcopy(network).eval()
    for trunk in [module for module in network.modules() if isinstance(module, Trunk)]:
        reparameterize_model(trunk.body, inplace=True)
    for parent in list(network.modules()):
        for name, module in list(parent.named_children()):
            if isinstance(module, MlpWithDepthwiseConv):
                setattr(parent, name, _PlanarMlp(module))
            elif isinstance(module, nn.GELU) and module.approximate == 'none':
                setattr(parent, name, _Gelu())
            elif isinstance(module, Conv2dSame):
                setattr(parent, name, _SameConv(module))
    return network


class _Gelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + torch.erf(x / math.sqrt(2))) * 0.5


class _SameConv(nn.Module):
    """`Conv2dSame` for inputs whose sides are multiples of its stride: all those of a trunk."""

    def __init__(self, conv: Conv2dSame) -> None:
        super().__init__()
        self.conv = conv
        sides = zip(conv.kernel_size, conv.stride, conv.dilation, strict=True)
        rows, columns = (max((k - 1) * d + 1 - s, 0) for k, s, d in sides)
        self.pad = [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2]

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        x = F.pad(x, self.pad)
        return F.conv2d(x, conv.weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups)


class _PlanarMlp(nn.Module):
    """`MlpWithDepthwiseConv` with its weights: tokens [B, N, C] in and out, planes between."""

    def __init__(self, mlp: MlpWithDepthwiseConv) -> None:
        super().__init__()
        self.fc1, self.fc2 = _pointwise(mlp.fc1), _pointwise(mlp.fc2)
        self.relu, self.dwconv = mlp.relu, mlp.dwconv
        self.act = _Gelu() if isinstance(mlp.act, nn.GELU) else mlp.act

    def forward(self, x: Tensor, feat_size: list[int]) -> Tensor:
        x = x.transpose(1, 2).unflatten(2, feat_size)
        x = self.act(self.dwconv(self.relu(self.fc1(x))))
        return self.fc2(x).flatten(2).transpose(1, 2)


def _pointwise(linear: nn.Linear) -> nn.Conv2d:
    """A linear layer as a 1x1 convolution that shares its weights."""
    conv = nn.Conv2d(linear.in_features, linear.out_features, 1, bias=linear.bias is not None)
    conv.weight = nn.Parameter(linear.weight[:, :, None, None], linear.weight.requires_grad)
    conv.bias = linear.bias
    return conv
