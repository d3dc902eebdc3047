# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The model card (Mitchell et al., FAT* 2019) as Markdown: `card.md` of a bundle."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mtl_perception import kinds
from mtl_perception.bundle import Metric
from mtl_perception.tasks import Task
from training.config import ConfigError, RunConfig
from training.networks.base import MultiTaskNetwork


def read_metrics(path: Path) -> list[Metric]:
    """Finite values of a JSON that holds figures of the model; raises ConfigError.

    Of `training.evaluate MODEL --json`, one Metric per source; of `mtl-perception compile MODEL
    --rate HZ --data FOLDER --json`, one per input size, of its fp32 engine where it has one.
    """
    try:
        record = json.loads(path.read_text('utf-8'))
        return _by_size(record) if 'measured' in record else _by_source(record)
    except OSError as error:
        raise ConfigError(f'--metrics: {path} cannot be read: {error}') from error
    except (
        ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
    ) as error:  # fmt: skip
        raise ConfigError(
            f'--metrics: {path} is no JSON of `python -m training.evaluate MODEL --json {path}` '
            f'nor of `mtl-perception compile MODEL --rate HZ --data FOLDER --json {path}` '
            f'({type(error).__name__}: {error})'
        ) from error


def _by_source(record: Mapping[str, Any]) -> list[Metric]:
    return [
        Metric(
            data=str(source),
            split=str(record['split']),
            values={
                f'{task}/{key}': round(value, 4)
                for task, values in sources.items()
                if isinstance(values, dict)
                for key, value in values.items()
                if isinstance(value, float) and math.isfinite(value)
            }
            | {'images': float(sources['images'])},
            command=str(record['command']),
        )
        for source, sources in record['results'].items()
    ]


def _by_size(record: Mapping[str, Any]) -> list[Metric]:
    rows: dict[str, Mapping[str, Any]] = {}
    for row in record['measured']:
        size = f'{row["height"]}x{row["width"]}'
        if size not in rows or row['precision'] == 'fp32':
            rows[size] = row
    return [
        Metric(
            data=f'input {size}',
            split=str(record['data']).partition(' (')[0],
            values={
                name.replace(' ', '/'): round(value / 100, 4)
                for name, value in row['accuracy'].items()
                if math.isfinite(value)
            },
            command=str(record['command']),
        )
        for size, row in rows.items()
    ]


def read_description(path: Path | None) -> str:
    """The Markdown that opens the card; empty without a file. Raises ConfigError."""
    try:
        return path.read_text('utf-8') if path else ''
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f'--description: {path} cannot be read as UTF-8: {error}') from error


def card(
    name: str,
    network: MultiTaskNetwork,
    config: RunConfig,
    state: dict[str, Any],
    metrics: Sequence[Metric],
    description: str,
    parent: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """All but its last sections, which `beliefs_and_terms` writes."""
    parameters = sum(p.numel() for p in network.parameters()) / 1e6
    opt = config.optimizer
    lines = [
        f'# {name}',
        '',
        f'{_network_name(config)}, {parameters:.2f} M parameters, input '
        f'{config.augment.input_height}x{config.augment.input_width}, tasks: '
        f'{", ".join(config.tasks)}.',
        '',
        description.strip(),
        '',
        '## Training',
        '',
        f'{state["step"]} steps of {opt.batch_size} images, AdamW lr {opt.lr}, '
        f'{state["seconds"] / 60:.0f} minutes in all, precision {config.precision}, seed '
        f'{config.seed}. Shares of the draws: '
        + ', '.join(f'{layout.name} {layout.weight}' for layout in config.data)
        + '.',
        *_origin(parent),
        '',
        '## Measured',
        '',
    ]
    for (command, split), of in groupby(metrics, lambda each: (each.command, each.split)):
        lines += [f'`{command}`: {split}', '', *_table(list(of)), '']
    return '\n'.join(lines).rstrip() + '\n'


def _table(metrics: Sequence[Metric]) -> list[str]:
    """A row per figure, a column per source or input size."""
    names = dict.fromkeys(name for metric in metrics for name in metric.values)
    head = ['', *(metric.data for metric in metrics)]
    rows = [
        [name, *(f'{m.values[name]:g}' if name in m.values else '' for m in metrics)]
        for name in names
    ]
    return [f'| {" | ".join(row)} |' for row in (head, ['---'] * len(head), *rows)]


def _origin(parent: Mapping[str, Any]) -> list[str]:
    if not parent:
        return []
    return [
        '',
        f'Trained were only the heads of tasks that are not of {parent["name"]}'
        + (f' (bundle {parent["hash"][:12]})' if 'hash' in parent else '')
        + f'. Its trunk, neck and heads for {", ".join(parent["tasks"])} are taken over bit for '
        f'bit; it was trained on {", ".join(parent["training_data"])}.',
    ]


def _network_name(config: RunConfig) -> str:
    network = config.network
    if network.architecture != 'hydranet':
        return f'{network.architecture} (reference)'
    shared = network.sharing.get('name', 'hard')
    return f'HydraNet({network.trunk})' + ('' if shared == 'hard' else f', {shared} sharing')


def beliefs_and_terms(tasks: Sequence[Task], terms: Mapping[str, str]) -> str:
    """The last two sections of the card."""
    lines = ['', '## How far to believe it', '']
    for task in tasks:
        if kinds.of(task).is_label and task.taught is not None:
            lines.append(
                f'- {task.name}: real data taught {", ".join(task.taught) or "nothing"}; what else '
                f'it takes for the answer is published as `unknown`, and so is a probability below '
                f'{task.threshold:g} (temperature {task.temperature:.2f}).'
            )
        elif task.taught is not None:
            lines.append(f'- {task.name}: {", ".join(task.published.values())} only.')
    if len(lines) == 3:
        lines.append('Every class was taught by the data, as far as is known.')
    lines += ['', '## Terms', '']
    lines += [f'- {name}: {text or "not stated"}' for name, text in terms.items()]
    return '\n'.join(lines) + '\n'
