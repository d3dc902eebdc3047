# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Pretrain a trunk on another's features: `python -m training.distill CONFIG [key=value ...]`.

For trunks whose ImageNet weights cannot be had (offline, or not published). A pretrained network
shows the student its features of unlabelled images at strides 4-32, in one of two ways:

- `teacher.trunk`: any timm trunk teaches any timm trunk. After FitNets (Romero et al., ICLR 2015,
  eq. 3): a 1x1 regressor maps each student level to the teacher's channels and is thrown away
  afterwards. Writes OUTPUT/trunk.safetensors, which `network.trunk_weights` takes.
- `teacher.model`: a trained model of ours (a bundle or run) teaches the neck of a model with
  another trunk, which takes over the heads that read the neck as they are, so that the student
  answers their tasks before it has seen a label. Writes a run folder, which `network.init_from`
  takes.

The target is whitened per channel and the distance is smooth L1 (Wei et al., "Contrastive learning
rivals masked image modeling in fine-tuning via feature distillation", 2022, section 3); changed:
whitening by batch statistics, since convolutional features have no token norm. An interrupted run
is resumed: images and schedule are functions of the step.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from training.checkpoint import BEST, as_in_memory, save_best
from training.command import run
from training.config import (
    PRECISIONS,
    ConfigError,
    OptimizerConfig,
    RunConfig,
    load_config,
    read_layers,
    save_config,
)
from training.data.layout import LayoutConfig, open_layouts
from training.data.loader import Draws, StepSampler, train_loader
from training.data.sample import DatasetError
from training.data.transforms import AugmentConfig
from training.device import working_precision
from training.initial_weights import find_model, read_weights
from training.network_error import NetworkError
from training.networks.base import MultiTaskNetwork
from training.networks.build import build_network
from training.networks.cpu import suit_cpu
from training.networks.trunk import STRIDES, Trunk
from training.networks.weights import OWN
from training.optimizer import learning_rate, parameter_groups
from training.tasks import Features
from training.train import NonFiniteLossError

WEIGHTS, STATE, LOG = 'trunk.safetensors', 'state.safetensors', 'losses.jsonl'
DISTILLED = 'distill.yaml'
"""The configuration, in the output folder: `terms.py` follows the teacher from there."""
STEP = 'step'
EPSILON = 1e-5


@dataclass(frozen=True)
class TrunkConfig:
    """trunk: a timm pyramid model. pretrained, trunk_weights and _terms: as in `NetworkConfig`."""

    trunk: str = ''
    pretrained: bool = False
    trunk_weights: str = ''
    trunk_terms: str = ''
    drop_path_rate: float = 0.0

    def make(self) -> Trunk:
        """The trunk with its weights; raises NetworkError."""
        return Trunk(self.trunk, self.pretrained, self.drop_path_rate, self.trunk_weights)


@dataclass(frozen=True)
class TeacherConfig(TrunkConfig):
    """A trunk, or `model`: a bundle or run of ours, by name or folder."""

    model: str = ''


@dataclass(frozen=True)
class DistillConfig:
    """What `training.distill` needs; `output` is the run folder, resumed when it exists.

    data: images of the training split, labels are not read. level_weights: of the losses at strides
    4, 8, 16 and 32.
    """

    name: str
    output: str
    teacher: TeacherConfig
    student: TrunkConfig
    data: list[LayoutConfig]
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    level_weights: list[float] = field(default_factory=lambda: [1.0] * len(STRIDES))
    accelerator: str = 'auto'
    precision: str = '32-true'
    workers: int = 1
    seed: int = 0
    log_every: int = 20
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        """Check what goes together; raises ConfigError."""
        if self.precision not in PRECISIONS:
            raise ConfigError(f'precision: {self.precision!r}, expected one of {PRECISIONS}')
        if len(self.level_weights) != len(STRIDES) or min(self.level_weights) < 0:
            raise ConfigError(
                f'level_weights: expected {len(STRIDES)} numbers of 0 or more, one for each of the '
                f'strides {STRIDES}, found {self.level_weights}'
            )
        if bool(self.teacher.trunk) == bool(self.teacher.model):
            raise ConfigError('teacher: expected either trunk or model, found both or neither')
        if self.teacher.trunk and not (self.teacher.pretrained or self.teacher.trunk_weights):
            raise ConfigError(
                'teacher: a trunk without weights teaches nothing; give teacher.pretrained=true or '
                'teacher.trunk_weights=FILE'
            )
        if not self.student.trunk:
            raise ConfigError('student.trunk: expected a timm model, found none')
        if not self.data:
            raise ConfigError('data: expected at least one source of images, found none')


def load_distill_config(path: str | Path, overrides: Sequence[str] = ()) -> DistillConfig:
    """Read a YAML file and apply `key=value` overrides; raises ConfigError."""
    try:
        config = OmegaConf.to_object(
            OmegaConf.merge(
                OmegaConf.structured(DistillConfig),
                read_layers(path),
                OmegaConf.from_dotlist(list(overrides)),
            )
        )
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        raise ConfigError(f'{path}: {error}') from error
    assert isinstance(config, DistillConfig)
    return config


class Neck(nn.Module):
    """The neck of a network: images uint8 [B, 3, H, W] -> [B, C, H/s, W/s] at strides 4-32."""

    def __init__(self, network: MultiTaskNetwork, channels: int) -> None:
        """channels: of every level."""
        super().__init__()
        self.network = network
        self.channels = [channels] * len(STRIDES)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Run trunk and neck; raises NetworkError where tasks have features of their own."""
        features = self.network.features(image)
        if not isinstance(features, Features) or len(features.neck) != len(STRIDES):
            raise NetworkError(
                'teacher.model: its tasks do not share one neck of four levels, which is what is '
                'taught; take a model with network.sharing hard and a neck'
            )
        return list(features.neck)


class FeatureLoss(nn.Module):
    """Student and regressors in one forward, so that autocast wraps them together."""

    def __init__(
        self, student: Trunk | Neck, teacher_channels: Sequence[int], weights: Sequence[float]
    ) -> None:
        """A 1x1 regressor per level of a trunk; a neck has the teacher's channels already."""
        super().__init__()
        self.student = student
        pairs = zip(student.channels, teacher_channels, strict=True)
        self.regressors = (
            nn.ModuleList(nn.Conv2d(own, theirs, 1) for own, theirs in pairs)
            if isinstance(student, Trunk)
            else None
        )
        self.register_buffer('weights', torch.tensor(list(weights)), persistent=False)

    def forward(self, image: Tensor, targets: Sequence[Tensor]) -> Tensor:
        """Images uint8 [B, 3, H, W], the teacher's features [B, C, H/s, W/s] -> losses [4]."""
        losses = []
        for i, (feature, target) in enumerate(zip(self.student(image), targets, strict=True)):
            var, mean = torch.var_mean(target.float(), (0, 2, 3), keepdim=True)
            scale = (var + EPSILON).rsqrt()
            if self.regressors is None:
                predicted = (feature.float() - mean) * scale
            else:
                predicted = self.regressors[i](feature).float()
            losses.append(F.smooth_l1_loss(predicted, (target.float() - mean) * scale))
        return torch.stack(losses) * self.weights


def load_teacher(name: str) -> tuple[MultiTaskNetwork, RunConfig]:
    """A trained model and the configuration that made it; raises ConfigError."""
    weights, settings = find_model(name)
    config = load_config(settings)
    network = build_network(config.network, config.task_table(), initialise=False)
    network.load_state_dict(read_weights(weights))
    return network.eval(), config


def student_of(
    teacher: MultiTaskNetwork, config: RunConfig
) -> tuple[MultiTaskNetwork, list[str]]:  # fmt: skip
    """A network with another trunk, a fresh neck and the teacher's heads.

    Also returns the tasks whose heads start fresh, because they read the trunk. Raises ConfigError.
    """
    network = build_network(config.network, config.task_table())
    fresh = []
    for task in config.tasks:
        try:
            network.head(task).load_state_dict(teacher.head(task).state_dict())
        except RuntimeError:
            fresh.append(task)
    return network, fresh


def distill(config: DistillConfig) -> Path:
    """Train the student for the configured number of steps; returns its weights or run folder.

    Raises ConfigError, DatasetError, NetworkError, NonFiniteLossError.
    """
    precision: Any = working_precision(config.precision, config.accelerator)
    fabric = Fabric(accelerator=config.accelerator, devices=1, precision=precision)
    fabric.seed_everything(config.seed, verbose=False)
    output, opt = Path(config.output), config.optimizer
    run: RunConfig | None = None
    teacher: Trunk | Neck
    student: Trunk | Neck
    if config.teacher.model:
        network, run = load_teacher(config.teacher.model)
        teacher = Neck(network, run.network.neck_channels)
        given = asdict(config.student) | {'init_from': '', 'frozen_stages': 0}
        run = replace(
            run, name=config.name, output=config.output, network=replace(run.network, **given)
        )
        model, fresh = student_of(network, run)
        student = Neck(model, run.network.neck_channels)
        if fresh:
            fabric.print(f'heads that read the trunk start fresh: {", ".join(fresh)}')
    else:
        teacher, student = config.teacher.make(), config.student.make()
    fabric.to_device(teacher.eval().requires_grad_(False))
    losses_of = FeatureLoss(student, teacher.channels, config.level_weights)
    for module in (teacher, losses_of):
        module.to(memory_format=torch.channels_last)
        if fabric.device.type == 'cpu':
            suit_cpu(module)
    wrapped, optimizer = fabric.setup(
        losses_of,
        torch.optim.AdamW(parameter_groups(losses_of, opt), lr=opt.lr, fused=True),
    )
    first = _resume(output / STATE, losses_of, optimizer)
    output.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.structured(config), output / DISTILLED)
    if first:
        fabric.print(f'resuming {output} at step {first} of {opt.steps}')
    draws = Draws(open_layouts(config.data, 'train'), config.augment, config.seed, ())
    sampler = StepSampler(first, opt.steps, opt.batch_size)
    mean, begun = torch.zeros(len(STRIDES), device=fabric.device), time.monotonic()
    for step, batch in enumerate(train_loader(draws, sampler, (), config.workers), first):
        for group in optimizer.param_groups:
            group['lr'] = learning_rate(step, opt)
        torch.manual_seed(hash((config.seed, step)))
        image = fabric.to_device(batch.image).contiguous(memory_format=torch.channels_last)
        with torch.no_grad(), fabric.autocast():
            targets = teacher(image)
        optimizer.zero_grad()
        losses = wrapped(image, targets)
        fabric.backward(losses.sum())
        fabric.clip_gradients(wrapped, optimizer, max_norm=opt.clip_norm, error_if_nonfinite=False)
        optimizer.step()
        mean += losses.detach() / config.log_every
        done = step + 1
        if done % config.log_every == 0:
            values = mean.tolist()
            if not all(map(math.isfinite, values)):
                raise NonFiniteLossError(
                    f'step {step}: losses {values}; lower optimizer.lr, and resume from {output}'
                )
            rate = config.log_every * opt.batch_size / (time.monotonic() - begun)
            _log(output / LOG, done, values, rate)
            mean, begun = torch.zeros_like(mean), time.monotonic()
        if done % config.checkpoint_every == 0 or done == opt.steps:
            _save(output, done, losses_of, optimizer, run)
    return output if run else output / WEIGHTS


