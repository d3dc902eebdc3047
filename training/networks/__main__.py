# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What a configured network weighs.

    python -m training.networks training/configs/demo.yaml [key=value ...]

Prints parameters and GFLOPs of one image by part, at the configuration's input size, and what every
further task adds under the configured sharing structure. No weights are loaded.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from training.command import run
from training.config import ConfigError, RunConfig, load_config
from training.networks.build import build_network
from training.networks.cost import network_cost


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog='python -m training.networks', description=__doc__)
    parser.add_argument('config', help='YAML file, see training/configs/')
    parser.add_argument('overrides', nargs='*', metavar='key=value')
    args = parser.parse_intermixed_args(argv)
    try:
        config = load_config(args.config, args.overrides)
        costs = growth(config)
    except ConfigError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    console = Console()
    console.print(_by_part(config, costs[-1]))
    console.print(_by_task(config, costs))
    return 0


def growth(config: RunConfig) -> list[dict[str, Any]]:
    """Cost of the network with the first task, the first two, ... all; raises ConfigError.

    Networks are built on the meta device: nothing is allocated or computed.
    """
    tasks = config.task_table()
    costs = []
    for count in range(1, len(tasks) + 1):
        own_neck = [task.name for task in tasks[:count] if task.name in config.network.own_neck]
        with torch.device('meta'):
            network = build_network(
                replace(config.network, own_neck=own_neck), tasks[:count], initialise=False
            )
            size = config.augment
            costs.append(network_cost(network.eval(), size.input_height, size.input_width))
    return costs


def _by_part(config: RunConfig, cost: Mapping[str, Any]) -> Table:
    size, name = config.augment, config.network.sharing.get('name', 'hard')
    table = Table(
        title=f'{config.network.architecture} ({name}) at {size.input_height}x{size.input_width}; '
        f'GFLOPs count a multiplication and an addition as two'
    )
    table.add_column('part')
    table.add_column('M parameters', justify='right')
    table.add_column('GFLOPs', justify='right')
    for part, parameters in cost['parameters'].items():
        table.add_row(part, f'{parameters / 1e6:.3f}', f'{cost["gflop"][part]:.2f}')
    return table


def _by_task(config: RunConfig, costs: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title='with one task more each time')
    table.add_column('task')
    for heading in ('M parameters', 'more', 'GFLOPs', 'more'):
        table.add_column(heading, justify='right')
    before = (0.0, 0.0)
    for task, cost in zip(config.tasks, costs, strict=True):
        now = (cost['parameters']['all'] / 1e6, cost['gflop']['all'])
        (parameters, flop), (fewer, less) = now, before
        values = (parameters, parameters - fewer, flop, flop - less)
        table.add_row(task, *(f'{value:.3f}' for value in values))
        before = now
    return table


if __name__ == '__main__':
    sys.exit(run(main))
