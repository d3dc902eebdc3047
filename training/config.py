"""Typed training configuration: a YAML file plus `key=value` overrides, unknown keys are errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mtl_perception.tasks import TASKS, Task
from training.data.bdd100k import LayoutConfig
from training.data.transforms import AugmentConfig


class ConfigError(Exception):
    """A configuration that cannot be used: which key, expected, found."""


@dataclass
class NetworkConfig:
    """trunk: any timm pyramid model. pretrained: timm's ImageNet weights (needs the network)."""

    trunk: str = 'pvt_v2_b0'
    pretrained: bool = False
    neck_channels: int = 64
    drop_path_rate: float = 0.05


@dataclass
class OptimizerConfig:
    """AdamW with linear warm-up and cosine decay to `final_lr_ratio`; one step is one batch."""

    steps: int = 8000
    batch_size: int = 16
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup_steps: int = 300
    final_lr_ratio: float = 0.01
    clip_norm: float = 5.0
    ema_decay: float = 0.999


@dataclass
class RunConfig:
    """Everything `training.train` needs. `output` is the run folder, resumed when it exists."""

    name: str
    output: str
    tasks: list[str]
    data: list[LayoutConfig]
    loss_weights: dict[str, float] = field(default_factory=dict)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    accelerator: str = 'auto'
    devices: int = 1
    precision: str = 'bf16-mixed'
    workers: int = 1
    seed: int = 0
    log_every: int = 20
    checkpoint_every: int = 200
    validate_every: int = 2000
    validate_images: int = 40

    def task_table(self) -> tuple[Task, ...]:
        """The tasks by name; raises ConfigError naming those there are."""
        unknown = [name for name in self.tasks if name not in TASKS]
        if unknown:
            raise ConfigError(f'tasks: unknown {unknown}, expected some of {list(TASKS)}')
        return tuple(TASKS[name] for name in self.tasks)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file and apply `key=value` overrides; raises ConfigError."""
    if not Path(path).is_file():
        raise ConfigError(f'no configuration file {path}; examples are in training/configs/')
    try:
        merged = OmegaConf.merge(
            OmegaConf.structured(RunConfig),
            OmegaConf.load(path),
            OmegaConf.from_dotlist(list(overrides)),
        )
        config = OmegaConf.to_object(merged)
    except (OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f'{path}: {error}') from error
    assert isinstance(config, RunConfig)
    return config


def save_config(config: RunConfig, path: Path) -> None:
    """Write the configuration as `load_config` reads it."""
    path.write_text(OmegaConf.to_yaml(OmegaConf.structured(config)), 'utf-8')
