"""Train a HydraNet: `python -m training.train training/configs/demo.yaml [key=value ...]`.

One loop, top to bottom. A run folder that holds a checkpoint is resumed: batches, augmentation and
schedule are functions of the step, so the losses go on as without the interruption.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.console import Console
from rich.live import Live
from rich.table import Table
from torch import Tensor, nn

from training.checkpoint import CheckpointError, find_checkpoint, load_checkpoint, save_checkpoint
from training.config import ConfigError, OptimizerConfig, RunConfig, load_config, save_config
from training.data.bdd100k import open_layouts
from training.data.loader import Draws, StepSampler, train_loader
from training.data.sample import DatasetError
from training.evaluate import evaluate_network, headline
from training.networks.hydranet import HydraNet


class NonFiniteLossError(Exception):
    """A loss that is NaN or infinite; the last checkpoint stays as it was."""


class TaskLosses(nn.Module):
    """Network plus losses in one forward, so that DDP and autocast wrap them together."""

    def __init__(self, network: HydraNet) -> None:
        """Hold the network; it stays the owner of its weights."""
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, targets: Mapping[str, Sequence[Any]]) -> dict[str, Tensor]:
        """One loss for each task that the batch labels; a head sees only its labelled rows."""
        features = self.network.features(image)
        losses = {}
        for task in self.network.tasks:
            rows = [i for i, target in enumerate(targets[task.name]) if target is not None]
            if rows:
                head = self.network.head(task.name)
                outputs = head(features.rows(torch.tensor(rows, device=image.device)))
                losses[task.name] = head.loss(outputs, [targets[task.name][i] for i in rows])
        return losses


def learning_rate(step: int, config: OptimizerConfig) -> float:
    """Linear warm-up, then cosine (Loshchilov and Hutter, ICLR 2017) down to the final ratio."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.lr * (config.final_lr_ratio + (1 - config.final_lr_ratio) * cosine)


