"""Pretrain one timm trunk on another's features: `python -m training.distill CONFIG [key=value]`.

For trunks whose ImageNet weights cannot be had (offline, or not published): a pretrained trunk
shows the student its features of unlabelled images at strides 4-32. After FitNets (Romero et al.,
ICLR 2015, eq. 3): a 1x1 regressor maps each student level to the teacher's channels and is thrown
away afterwards. The target is whitened per channel and the distance is smooth L1 (Wei et al.,
"Contrastive learning rivals masked image modeling in fine-tuning via feature distillation", 2022,
section 3); changed: whitening by batch statistics, since convolutional features have no token norm.

Writes OUTPUT/trunk.safetensors, which `network.trunk_weights` takes, and resumes an interrupted
run: images and schedule are functions of the step.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
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

from training.config import PRECISIONS, ConfigError, OptimizerConfig, read_layers
from training.data.layout import LayoutConfig, open_layouts
from training.data.loader import Draws, StepSampler, train_loader
from training.data.sample import DatasetError
from training.data.transforms import AugmentConfig
from training.network_error import NetworkError
from training.networks.cpu import suit_cpu
from training.networks.trunk import STRIDES, Trunk
from training.networks.weights import OWN
from training.train import NonFiniteLossError, learning_rate, parameter_groups

WEIGHTS, STATE, LOG = 'trunk.safetensors', 'state.safetensors', 'losses.jsonl'
STEP = 'step'


@dataclass(frozen=True)
class TrunkConfig:
    """trunk: a timm pyramid model. pretrained, trunk_weights: as in `NetworkConfig`."""

    trunk: str
    pretrained: bool = False
    trunk_weights: str = ''
    drop_path_rate: float = 0.0

    def make(self) -> Trunk:
        """The trunk with its weights; raises NetworkError."""
        return Trunk(self.trunk, self.pretrained, self.drop_path_rate, self.trunk_weights)


@dataclass(frozen=True)
class DistillConfig:
    """What `training.distill` needs; `output` is the run folder, resumed when it exists.

    data: images of the training split, labels are not read. level_weights: of the losses at strides
    4, 8, 16 and 32.
    """

    name: str
    output: str
    teacher: TrunkConfig
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
        if not (self.teacher.pretrained or self.teacher.trunk_weights):
            raise ConfigError(
                'teacher: a trunk without weights teaches nothing; give teacher.pretrained=true or '
                'teacher.trunk_weights=FILE'
            )
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


class FeatureLoss(nn.Module):
    """Student and regressors in one forward, so that DDP and autocast wrap them together."""

    def __init__(
        self, student: Trunk, teacher_channels: Sequence[int], weights: Sequence[float]
    ) -> None:
        """A 1x1 regressor per level, to the teacher's channels."""
        super().__init__()
        self.student = student
        self.regressors = nn.ModuleList(
            nn.Conv2d(own, theirs, 1)
            for own, theirs in zip(student.channels, teacher_channels, strict=True)
        )
        self.whiten = nn.ModuleList(nn.BatchNorm2d(c, affine=False) for c in teacher_channels)
        self.weights = list(weights)

    def forward(self, image: Tensor, targets: Sequence[Tensor]) -> Tensor:
        """Images uint8 [B, 3, H, W], the teacher's features [B, C, H/s, W/s] -> losses [4]."""
        losses = []
        for feature, regress, whiten, target in zip(
            self.student(image), self.regressors, self.whiten, targets, strict=True
        ):
            losses.append(F.smooth_l1_loss(regress(feature).float(), whiten(target.float())))
        return torch.stack(losses) * torch.tensor(self.weights, device=image.device)


def distill(config: DistillConfig) -> Path:
    """Train the student for the configured number of steps; returns the file of its weights."""
    fabric = Fabric(accelerator=config.accelerator, devices=1, precision=config.precision)  # type: ignore[arg-type]
    fabric.seed_everything(config.seed, verbose=False)
    output, opt = Path(config.output), config.optimizer
    teacher = fabric.to_device(config.teacher.make().eval().requires_grad_(False))
    student = config.student.make()
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
            _save(output, done, losses_of, optimizer)
    return output / WEIGHTS


def _log(path: Path, step: int, losses: Sequence[float], rate: float) -> None:
    named = {f'stride{s}': round(v, 5) for s, v in zip(STRIDES, losses, strict=True)}
    line = {'step': step, 'losses': named, 'images_per_s': round(rate, 2)}
    print(json.dumps(line), flush=True)
    with path.open('a', encoding='utf-8') as file:
        file.write(json.dumps(line) + '\n')


def _save(output: Path, step: int, losses_of: FeatureLoss, optimizer: Any) -> None:
    """The student's weights under the names of a run's checkpoint, and what resuming needs."""
    body = {f'{OWN}{k}': v.contiguous() for k, v in losses_of.student.body.state_dict().items()}
    state = {f'network.{k}': v.contiguous() for k, v in losses_of.state_dict().items()}
    for i, moments in optimizer.state_dict()['state'].items():
        state |= {f'optimizer.{i}.{k}': v.contiguous() for k, v in moments.items()}
    state[STEP] = torch.tensor(step)
    for name, tensors in ((STATE, state), (WEIGHTS, body)):
        fresh = output / f'{name}.new'
        save_file(tensors, fresh)
        fresh.replace(output / name)


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
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith('optimizer.'):
            _, index, key = name.split('.')
            moments.setdefault(int(index), {})[key] = tensor
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
    print(f'distilled. Next: python -m training.train CONFIG network.trunk_weights={weights}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
