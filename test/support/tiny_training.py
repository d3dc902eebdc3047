# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""A handful of generated scenes, and a configuration that trains on them in seconds."""

import json
from pathlib import Path

from training.data import scenes

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'training' / 'configs' / 'demo.yaml'
SMALL = (
    'network={trunk: resnet10t, neck_channels: 16, drop_path_rate: 0.1}',
    'optimizer={steps: 4, batch_size: 4, lr: 3e-3, warmup_steps: 2}',
)
"""A small network and a short schedule."""


def tiny_scenes(root: Path, train: int, val: int) -> Path:
    """Scenes of 160x96 pixels in BDD100K layout, labelled for all tasks but lanes."""
    numbers = ['--train', str(train), '--val', str(val), '--width', '160', '--height', '96']
    assert scenes.main(['--output', str(root), *numbers, '--workers', '1']) == 0
    return root


def partly_labelled(root: Path) -> Path:
    """Eight scenes of 160x96: boxes on 4, drivable masks on 3, semantic masks on 2 of them."""
    tiny_scenes(root, 8, 1)
    for kind, kept in (('drivable', {1, 2, 6}), ('sem_seg', {3, 6})):
        for i, mask in enumerate(sorted((root / f'labels/{kind}/masks/train').iterdir())):
            if i not in kept:
                mask.unlink()
    path = root / 'labels/det_20/det_train.json'
    path.write_text(json.dumps(json.loads(path.read_text())[:4]))
    return root


def tiny_overrides(data: Path, *more: str) -> list[str]:
    """Overrides of the demo configuration: crops of 96x64, on a CPU, in single precision."""
    return [
        f'data=[{{name: scenes, root: "{data}"}}]',
        'augment={height: 64, width: 96, input_height: 64, input_width: 96}',
        'precision=32-true', 'accelerator=cpu', 'workers=0', 'log_every=2', 'checkpoint_every=2',
        *more,
    ]  # fmt: skip


def exact_overrides(data: Path, output: Path, *more: str) -> list[str]:
    """Three tasks without what one image does to another, or chance: batch norm, drop path."""
    return tiny_overrides(
        data,
        f'output={output}',
        'tasks=[detection,drivable,semantic]',
        'network={trunk: mobilenetv3_small_050, neck_channels: 16, drop_path_rate: 0}',
        'optimizer={steps: 4, batch_size: 4, lr: 1e-3, warmup_steps: 2}',
        'batch_norm=frozen',
        *more,
    )
