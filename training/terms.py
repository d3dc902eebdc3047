# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What the weights of a run come from, and what each of it may be used for.

Sources say it in `terms` and `teacher_terms`, trunks in `trunk_terms`; packages of weights in their
metadata, timm in its own table, models that a run began with or learnt from in their manifest or
configuration. What is not stated stays empty: `mtl-perception bundle` says so.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mtl_perception.bundle import Bundle, BundleError, find_bundle
from training.networks.weights import PYPI

GENERATED = 'drawn by python -m training.data.scenes: Apache-2.0'
CONFIGS = ('config.yaml', 'distill.yaml')
"""What a folder that `training.train` or `training.distill` wrote has."""


def terms_of(config: Mapping[Any, Any]) -> dict[str, str]:
    """Terms by name of a training or distillation configuration as plain data.

    Follows the runs and bundles that it begins with, and those that it learns from.
    """
    found: dict[str, str] = {}
    for source in config.get('data') or ():
        root = Path(str(source.get('root', ''))).expanduser()
        own = str(source.get('terms') or '')
        found[str(source['name'])] = own or (GENERATED if (root / 'scenes.json').is_file() else '')
        for task, folder in (source.get('teachers') or {}).items():
            name = f'teacher of {task} in {source["name"]}, {folder}'
            found[name] = str(source.get('teacher_terms') or '')
    for part in ('network', 'teacher', 'student'):
        found = joined(found, _of_network(config.get(part) or {}))
    return found


def joined(first: Mapping[str, str], second: Mapping[str, str]) -> dict[str, str]:
    """Both; where both name one thing, what is stated, and the first one's if both state it."""
    return {name: first.get(name) or second.get(name, '') for name in (*first, *second)}


def _of_network(network: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    trunk, weights = str(network.get('trunk') or ''), str(network.get('trunk_weights') or '')
    begun = bool(network.get('init_from'))
    if network.get('pretrained') and trunk and not begun:
        settings = timm.get_pretrained_cfg(trunk)
        found[f'weights of timm {trunk}'] = str((settings and settings.license) or '')
    if weights.startswith(PYPI) and not begun:
        own = str(network.get('trunk_terms') or '')
        found[f'weights of {weights}'] = own or _of_package(weights.removeprefix(PYPI))
    elif weights and not begun:
        found |= _of_file(Path(weights).expanduser(), str(network.get('trunk_terms') or ''))
    for key in ('init_from', 'model'):
        if model := str(network.get(key) or ''):
            found = joined(found, _of_model(model))
    return found


def _of_package(package: str) -> str:
    """The licence that the metadata of an installed package states."""
    try:
        metadata = importlib.metadata.metadata(package)
    except importlib.metadata.PackageNotFoundError:
        return ''
    stated = [
        *(metadata.get_all('License-Expression') or ()), *(metadata.get_all('License') or ()),
    ]  # fmt: skip
    classifiers = metadata.get_all('Classifier') or []
    stated += [c.rpartition(' :: ')[2] for c in classifiers if c.startswith('License ::')]
    return next((text for text in stated if text and text != 'UNKNOWN'), '')


def _of_file(path: Path, stated: str) -> dict[str, str]:
    """Of weights in the folder of a run of ours, or else of nobody knows whom."""
    for folder in path.parents[:2]:
        if found := _of_run(folder):
            return found
    return {f'weights in {path}': stated}


def _of_model(model: str) -> dict[str, str]:
    folder = Path(model).expanduser()
    if found := _of_run(folder):
        return found
    try:
        manifest = Bundle.open(find_bundle(model), verify=False).manifest
    except BundleError:
        return {f'model {model}': ''}
    return {**dict.fromkeys(manifest.training_data, ''), **manifest.terms}


def _of_run(folder: Path) -> dict[str, str]:
    """Terms of what a run of ours learnt from; nothing where the folder holds none."""
    found: dict[str, str] = {}
    for path in (folder / name for name in CONFIGS):
        if path.is_file():
            try:
                config = OmegaConf.to_container(OmegaConf.load(path))
            except (OmegaConfBaseException, YAMLError, OSError):
                config = None
            own = terms_of(config) if isinstance(config, dict) else {f'run {folder}': ''}
            found = joined(found, own)
    return found
