# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""How long a study takes on a GPU, estimated: `python -m training.study.budget STUDY.yaml`.

Operations of a forward pass are counted for every network at the size of its training crops, and
multiplied by 3 (a backward pass costs about two forward passes), images and steps. Hours follow
from published peak rates and an assumed utilisation: an estimate, not a measurement. Reading data,
validation and evaluation are not counted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from mtl_perception import machine
from training.command import check_output, run
from training.config import ConfigError
from training.networks.build import build_network
from training.networks.cost import network_cost
from training.study.cells import Cell, plan
from training.study.config import StudyError, load_study

PEAK_TFLOPS = {'RTX 3080': 29.8, 'H100 SXM': 66.9}
"""FP32 without tensor cores: cores x 2 x boost clock, 8704 x 1.71 GHz and 16896 x 1.98 GHz."""

UTILISATION = (0.2, 0.4)
PASSES = 3
"""Of the forward pass, in a training step."""


def budget(cells: Iterable[Cell]) -> dict[str, Any]:
    """GFLOP per image and runs by network, PFLOP of all steps, hours by GPU for UTILISATION.

    Raises ConfigError. Networks are built on the meta device: nothing is allocated or computed.
    """
    cells = list(cells)
    runs = Counter(cell.model.id for cell in cells)
    networks = {}
    for cell in {cell.model.id: cell for cell in reversed(cells)}.values():
        config = cell.config()
        with torch.device('meta'):
            network = build_network(config.network, config.task_table(), initialise=False)
        gflop = network_cost(network, config.augment.height, config.augment.width)['gflop']['all']
        images = config.optimizer.steps * config.optimizer.batch_size * config.optimizer.accumulate
        networks[cell.model.id] = {
            'gflop': gflop, 'runs': runs[cell.model.id], 'images_per_run': images,
            'pflop': gflop * PASSES * images * runs[cell.model.id] / 1e6,
        }  # fmt: skip
    total = sum(each['pflop'] for each in networks.values())
    return {
        'runs': len(cells),
        'pflop': total,
        'utilisation': UTILISATION,
        'hours': {
            gpu: [total * 1e3 / (peak * share) / 3600 for share in UTILISATION]
            for gpu, peak in PEAK_TFLOPS.items()
        },
        'networks': dict(reversed(networks.items())),
    }


def main(argv: list[str] | None = None) -> int:
    """Command line; exit code 1 with one sentence on a study that cannot be planned."""
    parser = argparse.ArgumentParser(prog='python -m training.study.budget', description=__doc__)
    parser.add_argument('study', type=Path)
    parser.add_argument('--output', type=Path, metavar='FILE.json')
    args = parser.parse_args(argv)
    try:
        check_output('--output', args.output)
        found = budget(plan(load_study(args.study)))
        if args.output:
            command = f'python -m training.study.budget {args.study} --output {args.output}'
            record = {'command': command, 'machine': machine.describe(), **found}
            args.output.write_text(json.dumps(record, indent=1) + '\n', 'utf-8')
    except (ConfigError, StudyError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    low, high = (f'{100 * share:g} %' for share in UTILISATION)
    print(f'{found["runs"]} runs, {found["pflop"]:.0f} PFLOP of training steps')
    for gpu, (most, least) in found['hours'].items():
        print(
            f'{gpu}: about {least:.0f} to {most:.0f} hours, an estimate at {high} to {low} of '
            f'{PEAK_TFLOPS[gpu]} TFLOP/s'
        )
    return 0


if __name__ == '__main__':
    sys.exit(run(main))
