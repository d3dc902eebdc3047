"""What a configured network weighs.

    python -m training.networks training/configs/demo.yaml [key=value ...]

Prints parameters and GFLOPs of one image by part, at the configuration's input size. No weights are
loaded.
"""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from rich.table import Table

from training.config import ConfigError, load_config
from training.evaluation.cost import network_cost
from training.networks.build import build_network


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog='python -m training.networks', description=__doc__)
    parser.add_argument('config', help='YAML file, see training/configs/')
    parser.add_argument('overrides', nargs='*', metavar='key=value')
    args = parser.parse_args(argv)
    try:
        config = load_config(args.config, args.overrides)
        network = build_network(config.network, config.task_table(), initialise=False)
    except ConfigError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    size = config.augment
    cost = network_cost(network, size.input_height, size.input_width)
    table = Table(
        title=f'{config.network.architecture} at {size.input_height}x{size.input_width}; GFLOPs '
        f'count a multiplication and an addition as two'
    )
    table.add_column('part')
    table.add_column('M parameters', justify='right')
    table.add_column('GFLOPs', justify='right')
    for part, parameters in cost['parameters'].items():
        table.add_row(part, f'{parameters / 1e6:.3f}', f'{cost["gflop"][part]:.2f}')
    Console().print(table)
    return 0


if __name__ == '__main__':
    sys.exit(main())
