"""Checkpoints without pickles: safetensors for tensors, JSON for the rest, replaced as a whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


class CheckpointError(Exception):
    """A checkpoint that cannot be read or does not fit the network."""


def save_checkpoint(
    folder: Path,
    network: nn.Module,
    ema: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
) -> None:
    """Write a new folder beside the old one, then swap: a kill leaves one of the two whole."""
    fresh = folder.with_name(folder.name + '.new')
    old = folder.with_name(folder.name + '.old')
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    save_file(_contiguous(network.state_dict()), fresh / 'network.safetensors')
    save_file(_contiguous(ema.state_dict()), fresh / 'ema.safetensors')
    save_file(_optimizer_tensors(optimizer), fresh / 'optimizer.safetensors')
    (fresh / 'state.json').write_text(json.dumps(state, indent=1), 'utf-8')
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def find_checkpoint(folder: Path) -> Path | None:
    """The checkpoint folder, or the one that an interrupted swap left behind."""
    for candidate in (folder, folder.with_name(folder.name + '.old')):
        if (candidate / 'state.json').is_file():
            return candidate
    return None


def load_checkpoint(
    folder: Path, network: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Restore everything in place and return the state; raises CheckpointError."""
    load_weights(network, folder / 'network.safetensors')
    load_weights(ema, folder / 'ema.safetensors')
    tensors = _read(folder / 'optimizer.safetensors')
    state = optimizer.state_dict()
    for key, tensor in tensors.items():
        index, name = key.split('.', 1)
        state['state'].setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict(state)
    loaded: dict[str, Any] = json.loads((folder / 'state.json').read_text('utf-8'))
    return loaded


def load_weights(network: nn.Module, path: Path) -> None:
    """Strict: every tensor of the network and no other; raises CheckpointError naming the rest."""
    try:
        network.load_state_dict(_read(path), strict=True)
    except RuntimeError as error:
        raise CheckpointError(f'{path} does not fit this network: {error}') from error


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f'{path} cannot be read: {error}') from error


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return _contiguous(
        {
            f'{index}.{name}': value
            for index, values in optimizer.state_dict()['state'].items()
            for name, value in values.items()
        }
    )


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """safetensors stores row-major tensors that share no memory."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
