# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What the networks of a study cost: `python -m training.study.cost STUDY.yaml`.

Parameters, operations, memory and time of one image, of every network that has a finished cell.
They take turns on the same frames, in one process, so what else the machine does falls on all of
them alike; the ratios carry over, the milliseconds do not. All of them run in torch, in single
precision, the whole way of a frame. `OUTPUT/cost.json` is written when all are measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from mtl_evaluation.bench.timing import take_turns
from mtl_perception import machine
from mtl_perception.engines.base import EngineError
from mtl_perception.frame import Frame
from training.checkpoint import BEST, LAST, CheckpointError, find_checkpoint
from training.command import run
from training.config import ConfigError
from training.data.layout import open_layouts
from training.data.sample import DatasetError
from training.evaluation.model import open_model
from training.evaluation.scoring import chosen
from training.networks.base import DeployedNetwork
from training.networks.cost import network_cost
from training.study.cells import RUN, Cell, plan, read_json, replace_text
from training.study.config import StudyConfig, StudyError, load_study

COST = 'cost.json'
FRAMES = 10


def representatives(cells: Iterable[Cell]) -> dict[str, Cell]:
    """Model id -> the first finished cell that trained such a network, with weights if any is."""
    found: dict[str, Cell] = {}
    for cell in (cell for cell in cells if cell.state() == 'finished'):
        known = found.setdefault(cell.model.id, cell)
        if not _has_weights(known) and _has_weights(cell):
            found[cell.model.id] = cell
    return found


def _has_weights(cell: Cell) -> bool:
    return any(find_checkpoint(cell.folder / RUN / name) for name in (BEST, LAST))


def outdated(study: StudyConfig, cells: Iterable[Cell]) -> bool:
    """Whether a network with a finished cell has not been measured."""
    measured = read_json(study.output / COST).get('models', {})
    return any(name not in measured for name in representatives(cells))


def measure_costs(study: StudyConfig, cells: Iterable[Cell]) -> dict[str, Any]:
    """Measure all networks and write cost.json; raises what opening a run raises."""
    found = representatives(cells)
    if bare := [name for name, cell in found.items() if not _has_weights(cell)]:
        raise StudyError(
            f'costs: the weights of {bare[0]} are not in {study.output}, as after `unpack`, and '
            f'times are of networks that take turns; run one of its cells under another seed'
        )
    models = {name: open_model(str(cell.folder / RUN)) for name, cell in found.items()}
    if not models:
        raise StudyError(f'{study.output}: no finished cell whose network could be measured')
    config = plan(study)[0].config()
    layout = open_layouts(config.data, study.split)[0]
    frames = [Frame(layout.load(index).image, 'rgb') for index in chosen(layout, FRAMES)]
    turns = take_turns(
        {name: model.pipeline for name, model in models.items()}, frames, study.latency_frames
    )
    record: dict[str, Any] = {'machine': machine.describe(), 'models': {}}
    for name, model in models.items():
        assert model.network is not None
        height, width = config.augment.input_height, config.augment.input_width
        cost = network_cost(model.network, height, width)
        record['models'][name] = {
            'input': [height, width],
            'parameters': cost['parameters']['all'],
            'parameters_by_part': cost['parameters'],
            'gflop': cost['gflop']['all'],
            'memory_mb': inference_memory_mb(model.network, height, width),
            'frame_ms': [round(turn['total'], 3) for turn in turns[name]],
        }
    replace_text(study.output / COST, json.dumps(record, indent=1) + '\n')
    return record


def inference_memory_mb(network: Any, height: int, width: int) -> float:
    """Weights, and the most that is allocated beside them while one image is answered, in MB."""
    deployed = DeployedNetwork(network).eval()
    weights = sum(x.numel() * x.element_size() for x in deployed.state_dict().values())
    device = next(network.parameters()).device
    image = torch.zeros(1, height, width, 3, dtype=torch.uint8, device=device)
    return (weights + peak_bytes(deployed, image)) / 1e6


@torch.no_grad()
def peak_bytes(module: nn.Module, image: torch.Tensor) -> int:
    """The most bytes that a forward pass holds at once beside weights and input."""
    if image.device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(image.device)
        before = torch.cuda.memory_allocated(image.device)
        module(image)
        return torch.cuda.max_memory_allocated(image.device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        module(image)
    assert profiler.profiler is not None
    events = [
        event for event in profiler.profiler.kineto_results.events() if event.name() == '[memory]'
    ]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def main(argv: list[str] | None = None) -> int:
    """Command line; exit code 1 with one sentence on what cannot be opened."""
    parser = argparse.ArgumentParser(prog='python -m training.study.cost', description=__doc__)
    parser.add_argument('study')
    parser.add_argument('--output', type=Path)
    args = parser.parse_args(argv)
    try:
        study = load_study(args.study, args.output)
        measure_costs(study, plan(study))
    except (
        CheckpointError, ConfigError, DatasetError, EngineError, StudyError, OSError,
    ) as error:  # fmt: skip
        print(f'error: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(run(main))
