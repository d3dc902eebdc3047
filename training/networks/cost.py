# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What a network costs: parameters and operations by part."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from training.networks.base import DeployedNetwork, MultiTaskNetwork


def network_cost(network: MultiTaskNetwork, height: int, width: int) -> dict[str, Any]:
    """Parameters and operations of one image, of the whole and of each part.

    `gflop` counts a multiplication and an addition as two, over convolutions and matrix products
    (torch's FlopCounterMode); papers that count one have half of it, which is `gmac`. Where a head
    runs the trunk by itself (`sharing/visiting.py`), its part holds that run, and the trunk's holds
    all of them: parts then overlap. A network on the meta device is counted without being run.
    """
    device = next(network.parameters()).device
    image = torch.zeros(1, height, width, 3, dtype=torch.uint8, device=device)
    counter = FlopCounterMode(display=False)
    deployed = DeployedNetwork(network).eval()
    # The counter knows no fused attention of the CPU, but the products that it is made of.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        deployed(image)
    counts = counter.get_flop_counts()
    parts = {name: part for name, part in network.named_children() if name != 'heads'}
    parts |= {f'heads.{task.name}': network.head(task.name) for task in network.tasks}
    flop = {
        name: sum(counts.get(f'{type(deployed).__name__}.network.{name}', {}).values())
        for name in parts
    }
    total = counter.get_total_flops()
    return {
        'input': [height, width],
        'parameters': {
            'all': sum(p.numel() for p in network.parameters()),
            **{name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()},
        },
        'gflop': {'all': total / 1e9, **{name: value / 1e9 for name, value in flop.items()}},
        'gmac': total / 2e9,
    }
