# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Add a task to a trained model: a new head on the frozen trunk and neck.

    python -m training.add_task models/hydranet_lite0 training/configs/demo.yaml --task lane

Nothing that is there is trained or run in training mode: all other weights and outputs stay bit for
bit. The head trains on features that are computed once (`feature_cache.py`), in the ordinary loop,
into an ordinary run folder: `training.export` and `training.evaluate` take it. The configuration
gives data, augmentation and optimizer; network, input size and the other tasks are the model's.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from mtl_perception.bundle import Bundle, BundleError, find_bundle
from training.beliefs import beliefs_of, believed
from training.checkpoint import LAST, CheckpointError, find_checkpoint
from training.command import at_least, run
from training.config import ConfigError, RunConfig, load_config
from training.data.layout import Layout, LayoutConfig, open_layouts
from training.data.loader import Draws
from training.data.sample import DatasetError
from training.evaluation.scoring import fingerprint
from training.export import (
    CONFIG,
    PARENT,
    check_target,
    export,
    load_network,
    load_run,
    read_parent,
)
from training.feature_cache import (
    BUILD_BATCH,
    EpochSampler,
    FeatureCache,
    FeatureLosses,
    cached_batches,
    fill,
    level_rows,
    levels_read,
    make_room,
    open_cache,
)
from training.networks.base import MultiTaskNetwork
from training.networks.build import build_network
from training.processes import open_fabric
from training.step import Targets
from training.tasks.own_neck import OwnNeck
from training.terms import joined, terms_of
from training.train import NonFiniteLossError, fit

CACHE = Path('.cache/features')
CACHE_GB = 20.0
VIEWS = 4


@dataclass(frozen=True)
class Base:
    """A trained model to add to: its averaged network, what it was trained with, what it is."""

    network: MultiTaskNetwork
    config: RunConfig
    parent: dict[str, Any]


def open_base(model: str) -> Base:
    """Open a bundle (folder or name) or a run folder; raises BundleError, CheckpointError."""
    run = Path(model).expanduser()
    if (run / 'config.yaml').is_file():
        network, config, state = load_run(run)
        parent = {
            'name': f'{config.name} seed {config.seed} step {state["step"]}',
            'tasks': config.tasks,
            'training_data': [
                *read_parent(run).get('training_data', []),
                *(layout.name for layout in config.data),
            ],
            'believed': beliefs_of(believed(network, config, read_parent(run))),
            'terms': joined(terms_of(asdict(config)), read_parent(run).get('terms', {})),
        }
        return Base(network, config, parent)
    bundle = Bundle.open(find_bundle(model))
    parent = {
        'name': bundle.manifest.name,
        'hash': bundle.hash,
        'tasks': [task.name for task in bundle.manifest.tasks],
        'training_data': list(bundle.manifest.training_data),
        'believed': beliefs_of(bundle.manifest.tasks),
        'terms': dict(bundle.manifest.terms),
    }
    return Base(load_network(bundle), load_config(bundle.file(CONFIG)), parent)


def with_task(
    base: Base, config: RunConfig, task: str, output: Path, own_neck: bool = False
) -> RunConfig:
    """The run's configuration: data and optimizer of `config`, the rest of the base's.

    Raises ConfigError.
    """
    if task in base.config.tasks:
        raise ConfigError(
            f'{base.parent["name"]} has a task {task!r} already, beside {base.config.tasks}'
        )
    if config.devices * config.nodes != 1:
        raise ConfigError('add_task runs on one device: devices=1 nodes=1')
    shared = base.config.network.sharing.get('name', 'hard')
    if shared != 'hard':
        raise ConfigError(
            f'{base.parent["name"]} shares by {shared!r}: a task is added to a trunk and neck that '
            f'all heads read, which only hard sharing has; train the tasks together instead'
        )
    if own_neck and base.config.network.architecture != 'hydranet':
        raise ConfigError(
            f'--own-neck: only a hydranet has such heads, not {base.config.network.architecture!r}'
        )
    seen, network = base.config.augment, base.config.network
    before = base.config.definitions
    for name in before.keys() & config.definitions.keys():
        if before[name] != config.definitions[name]:
            raise ConfigError(
                f'definitions: {name!r} is {config.definitions[name]}, expected what '
                f'{base.parent["name"]} was trained with: {before[name]}; leave it out, or give '
                f'the new task another name'
            )
    made = replace(
        config,
        name=f'{base.config.name}_{task}',
        output=str(output),
        tasks=[*base.config.tasks, task],
        network=replace(
            network,
            pretrained=False,
            trunk_weights='',
            init_from='',
            own_neck=[*network.own_neck, *([task] if own_neck else [])],
        ),
        augment=replace(
            config.augment,
            input_height=seen.input_height,
            input_width=seen.input_width,
            letterbox_colour=seen.letterbox_colour,
        ),
    )
    made.define(before)
    made.task_table()
    return made


def labelled(configs: Sequence[LayoutConfig], task: str) -> list[Layout]:
    """The training splits that label a task, less their other images; raises DatasetError."""
    found: list[Layout] = []
    missing = []
    for config in configs:
        try:
            found += open_layouts([replace(config, labelled=[task])], 'train')
        except DatasetError as error:
            missing.append(str(error))
    if not found:
        raise DatasetError(f'no data set labels {task!r}: {"; ".join(missing)}')
    return found


