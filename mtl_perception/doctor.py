# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""`mtl-perception doctor`: what this machine has, and for what is missing the next command."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from importlib.util import find_spec
from typing import Any

from rich.console import Console

from mtl_perception import machine, shared_memory
from mtl_perception.bundle import Bundle, BundleError, bundled, model_folders
from mtl_perception.engines import available, cache

OK, NO, BAD = 'ok', '-', 'bad'
STYLES = {OK: '', NO: 'dim', BAD: 'red'}
Row = tuple[str, str, str]

ROS_PACKAGES = ('rclpy', 'sensor_msgs', 'std_msgs', 'diagnostic_msgs', 'vision_msgs')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def run(args: argparse.Namespace) -> int:
    """Print what there is; returns 1 when no engine or no intact model is there."""
    rows: list[Row] = [(OK, 'python', f'{platform.python_version()} in {sys.prefix}')]
    problems: list[str] = []
    rows += [(OK, name, version) for name, version in machine.packages().items()]
    _engines(rows, problems)
    rows += [(OK, 'gpu', gpu) for gpu in machine.gpus()] or [(NO, 'gpu', 'no NVIDIA GPU found')]
    _ros(rows)
    _shared_memory(rows)
    _models(rows, problems)
    _cache(rows)
    console = Console(highlight=False)
    width = max(len(name) for _, name, _ in rows)
    for mark, name, text in rows:
        console.print(
            f'{mark:3}  {name:{width}}  {text}', style=STYLES[mark], soft_wrap=True, markup=False
        )
    for problem in problems:
        console.print(f'problem {problem}', style=STYLES[BAD], soft_wrap=True, markup=False)
    return 1 if problems else 0


def _engines(rows: list[Row], problems: list[str]) -> None:
    engines = available()
    for name, found in engines.items():
        able = f', {found.device}: {", ".join(found.precisions)}' if found.usable else ''
        rows.append((OK if found.usable else NO, f'engine {name}', f'{found.text}{able}'))
    if not any(found.usable for found in engines.values()):
        problems.append("no engine runs here: pip install 'mtl_perception[openvino]'")


def _ros(rows: list[Row]) -> None:
    """Missing ROS is no problem: only the node and the demo need it."""
    distribution = os.environ.get('ROS_DISTRO', '')
    missing = [name for name in ROS_PACKAGES if find_spec(name) is None]
    source = f'ROS 2 {distribution}' if distribution else 'no ROS_DISTRO: ROS 2 wheels'
    if missing:
        source += f'; missing {", ".join(missing)}: run `make setup`, or source a ROS 2'
    rows.append((NO if missing else OK, 'ros', source))


def _shared_memory(rows: list[Row]) -> None:
    """Room for images between processes, with the profile that the node would take."""
    environment = dict(os.environ)
    shared_memory.use_profile(environment)
    complaint = shared_memory.complaint(environment)
    mark = BAD if complaint else OK
    rows.append((mark, 'shared memory', complaint or shared_memory.describe(environment)))


def _models(rows: list[Row], problems: list[str]) -> None:
    models = bundled()
    intact = 0
    for name, folder in models.items():
        try:
            manifest = Bundle.open(folder).manifest
        except BundleError as error:
            rows.append((BAD, f'model {name}', str(error)))
            problems.append(f'model {name} is not intact')
            continue
        intact += 1
        spec = manifest.input
        tasks = ', '.join(task.name for task in manifest.tasks)
        rows.append((OK, f'model {name}', f'{spec.height}x{spec.width}: {tasks}'))
    if not intact:
        where = [str(folder) for folder in model_folders()]
        problems.append(f'no intact model in {where}: `python -m training.export` writes one')


def _verdict(found: dict[str, Any]) -> str:
    if not found:
        return ', accuracy not checked'
    if not found['passed']:
        return f', not offered: {found["text"]}'
    return f', accuracy kept, {found["speed"]:.2f} times as fast as {found["reference"]}'


def _cache(rows: list[Row]) -> None:
    entries = cache.entries()
    for entry in entries:
        text = 'damaged: mtl-perception compile MODEL --force builds it again'
        if not entry['damaged']:
            text = f'{entry["engine"]} {entry["precision"]} {entry["bytes"] / 1e6:.1f} MB'
            text += _verdict(entry['verdict'])
        rows.append((BAD if entry['damaged'] else OK, 'built engine', f'{text} {entry["path"]}'))
    if not entries:
        rows.append((NO, 'built engines', f'none in {cache.cache_root()}: mtl-perception compile'))
