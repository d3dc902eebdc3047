# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What a person watches while a model trains: terminal, CSV, TensorBoard and the run's speed.

A run folder gets `losses.csv` (every step), `tensorboard/` (every `log_every` steps),
`validation.jsonl`, `affinity.jsonl` (when asked for: `training.affinity`) and `speed.json` (images
per second, share of time waiting for data, peak memory).
"""

from __future__ import annotations

import csv
import json
import resource
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.live import Live
from rich.table import Table
from torch.utils.tensorboard.writer import SummaryWriter

from mtl_perception import machine
from training.config import RunConfig
from training.unread import StepRecord

WARM_STEPS = 5
"""Steps of a session that speed.json leaves out: compiling, first allocations, filling queues."""

AFFINITY = 'affinity.jsonl'
"""One line a measurement: step, weights of the tasks, and the matrices of `training.affinity`."""

VALIDATION = 'validation.jsonl'
"""One line a validation: step, score, figures."""

T = TypeVar('T')


class Board:
    """A live table on a terminal, a line now and then elsewhere, and the files named above."""

    def __init__(
        self, config: RunConfig, output: Path, state: Mapping[str, Any], device: torch.device
    ) -> None:
        """`state` is the checkpoint's: step, seconds so far, last validation, if one is due."""
        self.config = config
        self.output = output
        self.device = device
        self.console = Console()
        self.live = Live(console=self.console, refresh_per_second=2)
        self.first, self.before = state['step'], state['seconds']
        self.validated_to = self.first - 1 if state['validation_due'] else self.first
        self.begun = time.monotonic()
        self.validation: Mapping[str, float] = state['validation']
        self.means: dict[str, float] = {}
        self.speed = Speed(config.optimizer.batch_size)

    def __enter__(self) -> Board:
        """Open the files, less what an interrupted session wrote after its last checkpoint."""
        columns = ['step', 'seconds', *self.config.tasks]
        path = self.output / 'losses.csv'
        kept = _rows_before(path, self.first)
        self.file = path.open('w', newline='', encoding='utf-8')
        self.csv = csv.DictWriter(self.file, columns, restval='', extrasaction='ignore')
        self.csv.writeheader()
        self.csv.writerows(kept)
        for name, last in ((AFFINITY, self.first - 1), (VALIDATION, self.validated_to)):
            path = self.output / name
            if path.is_file():
                lines = [line for line in _whole_lines(path) if json.loads(line)['step'] <= last]
                path.write_text(''.join(lines), 'utf-8')
        self.events = SummaryWriter(str(self.output / 'tensorboard'), purge_step=self.first)
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Close them and write what the speed was."""
        self.live.stop()
        self.file.close()
        self.events.close()
        self.write_speed()

    @property
    def seconds(self) -> float:
        """Time of the run over all its sessions."""
        return self.before + time.monotonic() - self.begun

    def watch(self, batches: Iterable[T]) -> Iterator[T]:
        """The batches, with the time that each was waited for."""
        iterator = iter(batches)
        while True:
            self.speed.ask()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self.speed.receive()
            yield batch

    def step(self, record: StepRecord) -> None:
        """Write a step that has been made."""
        step, losses = record.step, record.losses
        seconds = self.before + record.made_s - self.begun
        self.csv.writerow({'step': step, 'seconds': f'{seconds:.1f}', **losses})
        for name, loss in losses.items():
            self.means[name] = 0.95 * self.means.get(name, loss) + 0.05 * loss
        done = step + 1
        if done % self.config.log_every:
            return
        self.file.flush()
        scalars = {
            **{f'loss/{name}': value for name, value in self.means.items()},
            'optimizer/lr': record.lr,
            'optimizer/gradient_norm': record.gradient_norm,
            **{f'speed/{name}': value for name, value in self.speed.values().items()},
            **{f'weight/{name}': value for name, value in record.weights.items()},
        }
        for name, value in scalars.items():
            self.events.add_scalar(name, value, done)
        self._show(done)

    def affinity(self, found: Mapping[str, Any]) -> None:
        """Keep what `training.affinity.measure` found at a step."""
        with (self.output / AFFINITY).open('a', encoding='utf-8') as file:
            file.write(json.dumps(found) + '\n')
        for kind in ('cosine', 'lookahead'):
            for task, row in zip(found['tasks'], found[kind], strict=True):
                for other, value in zip(found['tasks'], row, strict=True):
                    if task != other:
                        tag = f'{kind}/{task} to {other}'
                        self.events.add_scalar(tag, value, found['step'])

    def validated(self, step: int, values: Mapping[str, float], score: float) -> None:
        """Show and keep a validation result and the score that picks the best one."""
        self.validation = values
        with (self.output / VALIDATION).open('a', encoding='utf-8') as file:
            file.write(json.dumps({'step': step, 'score': score, **values}) + '\n')
        for name, value in {**values, 'score': score}.items():
            self.events.add_scalar(f'val/{name}', value, step)
        text = ' '.join(f'{name} {value:.3f}' for name, value in values.items())
        self.console.print(f'validation at step {step}: {score:.4f} | {text}', soft_wrap=True)

    def write_speed(self) -> None:
        """`speed.json` of this session; none before it has measured a step."""
        if values := self.speed.values():
            record = {
                **values,
                'peak_memory_mb': round(peak_memory_mb(self.device), 1),
                'steps': self.speed.steps,
                'batch_size': self.config.optimizer.batch_size,
                'accumulate': self.config.optimizer.accumulate,
                'crop': [self.config.augment.height, self.config.augment.width],
                'precision': self.config.precision,
                'compile': self.config.compile,
                'device': str(self.device),
                'processes': self.config.devices * self.config.nodes,
                'machine': machine.describe(),
            }
            text = json.dumps(record, indent=1) + '\n'
            (self.output / 'speed.json').write_text(text, 'utf-8')

    def _show(self, done: int) -> None:
        opt = self.config.optimizer
        left = (opt.steps - done) * (time.monotonic() - self.begun) / (done - self.first)
        speed = self.speed.values()
        pace = (
            f'{speed["images_per_s"]:.1f} images/s, {speed["data_wait_share"]:.0%} waiting for data'
            if speed
            else 'warming up'
        )
        title = f'step {done}/{opt.steps}, {pace}, {_duration(left)} left'
        if not self.console.is_terminal:
            means = ' '.join(f'{name} {value:.3f}' for name, value in self.means.items())
            self.console.print(f'{title} | {means}', soft_wrap=True)
            return
        table = Table(title=f'{self.config.name}: {title}')
        table.add_column('task')
        table.add_column('loss', justify='right')
        for name, value in self.means.items():
            table.add_row(name, f'{value:.4f}')
        for name, value in self.validation.items():
            table.add_row(f'val {name}', f'{value:.4f}')
        self.live.update(table)


class Speed:
    """Times of the steps of one session; validation and saving lie between steps and are not in."""

    def __init__(self, batch_size: int) -> None:
        """batch_size: images per step over all processes."""
        self.batch_size = batch_size
        self.warming = WARM_STEPS
        self.steps = 0
        self.waited = self.total = 0.0

    def ask(self) -> None:
        """A batch is asked for: the step begins."""
        self._asked = time.monotonic()

    def receive(self) -> None:
        """The batch is there."""
        self._received = time.monotonic()

    def finish(self) -> None:
        """The step is made."""
        if self.warming:
            self.warming -= 1
            return
        self.steps += 1
        self.waited += self._received - self._asked
        self.total += time.monotonic() - self._asked

    def values(self) -> dict[str, float]:
        """Images per second, ms per step, share of it waiting for data; empty while warming up."""
        if not self.steps:
            return {}
        return {
            'images_per_s': round(self.steps * self.batch_size / self.total, 2),
            'step_ms': round(1e3 * self.total / self.steps, 2),
            'data_wait_share': round(self.waited / self.total, 4),
        }


def peak_memory_mb(device: torch.device) -> float:
    """Peak allocation on the GPU; on a CPU, of this process without its loader's workers."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _rows_before(path: Path, step: int) -> list[dict[str, str]]:
    """Rows of a losses.csv up to a step; the last row may be cut off by a kill."""
    if not path.is_file():
        return []
    with path.open(newline='', encoding='utf-8') as file:
        return [
            row for row in csv.DictReader(file) if row['step'].isdigit() and int(row['step']) < step
        ]


def _whole_lines(path: Path) -> list[str]:
    """Lines of a file whose last one may be cut off by a kill."""
    lines = path.read_text('utf-8').splitlines(keepends=True)
    return [line for line in lines if line.endswith('\n')]


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f'{minutes // 60} h {minutes % 60} min' if minutes >= 60 else f'{minutes} min'
