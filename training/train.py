# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Train a HydraNet: `python -m training.train training/configs/demo.yaml [key=value ...]`.

One loop, top to bottom. A run folder that holds a checkpoint is resumed: batches, augmentation and
schedule are functions of the step, so the losses go on as without the interruption. A loss is the
mean over the labels of the whole step, however many devices and parts it is taken in.
`docs/training.md` has the commands for several GPUs, SLURM and new heads.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from timm.layers.norm_act import convert_sync_batchnorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mtl_perception.engines.base import EngineError
from training.affinity import measure
from training.balancing import BalancingError
from training.board import Board
from training.checkpoint import (
    BEST,
    LAST,
    CheckpointError,
    find_checkpoint,
    load_balancing,
    load_checkpoint,
    save_best,
    save_checkpoint,
    save_state,
)
from training.command import run
from training.config import (
    ConfigError,
    OptimizerConfig,
    RunConfig,
    differences,
    load_config,
    save_config,
)
from training.data.layout import Layout, open_layouts
from training.data.loader import Draws, StepSampler, train_loader
from training.data.sample import DatasetError
from training.device import is_out_of_memory
from training.evaluation.results import headline
from training.evaluation.validation import validation_results
from training.initial_weights import start_from
from training.networks.base import MultiTaskNetwork
from training.networks.build import build_network
from training.networks.cpu import suit_cpu
from training.optimizer import learning_rate, parameter_groups, update_ema
from training.preflight import check_labels, check_sizes, check_validation
from training.processes import open_fabric
from training.selection import score
from training.step import PLAIN, Batch, Step, TaskLosses
from training.unread import StepRecord, Unread

HELD_OUT = 1_000_003
"""Added to the seed of the batches that Auto-Lambda validates its weights on."""

SHAPING = ('tasks', 'network.')
"""Keys that decide which parameters a checkpoint holds begin so."""

Batches = Callable[[int], Iterable[Batch]]
"""First step -> this process's share of each step from there on."""

Validated = Callable[[int, float], None]
"""Is told the steps that were made, and the score of their validation."""


class NonFiniteLossError(Exception):
    """A loss, gradient or validated output that is NaN or infinite; checkpoints stay whole."""


