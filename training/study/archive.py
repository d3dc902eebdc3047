# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""A study in one small file, without weights, so that it outlives the machine that it ran on.

    python -m training.study pack STUDY.yaml FILE.tar.gz
    python -m training.study unpack STUDY.yaml FILE.tar.gz

The archive has the files of a study's folder that its report and further seeds need, under their
names: of every finished cell cell.yaml, status.json, evaluation.json, run/speed.json and
run/affinity.jsonl; of the study cost.json, primary.json and initial_weights.json. The same files
give the same archive, to the byte. `unpack` reads nothing but these names, and only cells that the
study file describes as they were run.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from omegaconf import OmegaConf

from training.board import AFFINITY
from training.study.cells import CELL, EVALUATION, RUN, STATUS, Cell, read_json, replace_text
from training.study.comparisons import RECORD
from training.study.config import StudyConfig, StudyError
from training.study.cost import COST
from training.study.initial import INITIAL, remember_initial_weights

OF_STUDY = (COST, RECORD, INITIAL)
OF_CELL = (CELL, EVALUATION, f'{RUN}/speed.json', f'{RUN}/{AFFINITY}', STATUS)
"""status.json last: it makes a cell a finished one."""
NEEDED = (CELL, EVALUATION, STATUS)
LARGEST = 1 << 26
"""Bytes of a file in an archive."""


def pack(study: StudyConfig, cells: Sequence[Cell], archive: Path) -> int:
    """Write the archive, whole under its name; returns how many cells it has.

    Raises StudyError for cells of other settings and without a finished cell.
    """
    files = {}
    if not (study.output / INITIAL).is_file():
        remember_initial_weights(study, cells)
    for name in OF_STUDY:
        if (path := study.output / name).is_file():
            files[name] = path.read_bytes()
    finished = [cell for cell in cells if cell.state() == 'finished']
    if not finished:
        raise StudyError(f'{study.output}: no finished cell to pack')
    for cell in finished:
        cell.check()
        for name in OF_CELL:
            if (path := cell.folder / name).is_file():
                files[_named(cell, name)] = path.read_bytes()
        files[_named(cell, CELL)] = _settings(cell).encode()
        missing = [name for name in NEEDED if _named(cell, name) not in files]
        if missing:
            raise StudyError(f'{cell.folder}: finished without {missing[0]}; delete the folder')
    archive.parent.mkdir(parents=True, exist_ok=True)
    partial = archive.with_name(f'.{archive.name}.partial')
    with (
        partial.open('wb') as raw,
        gzip.GzipFile('', 'wb', 9, raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode='w') as tar,
    ):
        for name in sorted(files):
            member = tarfile.TarInfo(name)
            member.size = len(files[name])
            tar.addfile(member, io.BytesIO(files[name]))
    os.replace(partial, archive)
    return len(finished)


def unpack(study: StudyConfig, cells: Sequence[Cell], archive: Path) -> tuple[int, int]:
    """Take up the cells of an archive: how many it has, and how many of them are new here.

    What is finished here stays as it is. Nothing is written unless the whole archive is as `pack`
    writes it, of this study. Raises StudyError.
    """
    files = _read(study, cells, archive)
    held = [cell for cell in cells if _named(cell, STATUS) in files]
    for cell in held:
        cell.check()
    for cell in cells:
        _check(cell, files, archive)
    before = read_json(study.output / RECORD)
    if before and before != json.loads(files.get(RECORD, b'{}')):
        raise StudyError(
            f'{archive}: the primary comparisons were others when its cells were run than in '
            f'{study.output / RECORD}; give another output'
        )
    _check_initial(study, files, archive)
    taken = [cell for cell in held if cell.state() != 'finished']
    for name in OF_STUDY:
        path = study.output / name
        if name in files and not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_text(path, files[name].decode())
    for cell in taken:
        (cell.folder / STATUS).unlink(missing_ok=True)
        cell.prepare()
        (cell.folder / RUN).mkdir(exist_ok=True)
        for name in OF_CELL:
            if name != CELL and _named(cell, name) in files:
                replace_text(cell.folder / name, files[_named(cell, name)].decode())
    return len(held), len(taken)


def _named(cell: Cell, name: str) -> str:
    return f'cells/{cell.id}/{name}'


def _settings(cell: Cell) -> str:
    """cell.yaml with the run folder as seen from the study's, which may lie anywhere."""
    settings = cell.settings()
    settings['output'] = _named(cell, RUN)
    return OmegaConf.to_yaml(settings)


def _read(study: StudyConfig, cells: Sequence[Cell], archive: Path) -> dict[str, bytes]:
    """Content by name; only names that this study can have, each once."""
    known = {*OF_STUDY, *(_named(cell, name) for cell in cells for name in OF_CELL)}
    files: dict[str, bytes] = {}
    try:
        with gzip.open(archive) as packed, tarfile.open(fileobj=packed, mode='r|') as tar:
            for member in tar:
                if member.name not in known or not member.isreg():
                    raise StudyError(
                        f'{archive}: {member.name!r} is no file of study {study.name}; was it '
                        f'packed from another study file?'
                    )
                if member.name in files or member.size > LARGEST:
                    raise StudyError(f'{archive}: {member.name} is there twice or too large')
                content = tar.extractfile(member)
                assert content is not None
                files[member.name] = content.read()
            packed.read(1 << 16)  # to the end, where a cut or changed file is noticed
    except FileNotFoundError as error:
        raise StudyError(f'{archive}: no such file') from error
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise StudyError(f'{archive}: no archive of `training.study pack`: {error}') from error
    if not files:
        raise StudyError(f'{archive}: no archive of `training.study pack`: it is empty')
    for name, content in files.items():
        try:
            text = content.decode()
            lines = text.splitlines() if name.endswith('.jsonl') else [text]
            if not name.endswith(CELL) and not all(type(json.loads(x)) is dict for x in lines):
                raise ValueError('expected a JSON object')
        except ValueError as error:
            raise StudyError(f'{archive}: {name} cannot be read: {error}') from error
    return files


def _check(cell: Cell, files: Mapping[str, bytes], archive: Path) -> None:
    """Raise StudyError unless the archive has all of a cell, of these settings, or nothing."""
    held = [name for name in OF_CELL if _named(cell, name) in files]
    if not held:
        return
    missing = [name for name in NEEDED if name not in held]
    if missing:
        raise StudyError(f'{archive}: cell {cell.id} is without {missing[0]}')
    if files[_named(cell, CELL)].decode() != _settings(cell):
        raise StudyError(
            f'{archive}: the study file says something else now than when cell {cell.id} was run'
        )
    status, evaluation = (json.loads(files[_named(cell, x)]) for x in (STATUS, EVALUATION))
    if status.get('state') != 'finished' or 'results' not in evaluation:
        raise StudyError(f'{archive}: cell {cell.id} is not finished')


def _check_initial(study: StudyConfig, files: Mapping[str, bytes], archive: Path) -> None:
    known = read_json(study.output / INITIAL)
    for name, digest in json.loads(files.get(INITIAL, b'{}')).items():
        if known.get(name, digest) != digest:
            raise StudyError(
                f'{archive}: its cells began from another {name} than those in {study.output}; '
                f'give another output'
            )
