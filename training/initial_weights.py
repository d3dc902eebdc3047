# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""`network.init_from`: a network begins with the weights of a bundle or of an earlier run.

Every tensor whose name and shape fit is taken, averages of batch norm included; what else the
network has starts fresh and is said, head by head. Trunk and neck must fit completely: a model with
others is refused, because a part of them would be worth little and look like all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mtl_perception.bundle import Bundle, BundleError, find_bundle
from training.checkpoint import BEST, EMA, LAST, find_checkpoint
from training.config import ConfigError, NetworkConfig, load_config
from training.export import CONFIG, WEIGHTS
from training.networks.base import MultiTaskNetwork

STRUCTURE = ('architecture', 'trunk', 'neck', 'neck_channels', 'sharing')
"""Keys of `network` that decide which tensors trunk and neck have."""


def start_from(network: MultiTaskNetwork, config: NetworkConfig) -> list[str]:
    """Load `config.init_from` into a fresh network; returns one line for each head, to print.

    Raises ConfigError when there is no such model, and when its structure is another one.
    """
    weights, settings = find_model(config.init_from)
    here, there = _structure(config), _structure(load_config(settings).network)
    if differing := [key for key in STRUCTURE if here[key] != there[key]]:
        raise ConfigError(
            f'network.init_from: {config.init_from} is of another architecture: '
            + ', '.join(f'network.{key} is {there[key]!r}, here {here[key]!r}' for key in differing)
            + '. Set these keys as the model has them, or begin from another model.'
        )
    fitting, fresh = _sort(network, read_weights(weights))
    if strange := [name for name in fresh if not name.startswith('heads.')]:
        raise ConfigError(
            f'network.init_from: {weights} has no {strange[0]} of shape '
            f'{list(network.state_dict()[strange[0]].shape)}, nor {len(strange) - 1} more tensors '
            'that the tasks share. Another version wrote it, or it shares them among other tasks '
            'than `tasks` names'
        )
    network.load_state_dict(fitting, strict=False)
    return [_line(network, name, fresh) for name in network.heads]


def find_model(source: str) -> tuple[Path, Path]:
    """Weights and configuration of a run folder, or of a bundle by folder or name.

    Of a run the best validated weights, or the last where none are. Raises ConfigError.
    """
    run = Path(source).expanduser()
    found = find_checkpoint(run / BEST) or find_checkpoint(run / LAST)
    if found:
        return found / EMA, run / 'config.yaml'
    try:
        bundle = Bundle.open(find_bundle(source))
        return bundle.file(WEIGHTS), bundle.file(CONFIG)
    except BundleError as error:
        raise ConfigError(
            f'network.init_from: {source!r} is neither a run folder with a checkpoint nor a bundle '
            f'that can be trained on: {error}'
        ) from error


def _structure(config: NetworkConfig) -> dict[str, Any]:
    return {key: getattr(config, key) for key in STRUCTURE}


def read_weights(path: Path) -> dict[str, Tensor]:
    """In single precision, whatever precision a bundle stores kernels in."""
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ConfigError(f'network.init_from: {path} cannot be read: {error}') from error
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}


def _sort(
    network: MultiTaskNetwork, tensors: dict[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors that fit by name and shape, and names of the network's that none fits."""
    wanted = network.state_dict()
    fitting = {
        name: tensor
        for name, tensor in tensors.items()
        if name in wanted and wanted[name].shape == tensor.shape
    }
    return fitting, [name for name in wanted if name not in fitting]


def _line(network: MultiTaskNetwork, task: str, fresh: list[str]) -> str:
    own = [name for name in network.state_dict() if name.startswith(f'heads.{task}.')]
    new = [name for name in own if name in fresh]
    if not new:
        return f'head {task}: taken over'
    if len(new) == len(own):
        return f'head {task}: starts fresh'
    return (
        f'head {task}: {len(own) - len(new)} of {len(own)} tensors are taken over; fresh: '
        + ', '.join(name.removeprefix(f'heads.{task}.') for name in new)
    )