@torch.no_grad()
def update_ema(ema: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average of weights and batch-norm statistics; the decay warms up."""
    decay = min(decay, (1 + step) / (10 + step))
    for kept, fresh in zip(ema.state_dict().values(), network.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(fresh, 1 - decay)
        else:
            kept.copy_(fresh)


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices and kernels, not on biases and norms."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    return [
        {'params': decayed, 'weight_decay': weight_decay},
        {'params': plain, 'weight_decay': 0.0},
    ]


def build_network(config: RunConfig) -> HydraNet:
    """The network that a configuration describes, fresh."""
    return HydraNet(
        config.network.trunk,
        config.task_table(),
        config.network.pretrained,
        config.network.neck_channels,
        config.network.drop_path_rate,
    )


def train(config: RunConfig) -> Path:
    """Train to the configured number of steps; returns the checkpoint folder."""
    fabric = Fabric(
        accelerator=config.accelerator, devices=config.devices, precision=config.precision
    )
    fabric.launch()
    fabric.seed_everything(config.seed, verbose=False)
    output = Path(config.output)
    checkpoint = output / 'checkpoint'
    output.mkdir(parents=True, exist_ok=True)
    save_config(config, output / 'config.yaml')

    bare = build_network(config).to(memory_format=torch.channels_last)
    ema = fabric.to_device(copy.deepcopy(bare)).eval()
    opt = config.optimizer
    losses_of, optimizer = fabric.setup(
        TaskLosses(bare), torch.optim.AdamW(parameter_groups(bare, opt.weight_decay), lr=opt.lr)
    )
    state: dict[str, Any] = {'step': 0, 'seconds': 0.0, 'validation': {}}
    found = find_checkpoint(checkpoint)
    if found:
        state = load_checkpoint(found, bare, ema, optimizer)
        fabric.print(f'resuming {output} at step {state["step"]} of {opt.steps}')

    draws = Draws(open_layouts(config.data, 'train'), config.augment, config.seed)
    sampler = StepSampler(
        state['step'], opt.steps, opt.batch_size, fabric.global_rank, fabric.world_size
    )
    board = Board(config, output, state, fabric.is_global_zero)
    with board:
        for step, batch in enumerate(
            train_loader(draws, sampler, config.tasks, config.workers), state['step']
        ):
            for group in optimizer.param_groups:
                group['lr'] = learning_rate(step, opt)
            # Dropout and stochastic depth must not depend on where a run was interrupted.
            torch.manual_seed(hash((config.seed, step, fabric.global_rank)))
            losses_of.train()
            image = fabric.to_device(batch.image).contiguous(memory_format=torch.channels_last)
            losses = losses_of(image, batch.targets)
            total = torch.stack(
                [config.loss_weights.get(name, 1.0) * loss for name, loss in losses.items()]
            ).sum()
            if not torch.isfinite(total):
                raise NonFiniteLossError(
                    f'step {step}: losses { {k: v.item() for k, v in losses.items()} }; the '
                    f'checkpoint of step {state["step"]} is intact. Lower optimizer.lr or look at '
                    f'draws {step * opt.batch_size} to {(step + 1) * opt.batch_size - 1}.'
                )
            optimizer.zero_grad()
            fabric.backward(total)
            fabric.clip_gradients(losses_of, optimizer, max_norm=opt.clip_norm)
            optimizer.step()
            update_ema(ema, bare, opt.ema_decay, step)

            board.step(step, {name: loss.item() for name, loss in losses.items()})
            done = step + 1
            if done % config.validate_every == 0 and fabric.is_global_zero:
                state['validation'] = headline(
                    evaluate_network(ema, config, 'val', config.validate_images)
                )
                board.validated(done, state['validation'])
            if (done % config.checkpoint_every == 0 or done == opt.steps) and fabric.is_global_zero:
                state.update(step=done, seconds=board.seconds)
                save_checkpoint(checkpoint, bare, ema, optimizer, state)
    return checkpoint


class Board:
    """What a person watches: a live table on a terminal, a line now and then elsewhere; a CSV."""

    def __init__(self, config: RunConfig, output: Path, state: dict[str, Any], shown: bool) -> None:
        """`state` is the checkpoint's: its step, seconds so far and last validation."""
        self.config = config
        self.console = Console()
        self.live = Live(console=self.console, refresh_per_second=2)
        self.shown = shown
        self.first, self.before = state['step'], state['seconds']
        self.begun = time.monotonic()
        self.validation: dict[str, float] = state['validation']
        self.means: dict[str, float] = {}
        self.output = output

    def __enter__(self) -> Board:
        """Open the CSV and, on a terminal, the live table."""
        path = self.output / 'losses.csv'
        fresh = not path.exists()
        self.file = path.open('a', newline='')
        self.csv = csv.writer(self.file)
        if fresh:
            self.csv.writerow(['step', 'seconds', *self.config.tasks])
        if self.shown and self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Close both."""
        self.live.stop()
        self.file.close()

    @property
    def seconds(self) -> float:
        """Training time of the run, over all its sessions."""
        return self.before + time.monotonic() - self.begun

    def step(self, step: int, losses: dict[str, float]) -> None:
        """Record a step's losses."""
        self.csv.writerow(
            [step, f'{self.seconds:.1f}', *(losses.get(t, '') for t in self.config.tasks)]
        )
        for name, loss in losses.items():
            self.means[name] = 0.95 * self.means.get(name, loss) + 0.05 * loss
        if not self.shown or (step + 1) % self.config.log_every:
            return
        self.file.flush()
        done = step + 1
        rate = (done - self.first) / (time.monotonic() - self.begun)
        left = (self.config.optimizer.steps - done) / rate
        images = rate * self.config.optimizer.batch_size
        if self.console.is_terminal:
            self.live.update(self._table(done, images, left))
        else:
            means = ' '.join(f'{name} {value:.3f}' for name, value in self.means.items())
            self.console.print(
                f'step {done}/{self.config.optimizer.steps} {images:.1f} images/s '
                f'{left / 60:.0f} min left | {means}',
                soft_wrap=True,
            )

    def validated(self, step: int, values: dict[str, float]) -> None:
        """Show and keep a validation result."""
        self.validation = values
        with (self.output / 'validation.jsonl').open('a') as file:
            file.write(json.dumps({'step': step, **values}) + '\n')
        if self.shown:
            text = ' '.join(f'{name} {value:.3f}' for name, value in values.items())
            self.console.print(f'validation at step {step}: {text}', soft_wrap=True)

    def _table(self, done: int, images: float, left: float) -> Table:
        opt = self.config.optimizer
        table = Table(
            title=f'{self.config.name}: step {done}/{opt.steps}, {images:.1f} images/s, '
            f'{left / 60:.0f} min left'
        )
        table.add_column('task')
        table.add_column('loss', justify='right')
        for name, value in self.means.items():
            table.add_row(name, f'{value:.4f}')
        for name, value in self.validation.items():
            table.add_row(f'val {name}', f'{value:.4f}')
        return table


def main(argv: list[str] | None = None) -> int:
    """Command line; exit code 1 with one sentence on a usage, data or numeric error."""
    parser = argparse.ArgumentParser(prog='python -m training.train', description=__doc__)
    parser.add_argument('config', help='YAML file, see training/configs/')
    parser.add_argument('overrides', nargs='*', metavar='key=value')
    args = parser.parse_args(argv)
    try:
        checkpoint = train(load_config(args.config, args.overrides))
    except (ConfigError, DatasetError, CheckpointError, NonFiniteLossError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    print(f'trained: {checkpoint}. Next: python -m training.export {checkpoint.parent} models/NAME')
    return 0


if __name__ == '__main__':
    sys.exit(main())
