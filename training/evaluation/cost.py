"""What a network costs: parameters and operations by part, and time beside another's."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mtl_evaluation.bench.timing import take_turns, timing_figures
from mtl_perception.pipeline import Frame, Pipeline
from training.networks.base import DeployedNetwork, MultiTaskNetwork

LATENCY_NOTE = (
    'Times of this machine at that load. They took turns on every frame, so paired_ratio_median is '
    'the figure that carries over, and not the milliseconds; with more load than cores neither is.'
)


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


def paired_latency(
    pipelines: dict[str, Pipeline], frames: Sequence[Frame], count: int
) -> dict[str, Any]:
    """Times of the whole way of a frame, all tasks; ratios are against the first pipeline."""
    load = os.getloadavg()[0]
    timings = take_turns(pipelines, frames, count)
    height, width = frames[0].pixels.shape[:2]
    return {
        'frames': count,
        'source': [width, height],
        'load_average': round(load, 1),
        'note': LATENCY_NOTE,
        'pipelines': timing_figures(pipelines, timings),
    }
