# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""`model.pt2` from hands that we do not know: nothing in it runs code, each road by name."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

torch = pytest.importorskip('torch', reason='training extras are not installed')

from tiny_bundle import write_tiny_bundle  # noqa: E402
from tiny_program import add_program  # noqa: E402

from mtl_perception.engines.torch_archive import ArchiveError, load_program  # noqa: E402

GRAPH = 'models/model.json'
WEIGHTS = 'data/weights/model_weights_config.json'
SAMPLES = 'data/sample_inputs/model.pt'


@pytest.fixture(scope='module')
def program(tmp_path_factory):
    return add_program(write_tiny_bundle(tmp_path_factory.mktemp('archive'))) / 'model.pt2'


def changed(source: Path, target: Path, change, add=()) -> Path:
    """The archive with `change(name, bytes)` in the place of its members, and members added."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, 'w') as new:
        root = old.namelist()[0].partition('/')[0]
        for member in old.infolist():
            name = member.filename.partition('/')[2]
            new.writestr(member.filename, change(name, old.read(member)))
        for name, data in add:
            new.writestr(f'{root}/{name}', data)
    return target


def edited(wanted, edit):
    """A change of one JSON member."""

    def change(name, data):
        if name != wanted:
            return data
        record = json.loads(data)
        edit(record)
        return json.dumps(record).encode()

    return change


def call_system(record):
    record['graph_module']['graph']['nodes'][-1]['target'] = 'torch.serialization.os.system'


def evaluate(record):
    text = json.dumps(record)
    symbol = text.partition('"expr_str": ')[2].partition('}')[0].partition(', "hint"')[0]
    record.update(json.loads(text.replace(symbol, "\"__import__('os').system('true')\"")))


def pickled_weight(record):
    next(iter(record['config'].values()))['use_pickle'] = True


def pickled_object(record):
    next(iter(record['config'].values()))['path_name'] = 'opaque_obj_0'


@pytest.mark.parametrize(
    ('member', 'edit', 'named'),
    [
        (GRAPH, call_system, "the operation 'torch.serialization.os.system'"),
        (GRAPH, evaluate, 'the size "__import__'),
        (WEIGHTS, pickled_weight, 'not stored as a raw tensor'),
        (WEIGHTS, pickled_object, 'not stored as a raw tensor'),
    ],
)
def test_what_could_run_code_is_refused(program, tmp_path, member, edit, named):
    hostile = changed(program, tmp_path / 'x.pt2', edited(member, edit))

    with pytest.raises(ArchiveError, match='refused: it holds') as caught:
        load_program(hostile)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    'name', ['data/constants/opaque_obj_0', 'data/weights/model.pt', 'extra/x']
)
def test_members_of_other_kinds_are_refused(program, tmp_path, name):
    hostile = changed(program, tmp_path / 'x.pt2', lambda _, data: data, [(name, b'x')])

    with pytest.raises(ArchiveError, match=f'the member .*{name}'):
        load_program(hostile)


def test_pickled_sample_inputs_are_refused(program, tmp_path):
    hostile = changed(
        program, tmp_path / 'x.pt2', lambda name, data: b'cos\nsystem' if name == SAMPLES else data
    )

    with pytest.raises(ArchiveError, match='sample inputs'):
        load_program(hostile)


def test_our_own_loads_and_holds_no_pickle(program):
    loaded = load_program(program)

    assert loaded.module(check_guards=False)(torch.zeros(1, 64, 96, 3, dtype=torch.uint8))
    assert b'.pkl' not in program.read_bytes()


@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_a_member_that_is_there_twice_is_refused(program, tmp_path):
    """Of two members of one name zipfile shows the last and torch reads the first."""
    hostile = changed(program, tmp_path / 'x.pt2', lambda _, data: data, [(SAMPLES, b'')])

    with pytest.raises(ArchiveError, match=f"the member '{SAMPLES}' twice"):
        load_program(hostile)


def test_torch_sees_only_what_was_read(program, tmp_path, monkeypatch):
    """An archive behind another one: torch gets a new archive of the members that were checked."""
    given = []
    monkeypatch.setattr(torch.export, 'load', lambda file: given.append(file.read()))
    hidden = changed(program, tmp_path / 'hidden.pt2', lambda _, data: b'hostile')
    (tmp_path / 'x.pt2').write_bytes(hidden.read_bytes() + program.read_bytes())

    load_program(tmp_path / 'x.pt2')

    assert b'hostile' not in given[0]
