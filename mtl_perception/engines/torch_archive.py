# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""`model.pt2` without running anything that it brings: what `torch.export.load` would, is refused.

`torch.export.load` (2.14) unpickles without restriction: tensors marked `use_pickle`, custom and
opaque objects, sample inputs, and every file of the older format. It evaluates symbolic sizes
(sympy) and, when the program is made a module, guards; and a graph may name any function below
`torch` or `operator` as an operation. What `training.export` writes needs none of that: raw
tensors, operations of ATen, sizes of one symbol. This file reads an archive, refuses anything else,
and hands torch an archive of what it read: two readers of one zip file may see different members.
It says nothing about what a harmless graph computes; the bundle's hash says who made it.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mtl_perception.text import quoted

_MEMBER = re.compile(
    r'archive_format|archive_version|byteorder|\.data/(version|serialization_id)'
    r'|data/weights/(weight_\d+|model_weights_config\.json)'
    r'|data/constants/(tensor_\d+|model_constants_config\.json)'
    r'|data/sample_inputs/model\.pt|models/model\.json'
)
_OPERATION = re.compile(
    r'torch\.ops\.aten\.\w+\.\w+|_operator\.(getitem|add|sub|mul|floordiv|mod|neg|eq|ne|lt|le|gt|ge)'
    r'|torch\.sym_(float|int|max|min|not|sqrt|sum|ite)'
)
_SIZE = re.compile(
    r'(?:(?:Symbol|Integer|Rational|Add|Mul|Pow|Max|Min|Mod|FloorDiv|CeilDiv|PythonMod|CleanDiv'
    r'|integer|positive|nonnegative|nonzero|negative|real|finite|True|False)\b'
    r"|'[su]\d+'|[su]\d+\b|\d+\b|[\s(),=*/+-])*"
)


class ArchiveError(Exception):
    """An archive that is not loaded: what was found in it, or what torch says of it."""


def load_program(source: Path | bytes) -> Any:
    """Check the archive, then load it: a `torch.export.ExportedProgram`; raises ArchiveError."""
    import torch

    with io.BytesIO(source) if isinstance(source, bytes) else source.open('rb') as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = _read(archive)
            _check(members)
            return torch.export.load(_written(members))
        except ArchiveError:
            raise
        except Exception as error:  # of zip, JSON and the deserialiser: many, of no common base
            raise ArchiveError(
                f'no program that torch {torch.__version__} can load ({error})'
            ) from error


def _read(archive: zipfile.ZipFile) -> dict[str, bytes]:
    """What the archive holds, by name without the folder that torch puts around it."""
    members: dict[str, bytes] = {}
    assert archive.fp is not None
    left = archive.fp.seek(0, io.SEEK_END)
    for member in archive.infolist():
        name = member.filename.partition('/')[2]
        if not _MEMBER.fullmatch(name):
            raise _refused(f'the member {quoted(member.filename)}')
        if name in members:
            raise _refused(f'the member {name!r} twice')
        if member.compress_type != zipfile.ZIP_STORED:
            raise ArchiveError(f'{name!r} is compressed; torch stores members as they are')
        left -= member.file_size
        if left < 0:
            raise ArchiveError('its members are larger together than the archive')
        members[name] = archive.read(member)
    return members


def _written(members: Mapping[str, bytes]) -> io.BytesIO:
    """An archive of these and nothing else."""
    copy = io.BytesIO()
    with zipfile.ZipFile(copy, 'w') as archive:
        for name, data in members.items():
            archive.writestr(f'model/{name}', data)
    copy.seek(0)
    return copy


def _check(members: Mapping[str, bytes]) -> None:
    for kind in ('weights', 'constants'):
        config = json.loads(members[f'data/{kind}/model_{kind}_config.json'])
        for tensor, payload in config['config'].items():
            if payload['use_pickle'] or not re.fullmatch(
                r'(weight|tensor)_\d+', payload['path_name']
            ):
                raise _refused(f'{quoted(tensor)}, which is not stored as a raw tensor')
    if members['data/sample_inputs/model.pt']:
        raise _refused('sample inputs, which are pickled')
    for key, value in _texts(json.loads(members['models/model.json'])):
        if key == 'operation' and not _OPERATION.fullmatch(value):
            raise _refused(f'the operation {quoted(value)}')
        if key == 'expr_str' and not _SIZE.fullmatch(value):
            raise _refused(f'the size {quoted(value)}')


def _texts(data: Any, key: str = '') -> Iterator[tuple[str, str]]:
    """Every text with its key; targets of graph nodes under the key `operation`."""
    if isinstance(data, dict):
        for name, value in data.items():
            for item in value if name == 'nodes' else ():
                yield 'operation', str(item['target'])
            yield from _texts(value, name)
    elif isinstance(data, list):
        for value in data:
            yield from _texts(value, key)
    elif isinstance(data, str):
        yield key, data


def _refused(what: str) -> ArchiveError:
    return ArchiveError(
        f'refused: it holds {what}, which could run code when it is loaded; '
        f'`python -m training.export` writes nothing of that kind'
    )
