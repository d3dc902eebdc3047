# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Checkpoints without pickles: safetensors for tensors, JSON for the rest, replaced as a whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

LAST, BEST = 'checkpoint', 'best'
"""Folders of a run: the newest state, to go on from, and the best validated weights."""
NETWORK, EMA, OPTIMIZER, BALANCING, STATE = (
    'network.safetensors', 'ema.safetensors', 'optimizer.safetensors', 'balancing.safetensors',
    'state.json',
)  # fmt: skip
PARAMETERS = 'parameters'
"""In `state.json`: names of the trained parameters, in the order of the optimizer's moments."""
AS_BEFORE = 'give network.frozen_stages as before, or another output folder'


class CheckpointError(Exception):
    """A checkpoint that cannot be written, read or does not fit the network."""


def save_checkpoint(
    folder: Path,
    network: nn.Module,
    ema: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    balancing: Mapping[str, Tensor] | None = None,
) -> None:
    """Everything that training resumes from; raises CheckpointError and keeps the old one.

    balancing: state of the balancing method, where there is one.
    """
    with _replaced(folder, {**state, PARAMETERS: _trained(network, optimizer)}) as fresh:
        save_file(_contiguous(network.state_dict()), fresh / NETWORK)
        save_file(_contiguous(ema.state_dict()), fresh / EMA)
        save_file(_optimizer_tensors(optimizer), fresh / OPTIMIZER)
        if balancing:
            save_file(_contiguous(balancing), fresh / BALANCING)


def save_best(folder: Path, ema: nn.Module, state: Mapping[str, Any]) -> None:
    """The averaged weights alone, which is what is exported; errors as `save_checkpoint`."""
    with _replaced(folder, state) as fresh:
        save_file(_contiguous(ema.state_dict()), fresh / EMA)


def save_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Another state for a checkpoint whose tensors stay; raises CheckpointError or OSError."""
    fresh = folder / f'{STATE}.new'
    named = {**state, PARAMETERS: read_state(folder)[PARAMETERS]}
    fresh.write_text(json.dumps(named, indent=1), 'utf-8')
    _flush(fresh)
    fresh.replace(folder / STATE)


@contextmanager
def _replaced(folder: Path, state: Mapping[str, Any]) -> Iterator[Path]:
    """A new folder beside the old one, then swapped: a kill leaves one of the two whole."""
    fresh = folder.with_name(folder.name + '.new')
    old = folder.with_name(folder.name + '.old')
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        yield fresh
        (fresh / STATE).write_text(json.dumps(state, indent=1), 'utf-8')
        for path in fresh.iterdir():
            _flush(path)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(fresh, ignore_errors=True)
        kept = find_checkpoint(folder)
        raise CheckpointError(
            f'step {state["step"]} cannot be saved under {folder}: {error}. '
            + (f'{kept} is intact, of step {read_state(kept)["step"]}' if kept else 'None is there')
            + f'; {shutil.disk_usage(folder.parent).free / 1e6:.0f} MB are free on that disk. '
            'Make room and give the same command again.'
        ) from error
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _flush(path: Path) -> None:
    """Onto the disk, so that a power cut after the swap finds the file whole."""
    with path.open('rb') as file:
        os.fsync(file.fileno())


def find_checkpoint(folder: Path) -> Path | None:
    """The checkpoint folder, or the one that an interrupted swap left behind."""
    for candidate in (folder, folder.with_name(folder.name + '.old')):
        if (candidate / STATE).is_file():
            return candidate
    return None


def read_state(folder: Path) -> dict[str, Any]:
    """What `state.json` of a checkpoint says; raises CheckpointError."""
    try:
        state: dict[str, Any] = json.loads((folder / STATE).read_text('utf-8'))
    except (OSError, ValueError) as error:
        raise CheckpointError(f'{folder / STATE} cannot be read: {error}') from error
    return state


def load_checkpoint(
    folder: Path, network: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Restore everything in place and return the state; raises CheckpointError."""
    load_weights(network, folder / NETWORK)
    load_weights(ema, folder / EMA)
    found = read_state(folder)
    named = found.pop(PARAMETERS, None)  # checkpoints of earlier versions have no names
    if named is not None:
        _check_parameters(folder, named, _trained(network, optimizer))
    state = optimizer.state_dict()
    parameters = [parameter for group in optimizer.param_groups for parameter in group['params']]
    for key, tensor in _read(folder / OPTIMIZER).items():
        index, name = key.split('.', 1)
        if int(index) >= len(parameters):
            raise CheckpointError(
                f'{folder / OPTIMIZER} has the state of parameter {index}, this run trains '
                f'{len(parameters)}: {AS_BEFORE}'
            )
        parameter = parameters[int(index)]
        if name != 'step':
            if tensor.shape != parameter.shape:
                raise CheckpointError(
                    f'{folder / OPTIMIZER}: {name} of parameter {index} has shape '
                    f'{list(tensor.shape)}, expected {list(parameter.shape)}: {AS_BEFORE}'
                )
            tensor = as_in_memory(tensor, parameter)
        state['state'].setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict(state)
    return found


def load_balancing(folder: Path) -> dict[str, Tensor]:
    """State of the balancing method; empty where it had none. Raises CheckpointError."""
    path = folder / BALANCING
    return _read(path) if path.exists() else {}


def load_weights(network: nn.Module, path: Path) -> None:
    """Strict: every tensor of the network and no other; raises CheckpointError naming the rest."""
    try:
        network.load_state_dict(_read(path), strict=True)
    except RuntimeError as error:
        first = ' '.join(line.strip() for line in str(error).splitlines()[1:3])[:400]
        raise CheckpointError(f'{path} does not fit this network: {first}') from error


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f'{path} cannot be read: {error}') from error


def _trained(network: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Names of the optimizer's parameters, in its order."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return [names[id(p)] for group in optimizer.param_groups for p in group['params']]


def _check_parameters(folder: Path, before: Sequence[str], now: Sequence[str]) -> None:
    """Raise CheckpointError unless the moments belong to the same parameters."""
    for index, (then, here) in enumerate(zip_longest(before, now)):
        if then != here:
            raise CheckpointError(
                f'{folder} trained {len(before)} parameters, this run trains {len(now)}; the first '
                f'that differs is number {index}, {then} there and {here} here: {AS_BEFORE}'
            )


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return _contiguous(
        {
            f'{index}.{name}': value
            for index, values in optimizer.state_dict()['state'].items()
            for name, value in values.items()
        }
    )


def as_in_memory(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A moment in its parameter's memory format: a fused step does not look at strides."""
    return torch.empty_like(parameter, dtype=tensor.dtype, device=tensor.device).copy_(tensor)


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """safetensors stores row-major tensors that share no memory."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
