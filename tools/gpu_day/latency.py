# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Latency of deployed graphs in torch: eager, compiled, and replayed as a CUDA graph.

uint8 images in, the graph contract's outputs out, random weights, batch 1, 4 and 8. YOLOP beside
ours, built by `training.networks.references`. On a CPU eager in single precision alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mtl_perception.tasks import ALL_TASKS
from training.config import NetworkConfig
from training.networks.base import DeployedNetwork
from training.networks.build import build_network

TASKS = ('detection', 'drivable', 'lane', 'semantic', 'weather', 'scene', 'timeofday')
PEER_TASKS = ('detection', 'drivable', 'lane')
BATCHES = (1, 4, 8)
WARM_UP = 10


def timed(call: Callable[[], Any], runs: int, gpu: bool) -> dict[str, float]:
    """Milliseconds of one call, waited for."""
    times = []
    for _ in range(WARM_UP if gpu else 1):
        call()
    for _ in range(runs):
        if gpu:
            torch.cuda.synchronize()
        begun = time.perf_counter()
        call()
        if gpu:
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - begun))
    cuts = statistics.quantiles(times, n=100, method='inclusive')
    return {'p50_ms': round(cuts[49], 3), 'p99_ms': round(cuts[98], 3)}


def as_cuda_graph(module: Callable[[torch.Tensor], Any], image: torch.Tensor) -> Callable[[], None]:
    """The launches of one call, recorded and replayed at once."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            module(image)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        module(image)
    return graph.replay


@torch.no_grad()
def latencies(network: NetworkConfig, tasks: tuple[str, ...], args: Any) -> dict[str, Any]:
    """By way of running and batch; what a way cannot do is its error."""
    gpu = torch.cuda.is_available() and not args.cpu
    device = torch.device('cuda' if gpu else 'cpu')
    built = build_network(network, tuple(ALL_TASKS[task] for task in tasks), initialise=False)
    module = DeployedNetwork(built).eval().to(device, memory_format=torch.channels_last)

    def run(image: torch.Tensor) -> Any:
        with torch.autocast('cuda', torch.float16, enabled=gpu):
            return module(image)

    compiled = torch.compile(run) if gpu else None
    found: dict[str, Any] = {}
    for batch in BATCHES:
        image = torch.zeros(batch, args.height, args.width, 3, dtype=torch.uint8, device=device)
        ways: dict[str, Callable[[], Callable[[], Any]]] = {
            'eager': lambda image=image: lambda: run(image),
        }
        if gpu:
            ways |= {
                'compiled': lambda image=image: lambda: compiled(image),
                'cuda graph': lambda image=image: as_cuda_graph(run, image),
                'compiled, cuda graph': lambda image=image: as_cuda_graph(compiled, image),
            }
        for name, prepare in ways.items():
            try:
                found.setdefault(name, {})[batch] = timed(prepare(), args.runs, gpu)
            except Exception as error:  # one way of several: the others are still measured
                found.setdefault(name, {})[batch] = f'{type(error).__name__}: {error}'[:300]
    return found


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--trunks', nargs='+', default=['pvt_v2_b0'])
    parser.add_argument('--height', type=int, default=384)
    parser.add_argument('--width', type=int, default=640)
    parser.add_argument('--runs', type=int, default=300)
    parser.add_argument('--cpu', action='store_true')
    parser.add_argument('--json', type=Path, required=True)
    args = parser.parse_args()
    networks = {trunk: (NetworkConfig(trunk=trunk), TASKS) for trunk in args.trunks}
    networks['yolop'] = (NetworkConfig(architecture='yolop'), PEER_TASKS)
    gpu = torch.cuda.is_available() and not args.cpu
    record = {
        'command': ' '.join(sys.argv),
        'size': [args.height, args.width],
        'precision': 'fp16 autocast' if gpu else 'fp32',
        'device': torch.cuda.get_device_name() if gpu else 'cpu',
        'torch': torch.__version__,
        'networks': {},
    }
    for name, (network, tasks) in networks.items():
        record['networks'][name] = latencies(network, tasks, args)
        args.json.write_text(json.dumps(record, indent=1) + '\n', 'utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(main())
