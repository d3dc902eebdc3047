# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Untrained bundles at 384x640 to time beside each other: one network of four tasks, four of one.

And YOLOP's network with its published tasks; with --trunks, the four tasks on other trunks
instead. Times do not depend on weights, except that of mask
decoding, which is at its worst on random ones: compare the engine stage. What is run on them is in
docs/engines.md.

    python test/benchmarks/engine_bundles.py FOLDER [--trunk pvt_v2_b0 | --trunks NAME ...]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import checkout  # noqa: F401
import torch

from mtl_perception.bundle import InputSpec, Manifest, sha256_of, write_manifest
from mtl_perception.tasks import DETECTION, DRIVABLE, LANE, SEMANTIC, WEATHER, Task
from training.config import NetworkConfig
from training.export import ONNX, PROGRAM, round_weights, save_onnx, save_program
from training.networks.base import output_specs
from training.networks.build import build_network

SPEC = InputSpec(384, 640)
TASKS = (DETECTION, DRIVABLE, SEMANTIC, WEATHER)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('folder', type=Path)
    parser.add_argument('--trunk', default='pvt_v2_b0')
    parser.add_argument('--trunks', nargs='+', metavar='NAME', help='of timm: one bundle each')
    args = parser.parse_args()
    for trunk in args.trunks or ():
        write(args.folder / trunk, NetworkConfig(trunk=trunk, drop_path_rate=0.0), TASKS)
    if args.trunks:
        return
    ours = NetworkConfig(trunk=args.trunk)
    write(args.folder / 'four_tasks', ours, TASKS)
    for task in TASKS:
        write(args.folder / f'only_{task.name}', ours, (task,))
    yolop = NetworkConfig(architecture='yolop')
    write(args.folder / 'yolop', yolop, (DETECTION, DRIVABLE, LANE))


def write(folder: Path, config: NetworkConfig, tasks: Sequence[Task]) -> None:
    """One bundle, and its number of parameters on the terminal."""
    torch.manual_seed(0)
    network = build_network(config, tasks, initialise=False).eval()
    round_weights(network)
    folder.mkdir(parents=True, exist_ok=True)
    spec = save_onnx(network, SPEC, folder / ONNX)
    save_program(network, SPEC, folder / PROGRAM)
    manifest = Manifest(
        name=folder.name,
        tasks=network.tasks,
        input=spec,
        outputs=output_specs(network, SPEC.height, SPEC.width),
        files={name: sha256_of(folder / name) for name in (ONNX, PROGRAM)},
        licence='Apache-2.0',
        training_data=('none: untrained',),
    )
    write_manifest(folder, manifest)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    print(f'{folder}: {parameters / 1e6:.3f} M parameters')


if __name__ == '__main__':
    main()