def _log(path: Path, step: int, losses: Sequence[float], rate: float) -> None:
    named = {f'stride{s}': round(v, 5) for s, v in zip(STRIDES, losses, strict=True)}
    line = {'step': step, 'losses': named, 'images_per_s': round(rate, 2)}
    print(json.dumps(line), flush=True)
    with path.open('a', encoding='utf-8') as file:
        file.write(json.dumps(line) + '\n')


def _save(
    output: Path, step: int, losses_of: FeatureLoss, optimizer: Any, run: RunConfig | None
) -> None:
    """The student as others load it, and what resuming needs.

    A trunk has the names of a run's checkpoint; a model is a run of `run`.
    """
    state = {f'network.{k}': v.contiguous() for k, v in losses_of.state_dict().items()}
    for i, moments in optimizer.state_dict()['state'].items():
        state |= {f'optimizer.{i}.{k}': v.contiguous() for k, v in moments.items()}
    state[STEP] = torch.tensor(step)
    _replace(output / STATE, state)
    student = losses_of.student
    if isinstance(student, Trunk):
        body = student.body.state_dict()
        _replace(output / WEIGHTS, {f'{OWN}{k}': v.contiguous() for k, v in body.items()})
    else:
        assert run is not None
        save_config(run, output / 'config.yaml')
        save_best(output / BEST, student.network, {'step': step})


