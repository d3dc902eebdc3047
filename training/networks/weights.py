# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Weights of a trunk from a file on this machine: ImageNet's, or those of an earlier run of ours.

`source` is a path (.safetensors, or .pth read with `weights_only=True`: nothing is unpickled) or
`pypi:PACKAGE`, the one such file of an installed Python package. timm's own loader adapts names
where a model has a filter for it; EfficientNets may also come under the names of lukemelas'
`efficientnet-pytorch`, of which many packages on PyPI are made. The checkpoint of a run
(`runs/NAME/best/ema.safetensors`) gives the trunk that was trained there.
"""

from __future__ import annotations

import importlib.metadata
import pickle
import re
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from training.network_error import NetworkError

SUFFIXES = ('.safetensors', '.pth')
PYPI = 'pypi:'
OWN = 'trunk.body.'
"""Of the trunk's tensors in a checkpoint of ours."""

_STEM = {'_conv_stem': 'conv_stem', '_bn0': 'bn1', '_conv_head': 'conv_head', '_bn1': 'bn2',
         '_fc': 'classifier'}  # fmt: skip
_EXPANDING = {'_expand_conv': 'conv_pw', '_bn0': 'bn1', '_depthwise_conv': 'conv_dw',
              '_bn1': 'bn2', '_project_conv': 'conv_pwl', '_bn2': 'bn3'}  # fmt: skip
_PLAIN = {'_depthwise_conv': 'conv_dw', '_bn1': 'bn1', '_project_conv': 'conv_pw', '_bn2': 'bn2'}
_BLOCK = re.compile(r'_blocks\.(\d+)\.(\w+)\.(\w+)')


def make_timm_body(name: str, pretrained: bool, **options: Any) -> nn.Module:
    """The timm feature extractor `name`, with timm's own weights, downloaded, if `pretrained`.

    Raises NetworkError when they cannot be had.
    """
    try:
        return timm.create_model(name, features_only=True, pretrained=pretrained, **options)
    except (OSError, RuntimeError, ValueError) as error:
        if not pretrained:
            raise
        raise NetworkError(
            f"pretrained: timm's weights of {name!r} cannot be downloaded ({_line(error)}). On a "
            f'machine without network take trunk_weights: FILE or {PYPI}PACKAGE, init_from: a '
            f'bundle, or pretrained: false to begin from scratch'
        ) from error


def _line(error: Exception) -> str:
    return ' '.join(str(error).split())[:160]


def make_body(name: str, source: str, **options: Any) -> nn.Module:
    """The timm feature extractor `name` with the weights of `source`; options go to timm.

    Every tensor of the model is in the file, in its shape, and no other; raises NetworkError
    naming the first that differ.
    """
    path = find_weights(source)
    tensors = _read(path)
    trained = {
        key.removeprefix(OWN): tensor for key, tensor in tensors.items() if key.startswith(OWN)
    }
    if trained:
        body = timm.create_model(name, features_only=True, **options)
        try:
            body.load_state_dict(trained)
        except RuntimeError as error:
            raise _other_model(path, name, error) from error
        return body
    overlay = {'state_dict': trunk_tensors(name, path, tensors)}
    return timm.create_model(
        name, features_only=True, pretrained=True, pretrained_cfg_overlay=overlay, **options
    )


def trunk_tensors(name: str, path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same under timm's names for the whole model `name`, classifier included; checked."""
    model = timm.create_model(name)
    if '_conv_stem.weight' in tensors:
        tensors = _timm_names(tensors, model)
    try:
        timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay={'state_dict': tensors, 'file': None}
        )
    except (RuntimeError, KeyError) as error:
        raise _other_model(path, name, error) from error
    return tensors


def _other_model(path: Path, name: str, error: Exception) -> NetworkError:
    lines = str(error).splitlines()
    return NetworkError(
        f'trunk_weights: {path} does not hold the weights of {name!r}: '
        f'{" ".join(line.strip() for line in lines[:4])[:400]}. Take the file of exactly this '
        f'timm model, or choose the trunk that the file belongs to.'
    )


def find_weights(source: str) -> Path:
    """The file meant by a path or `pypi:PACKAGE`; raises NetworkError when there is none."""
    if source.startswith(PYPI):
        package = source.removeprefix(PYPI)
        try:
            files = importlib.metadata.files(package) or []
        except importlib.metadata.PackageNotFoundError as error:
            raise NetworkError(
                f'trunk_weights: the package {package!r} is not installed; `pip install {package}`'
            ) from error
        found = [Path(str(file.locate())) for file in files if file.suffix in SUFFIXES]
        if len(found) != 1:
            raise NetworkError(
                f'trunk_weights: expected one file {SUFFIXES} in the package {package!r}, '
                f'found {[path.name for path in found]}'
            )
        return found[0]
    path = Path(source).expanduser()
    if path.suffix not in SUFFIXES or not path.is_file():
        raise NetworkError(
            f'trunk_weights: {source!r} is no {" or ".join(SUFFIXES)} file; expected weights '
            f'of the trunk as timm publishes them, {PYPI}PACKAGE, or best/ema.safetensors of a run'
        )
    return path


def _read(path: Path) -> dict[str, Tensor]:
    """Tensors by name; wrappers that training scripts put around them are opened."""
    try:
        if path.suffix == '.safetensors':
            return dict(load_file(path))
        loaded = torch.load(path, map_location='cpu', weights_only=True)
    except (SafetensorError, OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise NetworkError(f'trunk_weights: {path} cannot be read: {error}') from error
    for wrapper in ('state_dict_ema', 'state_dict', 'model_ema', 'model'):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
            break
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise NetworkError(f'trunk_weights: {path} holds no tensors by name')
    return loaded


def _timm_names(tensors: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Names of `efficientnet-pytorch` -> timm's; what has no counterpart keeps its name."""
    places = dict.fromkeys(
        '.'.join(name.split('.')[:3]) for name in model.state_dict() if name.startswith('blocks.')
    )
    blocks = list(places)
    renamed = {}
    for name, tensor in tensors.items():
        block = _BLOCK.fullmatch(name)
        layer, _, rest = name.partition('.')
        if block and int(block[1]) < len(blocks):
            expands = f'_blocks.{block[1]}._expand_conv.weight' in tensors
            layers = _EXPANDING if expands else _PLAIN
            name = f'{blocks[int(block[1])]}.{layers.get(block[2], block[2])}.{block[3]}'
        elif layer in _STEM:
            name = f'{_STEM[layer]}.{rest}'
        renamed[name] = tensor
    return renamed
