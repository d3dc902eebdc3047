# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""A validation by one process or by two, in processes that a test starts."""

import json
from pathlib import Path
from types import SimpleNamespace

import torch
from tiny_training import CONFIG, exact_overrides
from torch import distributed

from training.config import RunConfig, load_config
from training.evaluation.results import headline
from training.evaluation.validation import validation_results
from training.networks.build import build_network
from training.processes import Processes


def configuration(data: Path, batch: int) -> RunConfig:
    more = ('validate_images=5', f'optimizer.batch_size={batch}', 'precision=32-true')
    return load_config(CONFIG, exact_overrides(data, data / 'run', *more))


def figures(data: Path, batch: int, rank: int = 0, world: int = 1) -> dict[str, float]:
    """With the same weights everywhere, and statistics that are the first process's alone."""
    config = configuration(data, batch)
    torch.manual_seed(0)
    network = build_network(config.network, config.task_table(), initialise=True).eval()
    if rank:
        for buffer in network.buffers():
            buffer.fill_(7)
    fabric = SimpleNamespace(global_rank=rank, world_size=world, device=torch.device('cpu'))
    return headline(validation_results(network, config, Processes(fabric)))


def process(rank: int, folder: str, data: str) -> None:
    """One of two ranks; leaves its figures in a file."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/meeting', rank=rank, world_size=2
    )
    found = figures(Path(data), 4, rank, 2)
    (Path(folder) / f'{rank}.json').write_text(json.dumps(found))
    distributed.destroy_process_group()