def _replace(path: Path, tensors: dict[str, Tensor]) -> None:
    fresh = path.with_name(f'{path.name}.new')
    save_file(tensors, fresh)
    fresh.replace(path)


def _resume(path: Path, losses_of: FeatureLoss, optimizer: Any) -> int:
    """Load what an interrupted run left; returns its steps, 0 for a new run; raises ConfigError."""
    if not path.is_file():
        return 0
    try:
        tensors = load_file(path)
        losses_of.load_state_dict(
            {k.removeprefix('network.'): v for k, v in tensors.items() if k.startswith('network.')}
        )
    except (SafetensorError, RuntimeError, OSError) as error:
        raise ConfigError(
            f'{path} does not fit this configuration ({str(error).splitlines()[0]}); give the '
            f'trunks as before, or another output folder'
        ) from error
    parameters = [p for group in optimizer.param_groups for p in group['params']]
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith('optimizer.'):
            _, index, key = name.split('.')
            like = tensor if key == STEP else as_in_memory(tensor, parameters[int(index)])
            moments.setdefault(int(index), {})[key] = like
    optimizer.load_state_dict({**optimizer.state_dict(), 'state': moments})
    return int(tensors[STEP])


def main(argv: list[str] | None = None) -> int:
    """Command line; exit code 1 with one sentence on a usage, data or numeric error."""
    parser = argparse.ArgumentParser(prog='python -m training.distill', description=__doc__)
    parser.add_argument('config', help='YAML file, see training/configs/distill/pvt_v2_b0.yaml')
    parser.add_argument('overrides', nargs='*', metavar='key=value')
    args = parser.parse_args(argv)
    try:
        weights = distill(load_distill_config(args.config, args.overrides))
    except (ConfigError, DatasetError, NetworkError, NonFiniteLossError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    key = 'init_from' if weights.is_dir() else 'trunk_weights'
    print(f'distilled. Next: python -m training.train CONFIG network.{key}={weights}')
    return 0


if __name__ == '__main__':
    sys.exit(run(main))
