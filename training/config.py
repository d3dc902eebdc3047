# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Typed training configuration: a YAML file plus `key=value` overrides, unknown keys are errors.

`base: other.yaml` in a file takes over the other file (path beside it); what the file says itself
goes before it, and overrides go before both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, starmap
from operator import attrgetter
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mtl_perception.tasks import Task
from training.data.layout import LayoutConfig
from training.data.transforms import AugmentConfig
from training.task_definition import TaskDefinition, split_definitions, with_known
from training.tasks.depth import DepthConfig
from training.tasks.detection import DetectionConfig
from training.tasks.normals import NormalsConfig
from training.tasks.segmentation import SegmentationConfig

BATCH_NORMS = ('sync', 'local', 'frozen')
PRECISIONS = ('auto', '32-true', 'bf16-mixed', '16-mixed')
MIN_SIDE, MAX_SIDE = 32, 8192
"""Pixels of a crop or input, as bundles have them."""
AT_LEAST = {
    'log_every': 1, 'checkpoint_every': 1, 'validate_every': 1, 'validate_images': 1,
    'affinity_every': 0, 'workers': 0, 'seed': 0, 'optimizer.steps': 1,
    'optimizer.warmup_steps': 0, 'augment.height': 1, 'augment.width': 1,
}  # fmt: skip
"""Keys that count something, and the least they can be."""


class ConfigError(Exception):
    """A configuration that cannot be used: which key, expected, found."""


@dataclass
class NetworkConfig:
    """Which network.

    architecture: hydranet, or a peer's of `training.networks.build.ARCHITECTURES`, which has trunk,
    neck and heads of its own and takes the mask losses only. trunk: any timm pyramid model.
    pretrained: timm's ImageNet weights, downloaded. trunk_weights: the trunk's weights from a file:
    timm's tensors (.safetensors, .pth, or `pypi:PACKAGE` for the file of an installed package), or
    the trunk that a run of ours trained (`runs/NAME/best/ema.safetensors`). init_from: a bundle
    (folder or name) or run folder whose whole network training begins with, in place of these two.
    trunk_terms: what the weights of the file may be used for.
    frozen_stages: stages of the trunk, from stride 4 up, that keep the weights they begin with.
    own_neck: tasks that have a neck of their own beside the shared one. sharing: a structure of
    `training.networks.sharing` and its options. neck: fpn, bifpn or none. detection, segmentation,
    depth, normals: options of the heads of a kind.
    """

    architecture: str = 'hydranet'
    trunk: str = 'pvt_v2_b0'
    pretrained: bool = False
    trunk_weights: str = ''
    trunk_terms: str = ''
    init_from: str = ''
    neck_channels: int = 64
    drop_path_rate: float = 0.05
    frozen_stages: int = 0
    own_neck: list[str] = field(default_factory=list)
    sharing: dict[str, Any] = field(default_factory=lambda: {'name': 'hard'})
    neck: str = 'fpn'
    detection: DetectionConfig = field(default_factory=DetectionConfig)
    segmentation: SegmentationConfig = field(default_factory=SegmentationConfig)
    depth: DepthConfig = field(default_factory=DepthConfig)
    normals: NormalsConfig = field(default_factory=NormalsConfig)


@dataclass
class OptimizerConfig:
    """AdamW with linear warm-up and cosine decay to `final_lr_ratio`.

    batch_size: images per step, over all devices. accumulate: parts in which a device takes its
    share of them one after another, for less memory. trunk_lr: factor on the trunk's learning rate;
    a pretrained trunk wants less than fresh heads. layer_decay: further factor for each trunk stage
    below the last.
    """

    steps: int = 8000
    batch_size: int = 16
    accumulate: int = 1
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup_steps: int = 300
    final_lr_ratio: float = 0.01
    trunk_lr: float = 1.0
    layer_decay: float = 1.0
    clip_norm: float = 5.0
    ema_decay: float = 0.999


