# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""A study file: which trunks, pretraining, task sets, sharing structures, methods and seeds.

    name: driving_mini
    output: runs/study/driving_mini
    base: ../driving_mini_b0.yaml          # a training configuration, beside this file
    run: {optimizer: {steps: 150}}         # what all runs have otherwise than it
    trunks: [pvt_v2_b0]                    # or label -> keys of `network`
    pretraining: {scratch: {}}             # label -> keys of `network`
    tasks: {all: [semantic, drivable, detection]}
    sharing: [hard, cross_stitch]          # or label -> {name, ...options} of `network.sharing`
    balancing: [equal, UW]                 # or label -> {method, ...options} of `balancing`
    seeds: [0, 1, 2]
    exclude:                               # a cell that is in all lists of a rule is left out
      - {sharing: [cross_stitch], balancing: [UW]}
    primary:                               # what the study is for: primary.py
      effect_percent: 3
      deviation_percent: 2
      comparisons: [{against: single}]

`cells.py` makes runs of it. What stands under `search` is `search.py`'s.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from mtl_perception.plain_yaml import PlainYamlError, read_plain_yaml
from mtl_perception.schema import checked_keys
from mtl_perception.tasks import ALL_TASKS
from training.balancing import METHODS
from training.config import ConfigError, read_layers
from training.study.errors import StudyError as StudyError
from training.study.primary import Primary, read_primary

AXES = ('trunk', 'pretraining', 'tasks', 'sharing', 'balancing')
"""What cells differ in, besides the seed; rules of `exclude` name these."""

SINGLE = 'single'
"""Label of the sharing of single-task baselines, which every study has."""

Overrides = dict[str, Any]


@dataclass(frozen=True)
class StudyConfig:
    """A checked study file; every axis is label -> what it says.

    run: keys of a training configuration that all cells share. reference: label of the trunk that
    the second research question compares with, '' for none. split: of evaluation, never a test
    split. latency_frames: frames that the networks take turns on. keep: what of a finished run
    stays, `best` weights or `all`. primary: the comparisons that were named before the run.
    """

    name: str
    output: Path
    run: Overrides
    trunks: dict[str, Overrides]
    tasks: dict[str, list[str]]
    seeds: list[int]
    pretraining: dict[str, Overrides] = field(default_factory=lambda: {'scratch': {}})
    sharing: dict[str, Overrides] = field(default_factory=lambda: {'hard': {'name': 'hard'}})
    balancing: dict[str, Overrides] = field(default_factory=lambda: {'equal': {'method': 'equal'}})
    exclude: list[dict[str, list[str]]] = field(default_factory=list)
    reference: str = ''
    split: str = 'val'
    latency_frames: int = 30
    keep: str = 'best'
    search: Overrides = field(default_factory=dict)
    primary: Primary | None = None


KEYS = ('base', *(each.name for each in fields(StudyConfig)))


def load_study(path: str | Path, output: str | Path | None = None) -> StudyConfig:
    """Read and check a study file; `output` replaces its own. Raises StudyError, ConfigError."""
    path = Path(path)
    try:
        found = read_plain_yaml(path)
    except (OSError, PlainYamlError) as error:
        raise StudyError(f'study file {path} cannot be read: {error}') from error
    found = checked_keys(found, KEYS, (), str(path), StudyError)
    missing = [key for key in ('name', 'output', 'trunks', 'tasks', 'seeds') if not found.get(key)]
    if missing:
        raise StudyError(f'{path}: {missing} missing; training/configs/study/ has examples')
    try:
        return _checked(_read(path, found, output), path)
    except (TypeError, ValueError, AttributeError) as error:
        raise StudyError(f'{path}: a value has the wrong form: {error}') from error


