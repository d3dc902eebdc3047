# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What is evaluated: a bundle through an engine, or the weights of a training run in torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from mtl_perception.bundle import InputSpec, find_bundle, sha256_of
from mtl_perception.engines.base import EngineError
from mtl_perception.pipeline import Pipeline
from training.checkpoint import (
    BEST,
    EMA,
    LAST,
    NETWORK,
    CheckpointError,
    find_checkpoint,
    load_weights,
    read_state,
)
from training.config import RunConfig, load_config
from training.export import CONFIG, load_network
from training.module_engine import ModuleEngine, bundle_in_memory
from training.networks.base import MultiTaskNetwork
from training.networks.build import build_network

RUN_CONFIG = 'config.yaml'

Weights = Literal['best', 'last', 'raw']
"""Of a training run: the best validated and the newest averaged weights, the newest as they are."""

WEIGHTS: tuple[str, ...] = get_args(Weights)
_FILES = {'best': (BEST, EMA), 'last': (LAST, EMA), 'raw': (LAST, NETWORK)}


@dataclass(frozen=True)
class Model:
    """An opened model.

    identity: what its answers depend on, as plain data. config: the file that it was trained with,
    and network: itself in torch, both None for a bundle that was not made by `training.export`.
    """

    name: str
    pipeline: Pipeline
    identity: dict[str, Any]
    config: Path | None
    network: MultiTaskNetwork | None


def open_model(
    path: str, engine: str = 'auto', device: str = 'auto', weights: Weights | None = None
) -> Model:
    """Open a bundle (folder or name) or the folder of a training run.

    Raises BundleError, EngineError, CheckpointError, ConfigError.
    """
    folder = Path(path).expanduser()
    if (folder / RUN_CONFIG).is_file():
        return _open_run(folder, engine, device, weights)
    if weights is not None:
        raise CheckpointError(f'{path} is no training run, so it has no {weights!r} weights')
    pipeline = Pipeline.open(find_bundle(path), engine, device, 'fp32', build=True)
    bundle = pipeline.bundle
    identity = {
        'bundle': bundle.manifest.name,
        'bundle_hash': bundle.hash,
        # A later card with these numbers changes the bundle's hash, not its graph's.
        'files': dict(bundle.manifest.files),
    }
    config = bundle.file(CONFIG) if CONFIG in bundle.manifest.files else None
    network = load_network(bundle) if config else None
    return Model(bundle.manifest.name, pipeline, identity, config, network)


def torch_pipeline(
    network: MultiTaskNetwork, config: RunConfig, precision: str = '32-true', batch: int = 1
) -> Pipeline:
    """A network in eval mode behind the deployed path, in a training run's precision.

    batch: images that `Pipeline.infer_batch` takes at a time.
    """
    spec = InputSpec(
        config.augment.input_height, config.augment.input_width, config.augment.letterbox_colour
    )
    bundle = bundle_in_memory(network, spec)
    names = [output.name for output in bundle.manifest.outputs]
    return Pipeline(bundle, ModuleEngine(network, names, precision, batch))


def _open_run(folder: Path, engine: str, device: str, weights: Weights | None) -> Model:
    if engine not in ('auto', 'torch'):
        raise EngineError(
            f'{folder} is a training run, which runs in torch, not in {engine!r}: '
            f'`python -m training.export {folder} models/NAME` makes a bundle of it first'
        )
    if weights is None:
        weights = 'best' if find_checkpoint(folder / BEST) else 'last'
    where, file = _FILES[weights]
    found = find_checkpoint(folder / where)
    if found is None:
        raise CheckpointError(f'{folder} holds no {where}/: it has no {weights!r} weights yet')
    config = load_config(folder / RUN_CONFIG)
    if device == 'auto':
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
    network = build_network(config.network, config.task_table(), initialise=False)
    load_weights(network, found / file)
    try:
        network = network.to(device).eval()
    except RuntimeError as error:
        raise EngineError(f'torch cannot run on device {device!r}: {error}') from error
    step = read_state(found)['step']
    identity = {
        'run': str(folder),
        'weights': weights,
        'step': step,
        'files': {f'{found.name}/{file}': sha256_of(found / file)},
    }
    name = f'{config.name} ({weights}, step {step})'
    pipeline = torch_pipeline(network, config)
    return Model(name, pipeline, identity, folder / RUN_CONFIG, network)
