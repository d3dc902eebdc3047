# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Which files of weights the cells of a study begin from: `OUTPUT/initial_weights.json`.

Seeds that are added later, on another machine perhaps, must begin from the same files, or they
belong to another study.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from mtl_perception.bundle import sha256_of
from training.config import ConfigError
from training.initial_weights import find_model
from training.study.cells import Cell, read_json, replace_text
from training.study.config import StudyConfig, StudyError

INITIAL = 'initial_weights.json'
"""sha256 by what `network.trunk_weights` or `network.init_from` says."""


def remember_initial_weights(study: StudyConfig, cells: Iterable[Cell]) -> None:
    """Write down what is there; raises StudyError for a file that was another one before."""
    path = study.output / INITIAL
    known = read_json(path)
    found = known | initial_weights(cells)
    changed = [name for name, digest in known.items() if found[name] != digest]
    if changed:
        raise StudyError(
            f'{changed[0]} is another file than the one that earlier cells of {study.name} began '
            f'from ({path}); put that one back, or give another output'
        )
    if found != known:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, json.dumps(found, indent=1) + '\n')


def initial_weights(cells: Iterable[Cell]) -> dict[str, str]:
    """Of the files that are there."""
    files: dict[str, Path] = {}
    for cell in cells:
        network = cell.settings()['network']
        if source := network.get('trunk_weights'):
            files[source] = Path(source).expanduser()
        if (source := network.get('init_from')) and source not in files:
            try:
                files[source] = find_model(source)[0]
            except ConfigError:
                continue  # the cell itself will say so
    return {name: sha256_of(path) for name, path in files.items() if path.is_file()}