def _read(path: Path, found: Mapping[str, Any], output: str | Path | None) -> StudyConfig:
    run: Overrides = {}
    if 'base' in found:
        from omegaconf import OmegaConf

        layers = read_layers(path.parent / found['base'])
        merged = OmegaConf.merge(layers, found.get('run') or {})
        run = OmegaConf.to_container(merged, resolve=True)  # type: ignore[assignment]
    else:
        run = dict(found.get('run') or {})
    values: dict[str, Any] = {
        key: value for key, value in found.items() if key not in ('base', 'run', 'output')
    }
    values['trunks'] = _axis(found['trunks'], 'trunk')
    if 'pretraining' in found:
        values['pretraining'] = _axis(found['pretraining'])
    if 'sharing' in found:
        values['sharing'] = _axis(found['sharing'], 'name')
    if 'balancing' in found:
        values['balancing'] = _axis(found['balancing'], 'method')
    values['tasks'] = {str(label): list(tasks) for label, tasks in found['tasks'].items()}
    values['seeds'] = [int(seed) for seed in found['seeds']]
    primary = values.pop('primary', None)
    study = StudyConfig(run=run, output=Path(output or found['output']), **values)
    if primary is None:
        return study
    axes = labels_of(study)
    return replace(study, primary=read_primary(primary, axes, study.exclude, path))


def _axis(found: Any, key: str | None = None) -> dict[str, Overrides]:
    """Labels of an axis; `key` is what a label alone stands for."""
    entries = found if isinstance(found, Mapping) else dict.fromkeys(found)
    return {
        str(label): ({key: str(label)} if key else {}) | dict(options or {})
        for label, options in entries.items()
    }


def _checked(study: StudyConfig, path: Path) -> StudyConfig:
    labels = labels_of(study)
    for axis, known in labels.items():
        for label in known:
            if not re.fullmatch(r'[A-Za-z0-9_-]+', label):
                raise StudyError(
                    f'{path}: {axis} {label!r}: labels name folders; letters, digits, _ and -'
                )
    if SINGLE in study.sharing:
        raise StudyError(
            f'{path}: sharing {SINGLE!r}: single-task baselines are always part of a study'
        )
    for label, tasks in study.tasks.items():
        unknown = [task for task in tasks if task not in ALL_TASKS]
        if unknown or len(set(tasks)) != len(tasks):
            raise StudyError(
                f'{path}: tasks {label}: expected some of {list(ALL_TASKS)}, each once'
            )
        if len(tasks) < 2:
            raise StudyError(
                f'{path}: tasks {label}: {tasks} is a single-task baseline, which every study has'
            )
    for label, options in study.balancing.items():
        if options['method'] not in METHODS:
            raise StudyError(f'{path}: balancing {label}: expected one of {list(METHODS)}')
    for rule in study.exclude:
        for axis, names in rule.items():
            if axis not in labels:
                raise StudyError(f'{path}: exclude: {axis!r}, expected some of {AXES}')
            strange = [name for name in names if name not in labels[axis]]
            if strange:
                raise StudyError(
                    f'{path}: exclude: {axis} {strange}, expected of {list(labels[axis])}'
                )
    if study.reference and study.reference not in study.trunks:
        raise StudyError(
            f'{path}: reference {study.reference!r}, expected one of the trunks '
            f'{list(study.trunks)}'
        )
    if study.split.startswith('test'):
        raise StudyError(
            f'{path}: split {study.split!r}: a study compares on val; score the test split once, '
            f'with training.evaluate, when everything is chosen'
        )
    if study.keep not in ('best', 'all'):
        raise StudyError(f'{path}: keep {study.keep!r}, expected best or all')
    if len(set(study.seeds)) != len(study.seeds) or min(study.seeds) < 0:
        raise StudyError(f'{path}: seeds {study.seeds}, expected different ones, not negative')
    if not isinstance(study.run.get('data'), list):
        raise ConfigError(f'{path}: run.data: no data set; give one, or a base that has some')
    return study


def labels_of(study: StudyConfig) -> dict[str, list[str]]:
    """Labels by axis, in the order of the file."""
    axes: tuple[Mapping[str, Any], ...] = (
        study.trunks, study.pretraining, study.tasks, study.sharing, study.balancing,
    )  # fmt: skip
    return {axis: list(each) for axis, each in zip(AXES, axes, strict=True)}
