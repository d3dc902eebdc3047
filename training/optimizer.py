# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""How far each parameter goes in a step: schedule, groups of AdamW, and the weights' average."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from training.config import OptimizerConfig


def learning_rate(step: int, config: OptimizerConfig) -> float:
    """Linear warm-up, then cosine (Loshchilov and Hutter, ICLR 2017) down to the final ratio."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.lr * (config.final_lr_ratio + (1 - config.final_lr_ratio) * cosine)


@torch.no_grad()
def update_ema(ema: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average of weights and batch-norm statistics; the decay warms up."""
    pairs = list(zip(ema.state_dict().values(), network.state_dict().values(), strict=True))
    floats = [pair for pair in pairs if pair[0].is_floating_point()]
    average = get_ema_multi_avg_fn(min(decay, (1 + step) / (10 + step)))
    average([kept for kept, _ in floats], [fresh for _, fresh in floats], None)
    for kept, fresh in pairs:
        if not kept.is_floating_point():
            kept.copy_(fresh)


def parameter_groups(network: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Groups of AdamW; frozen parameters stay out. `lr_scale`: factor on the learning rate.

    Weight decay on matrices and kernels; not on biases and norms, nor on what a module lists in
    `no_weight_decay` (gates, queries, mixing weights), whose zero means something. The trunk learns
    with `trunk_lr`, its earlier stages with less (`layer_decay`; BEiT: Bao et al., ICLR 2022), and
    a module that has an `lr_factor` with that times the learning rate.
    """
    kept = {
        id(getattr(module, name))
        for module in network.modules()
        for name in getattr(module, 'no_weight_decay', ())
    }
    scales = trunk_scales(getattr(network, 'trunk', None), config)
    for module in network.modules():
        if factor := getattr(module, 'lr_factor', None):
            scales |= {id(parameter): factor for parameter in module.parameters()}
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for parameter in network.parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and id(parameter) not in kept
            scale = scales.get(id(parameter), 1.0)
            group = groups.setdefault(
                (scale, decays),
                {'params': [], 'weight_decay': config.weight_decay * decays, 'lr_scale': scale},
            )
            group['params'].append(parameter)
    return [groups[key] for key in sorted(groups, reverse=True)]


def trunk_scales(trunk: nn.Module | None, config: OptimizerConfig) -> dict[int, float]:
    """Learning-rate factors of the trunk's parameters, by `id`; nothing for a trunk like the rest.

    A parameter belongs to the finest level that depends on it.
    """
    if trunk is None or config.trunk_lr == config.layer_decay == 1:
        return {}
    if config.layer_decay == 1:
        return {id(parameter): config.trunk_lr for parameter in trunk.parameters()}
    device = next(trunk.parameters()).device
    training = trunk.training
    scales: dict[int, float] = {}
    levels = trunk.eval()(torch.zeros(1, 3, 64, 64, device=device))
    parameters = [p for p in trunk.parameters() if p.requires_grad]
    for depth, level in enumerate(levels):
        found = torch.autograd.grad(level.sum(), parameters, retain_graph=True, allow_unused=True)
        factor = config.trunk_lr * config.layer_decay ** (len(levels) - 1 - depth)
        for parameter, gradient in zip(parameters, found, strict=True):
            if gradient is not None:
                scales.setdefault(id(parameter), factor)
    trunk.train(training)
    return scales