def train(config: RunConfig, validated: Validated | None = None) -> Path:
    """Train to the configured number of steps; returns the checkpoint folder."""
    fabric = open_fabric(config)
    begun = find_checkpoint(Path(config.output) / LAST) is not None
    layouts = open_layouts(config.data, 'train')
    check_labels(config, layouts)
    check_sizes(config)
    torch.backends.cudnn.benchmark = sizes_are_fixed(layouts, config.tasks)
    network = build_network(config.network, config.task_table(), initialise=not begun)
    if config.network.init_from and not begun:
        for line in start_from(network, config.network):
            fabric.print(f'{config.network.init_from}: {line}')
    opt = config.optimizer

    counting = {task.name: network.head(task.name).counting() for task in network.tasks}

    def drawn(seed: int, images: int, first_step: int) -> Iterator[Batch]:
        stages = [(step * images, augment) for step, augment in config.augment_stages()]
        draws = Draws(layouts, config.augment, seed, config.tasks, stages)
        sampler = StepSampler(first_step, opt.steps, images, fabric.global_rank, fabric.world_size)
        for batch in train_loader(
            draws, sampler, config.tasks, config.workers, counting, fabric.device.type == 'cuda'
        ):
            yield batch.image, batch.targets

    batches = partial(drawn, config.seed, opt.batch_size)
    # Other draws of the training split, as many as one part holds; `val` is for choosing weights.
    held_out = partial(drawn, config.seed + HELD_OUT, opt.batch_size // opt.accumulate)
    checkpoint = fit(fabric, config, network, TaskLosses(network), batches, held_out, validated)
    fabric.print(f'trained. Next: python -m training.export {config.output} models/NAME')
    return checkpoint


def sizes_are_fixed(layouts: Iterable[Layout], tasks: Iterable[str]) -> bool:
    """Whether every image is labelled for every task, so that all steps have tensors of one size.

    A head sees labelled images alone. Where their number changes from step to step, cuDNN would
    search for its fastest kernels again and again.
    """
    every = set(tasks)
    return all(every <= layout.tasks(i) for layout in layouts for i in range(len(layout)))


def synchronise(network: MultiTaskNetwork) -> None:
    """Batch norm over all devices in what every device runs, which heads are not.

    A device without a label for a task leaves its head out, and the others would wait for it.
    """
    for name, part in network.named_children():
        if part is not network.heads:  # timm's: torch's own loses the activation of timm's norms
            setattr(network, name, convert_sync_batchnorm(part))


def fit(
    fabric: Fabric,
    config: RunConfig,
    network: MultiTaskNetwork,
    losses_of: nn.Module,
    batches: Batches,
    held_out: Batches | None = None,
    validated: Validated | None = None,
) -> Path:
    """The loop: minimise what `losses_of` (which holds the network) sums up over the batches.

    held_out: batches for a balancing method that validates its weights. validated: is told each
    validation's step and score, and may end the run by an exception. Writes the run folder
    `config.output` and resumes from the checkpoint in it. Returns the checkpoint folder. Raises
    NonFiniteLossError, BalancingError, CheckpointError, ConfigError.
    """
    config = replace(config, precision=fabric.strategy.precision.precision)
    check_validation(config)
    output, opt = Path(config.output), config.optimizer
    found = find_checkpoint(output / LAST)
    network.to(memory_format=torch.channels_last)
    if fabric.device.type == 'cpu':
        suit_cpu(network)
    ema = copy.deepcopy(network).eval()
    fabric.to_device(ema)
    if config.batch_norm == 'sync' and fabric.world_size > 1:
        synchronise(network)
    if config.compile:
        network.trunk.compile()
        network.neck.compile()
    precision = fabric.strategy.precision
    has_scaler = bool(precision.state_dict())
    # The fused step unscales fp16 gradients by itself, and so cannot be clipped before.
    adamw = torch.optim.AdamW(parameter_groups(network, opt), lr=opt.lr, fused=not has_scaler)
    wrapped, optimizer = fabric.setup(losses_of, adamw)
    gradients = Step(fabric, wrapped, network, config)
    balancer = gradients.balancer
    wrapped.train()
    if config.batch_norm == 'frozen':
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
    state: dict[str, Any] = {
        'step': 0, 'seconds': 0.0, 'validation': {}, 'best': None, 'precision': {},
        'balancing': PLAIN, 'validation_due': False,
    }  # fmt: skip
    method = balancer.name if balancer else PLAIN
    if found:
        changed = differences(output / 'config.yaml', config)
        try:
            state |= load_checkpoint(found, network, ema, optimizer)
        except CheckpointError as error:
            if other := [line for line in changed if line.startswith(SHAPING)]:
                raise CheckpointError(
                    f'{output} was begun with other settings ({"; ".join(other)}) and cannot go on '
                    f'with these: give them as before, or another output folder. {error}'
                ) from error
            raise
        if state['precision']:
            precision.load_state_dict(state['precision'])
        if state['balancing'] != method:
            raise ConfigError(
                f'balancing: {output} was begun with {state["balancing"]} and cannot go on with '
                f'{method}, whose state it lacks; give another output folder'
            )
        if balancer:
            balancer.load_state_dict(load_balancing(found))
        fabric.print(f'resuming {output} at step {state["step"]} of {opt.steps}')
        for line in changed:
            fabric.print(f'not as before the interruption: {line}')
    state['balancing'], saved = method, state['step']
    if fabric.is_global_zero:
        output.mkdir(parents=True, exist_ok=True)
        save_config(config, output / 'config.yaml')

    board = Board(config, output, state, fabric.device) if fabric.is_global_zero else None

    def validate(done: int, losses: Mapping[str, float], checkpoint: Path | None) -> None:
        """Choose the best; `checkpoint`: that of the same step, whose state is brought up to it."""
        try:
            results = validation_results(ema, config, gradients.processes)
        except EngineError as error:
            before = f'losses {losses}, ' if losses else ''
            what = f'{before}validated after it: {str(error).rstrip(".")}'
            raise _non_finite(done - 1, what, saved, opt) from error
        if board is None:
            return
        figures = headline(results)
        board.validated(done, figures, value := score(figures, config.best_by))
        state.update(step=done, seconds=board.seconds, validation=figures, validation_due=False)
        if state['best'] is None or value > state['best']:
            state['best'] = value
            save_best(output / BEST, ema, state)
        if checkpoint:
            save_state(checkpoint, state)
        if validated:
            validated(done, value)

    unread = Unread(gradients.tasks)

    def read() -> list[StepRecord]:
        """Write the steps since the last read; raises NonFiniteLossError for one that diverged."""
        records = unread.read()
        for record in records:
            # With fp16 the scaler leaves out a step whose gradients overflow, and scales down.
            diverged = not (has_scaler or math.isfinite(record.gradient_norm))
            if diverged or not record.has_finite_losses:
                what = f'losses {record.losses}, gradient norm {record.gradient_norm:g}'
                raise _non_finite(record.step, what, saved, opt)
            if board:
                board.step(record)
        return records

    with board or nullcontext():
        if found and state['validation_due'] and saved % config.validate_every == 0:
            validate(saved, {}, found)
        source = batches(saved)
        validates = balancer is not None and balancer.needs_validation
        others = iter(held_out(saved)) if held_out and validates else None
        for step, batch in enumerate(board.watch(source) if board else source, saved):
            for group in optimizer.param_groups:
                group['lr'] = learning_rate(step, opt) * group['lr_scale']
            if config.affinity_every and step % config.affinity_every == 0:
                affinity = measure(gradients, step, batch)
                if board and affinity:
                    board.affinity(affinity)
            gradients.seed(step)
            optimizer.zero_grad()
            try:
                losses = gradients.backward(step, batch, next(others) if others else None)
            except RuntimeError as error:
                if step == saved and is_out_of_memory(error):
                    raise ConfigError(gradients.what_fits(batch)) from error
                read()  # what has failed may be that an earlier step diverged
                raise
            norm = fabric.clip_gradients(
                wrapped, optimizer, max_norm=opt.clip_norm, error_if_nonfinite=False
            )
            assert norm is not None
            unread.add(step, losses, norm, learning_rate(step, opt), gradients.weights)
            done = step + 1
            validates = done % config.validate_every == 0
            saves = done % config.checkpoint_every == 0 or done == opt.steps
            # A balancing method has waited for the device already.
            reads = saves or validates or done % config.log_every == 0 or balancer is not None
            records = read() if reads else []
            optimizer.step()
            gradients.after_update(step, batch)
            update_ema(ema, network, opt.ema_decay, step)

            if board:
                board.speed.finish()
            # Before the validation: one that fails or is killed costs no step, and is made up for.
            if saves:
                if board:
                    state.update(step=done, seconds=board.seconds, validation_due=validates)
                    state['precision'] = precision.state_dict()
                    method_state = balancer.state_dict() if balancer else None
                    save_checkpoint(output / LAST, network, ema, optimizer, state, method_state)
                saved = done
            if validates:
                validate(done, records[-1].losses, output / LAST if saved == done else None)
    return output / LAST


def _non_finite(step: int, what: str, saved: int, opt: OptimizerConfig) -> NonFiniteLossError:
    kept = f'the checkpoint of step {saved} is intact. Lower optimizer.lr'
    if not saved:
        kept = 'no checkpoint had been made yet. Lower optimizer.lr'
    elif saved > step:
        kept = 'the checkpoint has this step in it. Lower optimizer.lr in another output folder'
    draws = f'draws {step * opt.batch_size} to {(step + 1) * opt.batch_size - 1}'
    return NonFiniteLossError(f'step {step}: {what}; {kept}, or look at {draws}.')


def main(argv: list[str] | None = None) -> int:
    """Command line; exit code 1 with one sentence on a usage, data or numeric error."""
    parser = argparse.ArgumentParser(prog='python -m training.train', description=__doc__)
    parser.add_argument('config', help='YAML file, see training/configs/')
    parser.add_argument('overrides', nargs='*', metavar='key=value')
    args = parser.parse_intermixed_args(argv)
    try:
        train(load_config(args.config, args.overrides))
    except (
        BalancingError, CheckpointError, ConfigError, DatasetError, NonFiniteLossError,
    ) as error:  # fmt: skip
        print(f'error: {error}', file=sys.stderr)
        return 1
    except OSError as error:
        print(
            f'error: {error}. Checkpoints that were made are whole; once the cause is mended, the '
            'same command resumes from the last one.',
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(run(main))
