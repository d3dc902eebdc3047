# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Ours and the peers' networks, trained alike: same data, draws, augmentation and steps.

    PYTHONPATH=. python test/benchmarks/peers.py [key=value ...] [--only yolop ...] [--json FILE]

`ours` is training/configs/driving_mini_b0.yaml, `ours_lite0` the same on a convolutional trunk, the
others training/configs/references/, all from scratch. Each is a run of its own below
runs/peers/STEPS/, begun or resumed; one that is complete is only evaluated. Writes
docs/results/peers.json after each; what is there under the same schedule stays.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

import checkout  # noqa: F401
from ablation import keep, schedule, show, trained  # beside this file

from mtl_perception import machine
from training.config import load_config

ROOT = Path(__file__).parents[2]
RESULT = ROOT / 'docs' / 'results' / 'peers.json'
CONFIGS = ROOT / 'training' / 'configs'
OURS = CONFIGS / 'driving_mini_b0.yaml'
NETWORKS = {
    'ours': OURS,
    'ours_lite0': OURS,
    'yolop': CONFIGS / 'references' / 'yolop.yaml',
    'hybridnets': CONFIGS / 'references' / 'hybridnets.yaml',
    'twinlitenet_plus_medium': CONFIGS / 'references' / 'twinlitenet_plus_medium.yaml',
}
CHANGES = {'ours_lite0': ['network.trunk=tf_efficientnet_lite0']}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('overrides', nargs='*', metavar='key=value')
    parser.add_argument('--only', nargs='+', choices=NETWORKS, default=[*NETWORKS])
    parser.add_argument('--json', type=Path, default=RESULT)
    args = parser.parse_intermixed_args()
    config = load_config(OURS, args.overrides)
    record = {
        'command': shlex.join(['python', 'test/benchmarks/peers.py', *args.overrides]),
        'environment': machine.describe(),
        'schedule': schedule(config, args.overrides),
    }
    for name in args.only:
        changes = [*CHANGES.get(name, []), f'output=runs/peers/{config.optimizer.steps}/{name}']
        result = trained(load_config(NETWORKS[name], [*args.overrides, *changes]))
        results = keep(args.json, record, name, result)
    show(results)


if __name__ == '__main__':
    main()
