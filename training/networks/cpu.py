# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What makes the same network train faster on a CPU; not its parameters, nor what it computes.

Measured on Zen 4 (avx512_bf16) with torch 2.14 and oneDNN 3.12. Depthwise convolutions: oneDNN's
fast kernels give weight gradients for kernels of at most three columns, and bfloat16 image
gradients for stride 1; the rest takes 10 to 50 times as long. Wider weight gradients are therefore
taken three columns at a time, and the image gradient of a strided convolution as a plain
convolution of the spread out gradient with the mirrored kernel. Attention: in bfloat16 the fused
kernel's backward pass takes longer than the matrix products that it saves.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

COLUMNS = 3
"""Widest kernel for which oneDNN has a fast weight gradient."""


def suit_cpu(network: nn.Module) -> None:
    """Replace in place what trains slowly on a CPU; names and parameters stay as they are."""
    for module in network.modules():
        if hasattr(module, 'fused_attn'):  # timm's attention blocks
            setattr(module, 'fused_attn', False)  # noqa: B010, a plain bool for nn.Module's types
        for name, child in module.named_children():
            if type(child) in (nn.Conv2d, Conv2dSame) and _slow(cast(nn.Conv2d, child)):
                setattr(module, name, DepthwiseConv2d(cast(nn.Conv2d, child)))


def _slow(module: nn.Conv2d) -> bool:
    return (
        module.groups == module.in_channels == module.out_channels
        and module.dilation == (1, 1)
        and not isinstance(module.padding, str)
        and module.padding_mode == 'zeros'
        and (module.kernel_size[1] > COLUMNS or max(module.stride) > 1)
    )


class DepthwiseConv2d(nn.Module):
    """The depthwise convolution `original`, with its parameters under the same names."""

    def __init__(self, original: nn.Conv2d) -> None:
        """original: zero padded, without dilation, or timm's `Conv2dSame`."""
        super().__init__()
        self.weight, self.bias = original.weight, original.bias
        self.stride, self.padding = original.stride, original.padding
        self.same = isinstance(original, Conv2dSame)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H', W']."""
        weight = self.weight
        if self.same:
            x = pad_same(x, list(weight.shape[-2:]), list(self.stride))
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            x, weight = x.to(dtype), weight.to(dtype)
        y = _Depthwise.apply(x, weight, self.stride, (0, 0) if self.same else self.padding)
        return y if self.bias is None else y + self.bias[:, None, None].to(y.dtype)


class _Depthwise(torch.autograd.Function):
    """Depthwise convolution of [B, C, H, W] with [C, 1, h, w], by the fast kernels only."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, None, stride, padding, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        image = _image_gradient(grad, x, weight, ctx) if ctx.needs_input_grad[0] else None
        kernel = _kernel_gradient(grad, x, weight, ctx) if ctx.needs_input_grad[1] else None
        return image, kernel, None, None


def _image_gradient(grad: Tensor, x: Tensor, weight: Tensor, ctx: Any) -> Tensor:
    """The gradient, spread out to stride 1, convolved with the mirrored kernel."""
    (sy, sx), (py, px), (h, w) = ctx.stride, ctx.padding, weight.shape[-2:]
    if (sy, sx) != (1, 1):
        # What a stride leaves over at the far edges meets no kernel: zeros stand for it.
        height, width = x.shape[2] + 2 * py - h + 1, x.shape[3] + 2 * px - w + 1
        spread = grad.new_zeros(len(grad), height, width, grad.shape[1]).permute(0, 3, 1, 2)
        spread[:, :, ::sy, ::sx] = grad
        grad = spread
    return F.conv2d(grad, weight.flip(2, 3), padding=(h - 1 - py, w - 1 - px), groups=len(weight))


def _kernel_gradient(grad: Tensor, x: Tensor, weight: Tensor, ctx: Any) -> Tensor:
    """`COLUMNS` columns of the kernel at a time."""
    (sy, sx), (py, px), (h, w) = ctx.stride, ctx.padding, weight.shape[-2:]
    if py or px:
        x = F.pad(x, (px, px, py, py))
    rows, columns = sy * (grad.shape[2] - 1) + h, sx * (grad.shape[3] - 1)
    parts = []
    for first in range(0, w, COLUMNS):
        part = weight[..., first : first + COLUMNS]
        seen = x[:, :, :rows, first : first + columns + part.shape[3]]
        parts.append(
            torch.ops.aten.convolution_backward(
                grad, seen.contiguous(memory_format=torch.channels_last), part.contiguous(), None,
                [sy, sx], [0, 0], [1, 1], False, [0, 0], len(weight), [False, True, False],
            )[1]
        )  # fmt: skip
    return torch.cat(parts, dim=3)