def extended(base: Base, config: RunConfig, task: str) -> MultiTaskNetwork:
    """The base's network with a fresh head; only the head is trainable."""
    network = build_network(config.network, config.task_table(), initialise=False).eval()
    left = network.load_state_dict(base.network.state_dict(), strict=False)
    strange = [name for name in left.missing_keys if not name.startswith(f'heads.{task}.')]
    if strange or left.unexpected_keys:
        raise CheckpointError(
            f'{base.parent["name"]} does not fit the network of its configuration: '
            f'missing {strange[:3]}, not expected {left.unexpected_keys[:3]}'
        )
    network.requires_grad_(False)
    head = network.head(task).requires_grad_(True)
    if isinstance(head, OwnNeck):
        head.neck.load_state_dict(network.neck.state_dict())
    return network


def cache_for(
    config: RunConfig, network: MultiTaskNetwork, draws: Draws, task: str, root: Path
) -> tuple[FeatureCache, int]:
    """The (perhaps empty) cache of a network's features, and bytes of one draw in it."""
    crop = torch.zeros(1, 3, config.augment.height, config.augment.width, dtype=torch.uint8)
    with torch.no_grad():
        features = network.features(crop.to(next(network.parameters()).device))
    levels = levels_read(network.head(task), features)
    shared = {
        name: tensor
        for name, tensor in network.state_dict().items()
        if not name.startswith('heads.')
    }
    identity = {
        'weights': hashlib.sha256(save(shared)).hexdigest(),
        'task': task,
        'data': [asdict(layout) for layout in config.data],
        'labels': [fingerprint(layout, range(len(layout))) for layout in draws.layouts],
        'augment': asdict(config.augment),
        'seed': config.seed,
    }
    cache = open_cache(root, identity, levels)
    pixels = config.augment.height * config.augment.width
    return cache, 2 * sum(x.numel() for x in level_rows(features, cache, 0)) + pixels


def add_task(
    base: Base,
    config: RunConfig,
    task: str,
    output: Path,
    views: int = VIEWS,
    cache_gb: float = CACHE_GB,
    root: Path = CACHE,
    own_neck: bool = False,
) -> Path:
    """Train the head into the run folder `output`; returns it.

    views: cached draws for each labelled image. own_neck: the head gets a neck of its own, which
    begins as the shared one. Raises what `training.train` raises.
    """
    config = with_task(base, config, task, output, own_neck)
    if find_checkpoint(output / LAST) and read_parent(output) != base.parent:
        raise ConfigError(
            f'{output} holds another run, not one that adds to {base.parent["name"]}: give another '
            f'--output, or delete it'
        )
    layouts = labelled(config.data, task)
    config.data = [layout.config for layout in layouts]
    fabric = open_fabric(config)
    network = extended(base, config, task)
    fabric.to_device(network)
    draws = Draws(layouts, config.augment, config.seed, [task])
    cache, size = cache_for(config, network, draws, task, root)
    images = sum(map(len, layouts))
    count = make_room(cache, max(views * images, BUILD_BATCH), size, int(cache_gb * 1e9))
    fabric.print(
        f'{task}: {count} views of {images} images, {size / 1e6:.2f} MB each, in {cache.folder}'
    )
    fill(cache, network, draws, task, count, config.workers)
    numbers = [draw for draw in cache.draws() if draw < count]

    def batches(first_step: int) -> Iterator[tuple[Any, Targets]]:
        opt = config.optimizer
        sampler = EpochSampler(len(numbers), opt.batch_size, first_step, opt.steps, config.seed)
        for levels, targets in cached_batches(cache, numbers, sampler, config.workers):
            others = dict.fromkeys(base.config.tasks, [None] * len(targets))
            yield levels, {**others, task: targets}

    output.mkdir(parents=True, exist_ok=True)
    (output / PARENT).write_text(json.dumps(base.parent, indent=1), 'utf-8')
    fit(fabric, config, network, FeatureLosses(network, task, cache.levels), batches)
    return output


def main(argv: list[str] | None = None) -> int:
    """Command line; exit code 1 with one sentence on a usage, data or numeric error."""
    parser = argparse.ArgumentParser(
        prog='python -m training.add_task', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument('model', help='bundle (folder or name) or folder of a training run')
    parser.add_argument('config', help='YAML with data, augmentation and optimizer')
    parser.add_argument('overrides', nargs='*', metavar='key=value', help='of the configuration')
    parser.add_argument(
        '--task', required=True, metavar='NAME', help='known, or defined in the configuration'
    )
    parser.add_argument('--output', type=Path, help='run folder; default runs/MODEL_TASK')
    parser.add_argument('--bundle', type=Path, help='export here when trained, e.g. models/NAME')
    parser.add_argument(
        '--views', type=at_least(1), default=VIEWS, help=f'cached views per image, default {VIEWS}'
    )
    parser.add_argument('--cache', type=Path, default=CACHE, help=f'folder, default {CACHE}')
    parser.add_argument(
        '--cache-gb', type=float, default=CACHE_GB,
        help=f'size of all caches in the folder at most, default {CACHE_GB:g}',
    )  # fmt: skip
    parser.add_argument(
        '--own-neck', action='store_true', help='train a copy of the neck for this head too'
    )
    args = parser.parse_intermixed_args(argv)
    try:
        if args.bundle:
            check_target(args.bundle)
        base = open_base(args.model)
        output = args.output or Path('runs') / f'{base.config.name}_{args.task}'
        config = load_config(args.config, args.overrides)
        add_task(
            base, config, args.task, output, args.views, args.cache_gb, args.cache, args.own_neck
        )
        if args.bundle:
            export(output, args.bundle)
    except (
        BundleError, CheckpointError, ConfigError, DatasetError, NonFiniteLossError, OSError,
    ) as error:  # fmt: skip
        print(f'error: {error}', file=sys.stderr)
        return 1
    following = f'evaluate {args.bundle}' if args.bundle else f'export {output} models/NAME'
    print(f'{args.task} is added: {output}. Next: python -m training.{following}')
    return 0


if __name__ == '__main__':
    sys.exit(run(main))
