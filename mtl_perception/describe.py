# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""`mtl-perception bundle MODEL`: what a bundle answers, how far to believe it, and its terms."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from rich.console import Console

from mtl_perception import kinds
from mtl_perception.bundle import Bundle, find_bundle
from mtl_perception.manifest import Manifest
from mtl_perception.tasks import ROAD, Task
from mtl_perception.text import one_line

NOT_STATED = 'not stated: find out before you use the weights for anything but a trial'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model."""
    parser.add_argument('model', help='bundle folder, or the name of one under models/')


def run(args: argparse.Namespace) -> int:
    """Check the files and print; raises BundleError."""
    bundle = Bundle.open(find_bundle(args.model))
    console = Console(highlight=False)
    for heading, lines in sections(bundle).items():
        console.print(heading, style='bold', markup=False)
        for line in lines:
            console.print(f'  {one_line(line, 1000)}', soft_wrap=True, markup=False)
    return 0


def sections(bundle: Bundle) -> dict[str, list[str]]:
    """Lines by heading; names and terms are whatever the manifest says."""
    manifest = bundle.manifest
    size = sum((bundle.path / name).stat().st_size for name in manifest.files) / 1e6
    spec = manifest.input
    return {
        f'{manifest.name}, {size:.1f} MB, {bundle.hash[:12]}': [
            f'input {spec.height}x{spec.width}',
            f'from {manifest.parent_run or "a run that it does not name"}',
        ],
        'Answers': [line for task in manifest.tasks for line in _answers(task)],
        'Terms': [manifest.licence, *terms(manifest)],
    }


def terms(manifest: Manifest) -> Iterator[str]:
    """A line for everything that the weights come from."""
    for name in dict.fromkeys((*manifest.training_data, *manifest.terms)):
        yield f'{name}: {manifest.terms.get(name) or NOT_STATED}'


def _answers(task: Task) -> Iterator[str]:
    named = ', '.join(task.published.values()) or ('unknown' if task.classes else 'a map')
    yield f'{task.name} ({task.kind}): {named}'
    if kinds.of(task).is_label:
        if untaught := [name for name in task.classes if name not in task.believed]:
            yield f'  unknown for what no real data taught: {", ".join(untaught)}'
        if task.threshold:
            yield (
                f'  unknown below a probability of {task.threshold:g} '
                f'(temperature {task.temperature:.2f})'
            )
    if ROAD in task.published.values() and ROAD not in task.classes:
        yield '  the own lane is not told from others: no real data taught it'