@dataclass
class StageConfig:
    """Part of a run with an augmentation of its own, such as smaller images or no mosaic.

    until: share of the run's steps at which it ends, in (0, 1]. augment: keys of `AugmentConfig`
    that differ from the run's.
    """

    until: float
    augment: dict[str, Any] = field(default_factory=dict)


@dataclass
class RunConfig:
    """Everything `training.train` needs. `output` is the run folder, resumed when it exists.

    tasks: names, in a file also whole definitions (`training.task_definition`), which become
    entries of definitions: kind, classes and colours by name.
    devices a node, nodes: one process a device. precision: 32-true, bf16-mixed,
    16-mixed, or auto for what the device does fast.
    batch_norm: `sync` takes statistics over all devices (heads: as `local`), `local` over a
    device's own images, `frozen` keeps those there are; statistics of an accumulated step are those
    of its parts.
    compile: torch.compile for trunk and neck. balancing: method of `training.balancing` and its
    options, over the losses times `loss_weights`. affinity_every: steps between two measurements of
    how the tasks' gradients agree, 0 for none. best_by: patterns of validation figures whose mean
    picks `best/`; without one the default of `training.selection`.
    """

    name: str
    output: str
    tasks: list[str]
    data: list[LayoutConfig]
    definitions: dict[str, TaskDefinition] = field(default_factory=dict)
    loss_weights: dict[str, float] = field(default_factory=dict)
    balancing: dict[str, Any] = field(default_factory=lambda: {'method': 'equal'})
    network: NetworkConfig = field(default_factory=NetworkConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    stages: list[StageConfig] = field(default_factory=list)
    accelerator: str = 'auto'
    devices: int = 1
    nodes: int = 1
    precision: str = 'auto'
    batch_norm: str = 'sync'
    compile: bool = False
    workers: int = 1
    seed: int = 0
    log_every: int = 20
    affinity_every: int = 0
    checkpoint_every: int = 200
    validate_every: int = 2000
    validate_images: int = 40
    validate_split: str = 'val'
    best_by: list[str] = field(default_factory=list)

    def task_table(self) -> tuple[Task, ...]:
        """The tasks by name; raises ConfigError naming those there are."""
        known = self.known_tasks()
        unknown = [name for name in self.tasks if name not in known]
        if unknown:
            raise ConfigError(
                f'tasks: unknown {unknown}, expected some of {list(known)}, or one of your own: '
                f'{{name: {unknown[0]}, kind: segmentation, classes: [...]}}'
            )
        return tuple(known[name] for name in self.tasks)

    def known_tasks(self) -> dict[str, Task]:
        """By name, those there are and those defined here; raises ConfigError."""
        try:
            return with_known(self.definitions)
        except ValueError as error:
            raise ConfigError(f'tasks: {error}') from error

    def define(self, definitions: Mapping[str, TaskDefinition]) -> None:
        """Take over definitions, for the data sources too, which label these tasks."""
        self.definitions = {**definitions, **self.definitions}
        self.data = [replace(source, definitions=self.definitions) for source in self.data]

    def augment_stages(self) -> list[tuple[int, AugmentConfig]]:
        """(Step at which it ends, augmentation) in order; raises ConfigError."""
        stages, before = [], 0.0
        for number, stage in enumerate(self.stages):
            if not before < stage.until <= 1:
                raise ConfigError(
                    f'stages[{number}].until: {stage.until}, expected a share of the steps above '
                    f'{before} and at most 1'
                )
            before = stage.until
            try:
                augment = replace(self.augment, **stage.augment)
            except (TypeError, ValueError) as error:
                raise ConfigError(f'stages[{number}].augment: {error}') from error
            stages.append((round(stage.until * self.optimizer.steps), augment))
        return [*stages, (self.optimizer.steps, self.augment)]

    def check(self) -> None:
        """Raise ConfigError for values out of range or that do not go together, and for names."""
        for key, least in AT_LEAST.items():
            if (found := attrgetter(key)(self)) < least:
                raise ConfigError(f'{key}: expected at least {least}, found {found}')
        self._check_names()
        self.augment_stages()
        batch, parts = self.optimizer.batch_size, self.optimizer.accumulate
        shares = self.devices * self.nodes * parts
        if min(self.devices, self.nodes, parts, batch) < 1 or batch % shares:
            raise ConfigError(
                f'optimizer.batch_size {batch} does not divide among {self.nodes} nodes x '
                f'{self.devices} devices x optimizer.accumulate {parts}; it counts the images of a '
                f'whole step: choose a multiple of {shares}'
            )
        for key, known in (('batch_norm', BATCH_NORMS), ('precision', PRECISIONS)):
            if getattr(self, key) not in known:
                raise ConfigError(f'{key}: {getattr(self, key)!r}, expected one of {known}')
        for stage in (augment for _, augment in self.augment_stages()):
            sides = (stage.height, stage.width, stage.input_height, stage.input_width)
            if not MIN_SIDE <= min(sides) <= max(sides) <= MAX_SIDE:
                raise ConfigError(
                    f'augment: height, width, input_height, input_width {sides}: expected '
                    f'{MIN_SIDE} to {MAX_SIDE} pixels each, multiples of {MIN_SIDE}'
                )
        if self.network.init_from and (self.network.pretrained or self.network.trunk_weights):
            raise ConfigError(
                f'network.init_from {self.network.init_from!r} gives the trunk weights too: set '
                "network.pretrained=false and network.trunk_weights='' beside it"
            )
        if self.validate_split.startswith('test'):
            raise ConfigError(
                f'validate_split: {self.validate_split!r} would choose weights by test labels; '
                'validate on `val` and score the test split once, with training.evaluate'
            )

    def _check_names(self) -> None:
        """Of tasks and data sources; raises ConfigError."""
        self.task_table()
        sources = [layout.name for layout in self.data]
        for key, names in (
            ('tasks', self.tasks), ('data', sources), ('network.own_neck', self.network.own_neck),
        ):  # fmt: skip
            if len(set(names)) < len(names):
                raise ConfigError(f'{key}: each name once, found {names}')
        for key, names in (('tasks', self.tasks), ('data', sources)):
            if not names:
                raise ConfigError(f'{key}: expected at least one, found none')
        if slashed := [name for name in sources if '/' in name]:
            raise ConfigError(f'data: figures are SOURCE/TASK/FIGURE: no / in the names {slashed}')
        # Loss weights of other tasks stay in a file whose `tasks` are fewer than its base's.
        for key, found, known in (
            ('network.own_neck', self.network.own_neck, self.tasks),
            ('loss_weights', self.loss_weights, self.known_tasks()),
        ):
            if unknown := [name for name in found if name not in known]:
                raise ConfigError(f'{key}: unknown {unknown}, expected some of {list(known)}')


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file and apply `key=value` overrides, `key=` for no text; raises ConfigError."""
    try:
        given = OmegaConf.from_dotlist([f'{o}""' if o.endswith('=') else o for o in overrides])
    except YAMLError as error:
        raise ConfigError(f'overrides {list(overrides)}: a value is no YAML: {error}') from error
    return make_config(str(path), read_layers(path), given)


def read_layers(path: str | Path) -> DictConfig:
    """What a YAML file and its bases say, unchecked; raises ConfigError."""
    if not Path(path).is_file():
        raise ConfigError(f'no configuration file {path}; examples are in training/configs/')
    try:
        return _merged(str(path), *_with_bases(Path(path)))
    except (OmegaConfBaseException, ValueError, YAMLError) as error:
        raise ConfigError(f'{path}: {error}') from error


def make_config(where: str, *layers: DictConfig | dict[str, Any]) -> RunConfig:
    """A checked configuration, later layers before earlier ones; raises ConfigError at `where`."""
    try:
        plain = [split_definitions(_plain(layer)) for layer in layers]
        config = OmegaConf.to_object(_merged(where, OmegaConf.structured(RunConfig), *plain))
    except (OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f'{where}: {error}') from error
    assert isinstance(config, RunConfig)
    config.define({})
    config.check()
    return config


def _plain(layer: DictConfig | dict[str, Any]) -> dict[str, Any]:
    """A layer as plain data, references to other keys as they stand."""
    made = OmegaConf.create(layer)
    return cast(dict[str, Any], OmegaConf.to_container(made, resolve=False))


def _merged(where: str, *layers: DictConfig | dict[str, Any]) -> DictConfig:
    """Later layers over earlier ones; raises ConfigError for keys that go into a list."""
    try:
        merged = OmegaConf.merge(*layers)
    except TypeError as error:
        pairs = combinations([OmegaConf.create(layer) for layer in layers], 2)
        clash = next(filter(None, starmap(_clash, pairs)), str(error))
        raise ConfigError(f'{where}: {clash}') from error
    assert isinstance(merged, DictConfig)
    return merged


def _clash(before: Any, after: Any, key: str = '') -> str | None:
    """What is wrong with the first key that holds a list on one side and keys on the other."""
    if isinstance(before, ListConfig) and isinstance(after, DictConfig):
        return f"{key}: expected a list, found keys; a list is replaced as a whole: '{key}=[...]'"
    if isinstance(before, DictConfig) and isinstance(after, ListConfig):
        return f'{key}: expected keys, found a list'
    if isinstance(before, DictConfig) and isinstance(after, DictConfig):
        for name in after:
            inner = f'{key}.{name!s}' if key else str(name)
            found = _clash(before[name], after[name], inner) if name in before else None
            if found:
                return found
    return None


def _with_bases(path: Path) -> list[DictConfig]:
    """The file and those it builds on, the last base first."""
    chain: list[DictConfig] = []
    names = [path]
    while True:
        loaded = OmegaConf.load(names[-1])
        if not isinstance(loaded, DictConfig):
            raise ConfigError(f'{names[-1]}: expected keys and values, found a list')
        base = loaded.pop('base', None)
        chain.insert(0, loaded)
        if base is None:
            return chain
        names.append(names[-1].parent / str(base))
        if not names[-1].is_file():
            raise ConfigError(f'{names[-2]}: base {base!r} is not there: no file {names[-1]}')
        if names[-1].resolve() in [name.resolve() for name in names[:-1]]:
            raise ConfigError(f'{names[-2]}: base {base!r} goes in a circle')


def save_config(config: RunConfig, path: Path) -> None:
    """Write the configuration as `load_config` reads it."""
    path.write_text(_as_yaml(config), 'utf-8')


def differences(path: Path, config: RunConfig) -> list[str]:
    """`key: before -> now` for what a saved configuration has otherwise."""
    if not path.is_file():
        return []
    before, now = _flat(OmegaConf.load(path)), _flat(OmegaConf.create(_as_yaml(config)))
    return [
        f'{key}: {before.get(key)} -> {now.get(key)}'
        for key in {**before, **now}
        if key in before and before.get(key) != now.get(key)
    ]


def _as_yaml(config: RunConfig) -> str:
    """The definitions once, not again in every data source."""
    saved = _plain(OmegaConf.structured(config))
    for source in saved['data']:
        del source['definitions']
    return OmegaConf.to_yaml(OmegaConf.create(saved))


def _flat(node: Any, prefix: str = '') -> dict[str, Any]:
    """`optimizer.lr` -> value; lists that hold keys by number, others as they are."""
    if isinstance(node, DictConfig):
        pairs = [(str(key), value) for key, value in node.items()]
    elif isinstance(node, ListConfig) and any(isinstance(value, DictConfig) for value in node):
        pairs = [(str(i), value) for i, value in enumerate(node)]
    else:
        return {prefix: node}
    flat: dict[str, Any] = {}
    for key, value in pairs:
        flat |= _flat(value, f'{prefix}.{key}' if prefix else key)
    return flat
