# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What the machine can do: in which precision a network trains best, and what fits into memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from training.config import ConfigError

AUTO = 'auto'


LOWEST_TORCH = (2, 11)


def check_torch(version: str = torch.__version__) -> None:
    """Raise ConfigError for a torch that training was never tested with, because it is too old."""
    found = tuple(int(number) for number in version.split('.')[:2])
    if found < LOWEST_TORCH:
        lowest = '.'.join(map(str, LOWEST_TORCH))
        raise ConfigError(
            f'torch {version} is older than training supports, expected {lowest} or newer: '
            f'pip install -r requirements/training.txt'
        )


def working_precision(precision: str, accelerator: str) -> str:
    """Lightning Fabric's word for a configured precision; `auto` is what the device does fast.

    bf16-mixed on GPUs from Ampere on and on CPUs with AVX-512 BF16 or AMX; else 16-mixed on a GPU
    and 32-true on a CPU, where narrow numbers are emulated. Raises ValueError for bf16-mixed on a
    GPU without it.
    """
    gpu = accelerator in ('auto', 'cuda', 'gpu') and torch.cuda.is_available()
    if gpu and precision in (AUTO, 'bf16-mixed'):
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return 'bf16-mixed'
        if precision == AUTO:
            return '16-mixed'
        raise ValueError(
            f'precision bf16-mixed: {torch.cuda.get_device_name()} has no bfloat16; take 16-mixed '
            f'or 32-true'
        )
    if precision != AUTO:
        return precision
    return 'bf16-mixed' if cpu_has_bf16() else '32-true'


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 by itself; where torch cannot tell, it does not."""
    checks = ('_is_avx512_bf16_supported', '_is_amx_tile_supported')
    return any(getattr(torch.cpu, name, lambda: False)() for name in checks)


def is_out_of_memory(error: BaseException) -> bool:
    """Of a GPU, or of torch's allocator on a CPU, which has no class of its own for it."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def fitting_images(losses_of: nn.Module, batch: Any, images: int) -> int:
    """The largest half, quarter, ... of `images` whose losses and gradients fit; 0 for none.

    losses_of: takes (image, targets) of a batch. Leaves gradients behind.
    """
    inputs, targets = batch
    while images := images // 2:
        losses_of.zero_grad()
        if next(losses_of.parameters()).device.type == 'cuda':
            torch.cuda.empty_cache()
        part = slice(images)
        try:
            losses: Mapping[str, Tensor] = losses_of(
                _head(inputs, part), {task: values[part] for task, values in targets.items()}
            )
            torch.stack(list(losses.values())).sum().backward()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        else:
            return images
    return 0


def _head(inputs: Any, part: slice) -> Any:
    """Inputs of the losses are an image tensor, or a list of feature levels."""
    return inputs[part] if isinstance(inputs, Tensor) else [level[part] for level in inputs]
