# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Bundles that lie, and one that does not."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest
import yaml
from onnx import external_data_helper
from tiny_bundle import write_tiny_bundle

from mtl_perception import bundle as bundle_module
from mtl_perception.bundle import (
    MAX_MANIFEST_BYTES,
    Bundle,
    BundleError,
    find_bundle,
    parse_manifest,
    sha256_of,
    write_manifest,
)


@pytest.fixture
def copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / 'copy'))


def change(folder: Path, edit) -> None:
    path = folder / 'manifest.yaml'
    data = yaml.safe_load(path.read_text())
    edit(data)
    path.write_text(yaml.safe_dump(data))


def test_an_intact_bundle_opens_and_writes_back_the_same(tiny_bundle, tmp_path):
    bundle = Bundle.open(tiny_bundle)

    write_manifest(tmp_path, bundle.manifest)

    assert [task.name for task in bundle.manifest.tasks][:2] == ['detection', 'drivable']
    assert (tmp_path / 'manifest.yaml').read_text() == (tiny_bundle / 'manifest.yaml').read_text()


def test_a_changed_byte_is_found(copy):
    data = bytearray((copy / 'model.onnx').read_bytes())
    data[100] ^= 1
    (copy / 'model.onnx').write_bytes(data)

    with pytest.raises(BundleError, match=r'model\.onnx is not the file.*expected sha256 .*found'):
        Bundle.open(copy)


def test_the_hash_follows_the_content(tiny_bundle, tmp_path):
    other = write_tiny_bundle(tmp_path / 'other', width=128)

    assert Bundle.open(tiny_bundle).hash != Bundle.open(other).hash


def test_a_missing_file_is_named(copy):
    (copy / 'model.onnx').unlink()

    with pytest.raises(BundleError, match=r'model\.onnx is listed in the manifest but'):
        Bundle.open(copy)


def test_a_file_that_is_not_listed_is_not_given_out(copy):
    (copy / 'extra.bin').write_bytes(b'x')

    with pytest.raises(BundleError, match=r'lists no .extra\.bin'):
        Bundle.open(copy).file('extra.bin')


def test_a_file_that_is_a_link_is_refused(copy, tmp_path):
    """What it leads to could be another file by the time an engine is built."""
    (copy / 'model.onnx').rename(tmp_path / 'elsewhere.onnx')
    (copy / 'model.onnx').symlink_to(tmp_path / 'elsewhere.onnx')

    with pytest.raises(BundleError, match=r'symbolic link.*cp -rL'):
        Bundle.open(copy)


def test_a_bundle_whose_manifest_is_a_link_is_read_where_that_leads(copy, tmp_path):
    """`colcon build --symlink-install` links every file of it."""
    installed = tmp_path / 'share' / 'copy'
    installed.mkdir(parents=True)
    for file in copy.iterdir():
        (installed / file.name).symlink_to(file)

    opened = Bundle.open(installed)

    assert opened.path == copy
    assert opened.hash == Bundle.open(copy).hash


def external(model, where):
    """The same model with its weights in a file that only the graph names."""
    for tensor in where(model):
        length = len(tensor.raw_data)
        external_data_helper.set_external_data(tensor, 'weights.bin', offset=0, length=length)
        tensor.ClearField('raw_data')


def initializers(model):
    return [tensor for tensor in model.graph.initializer if tensor.raw_data]


def in_a_subgraph(model):
    tensor = onnx.helper.make_tensor('inner', onnx.TensorProto.FLOAT, [1], b'1234', raw=True)
    inner = onnx.helper.make_graph([], 'inner', [], [], [tensor])
    model.graph.node.append(onnx.helper.make_node('If', ['c'], ['d'], then_branch=inner))
    return [model.graph.node[-1].attribute[0].g.initializer[0]]


def in_a_function(model):
    value = onnx.helper.make_tensor('value', onnx.TensorProto.FLOAT, [1], b'1234', raw=True)
    node = onnx.helper.make_node('Constant', [], ['c'], value=value)
    function = onnx.helper.make_function('ours', 'f', [], ['c'], [node], [])
    model.functions.append(function)
    return [model.functions[-1].node[0].attribute[0].t]


def in_a_sparse_tensor(model):
    values = onnx.helper.make_tensor('sparse', onnx.TensorProto.FLOAT, [1], b'1234', raw=True)
    indices = onnx.helper.make_tensor('indices', onnx.TensorProto.INT64, [1], [0])
    model.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, indices, [4]))
    return [model.graph.sparse_initializer[0].values]


@pytest.mark.parametrize(
    'where', [initializers, in_a_subgraph, in_a_function, in_a_sparse_tensor]
)  # fmt: skip
def test_a_graph_that_keeps_weights_in_another_file_is_refused(copy, where):
    """The hash of the bundle would stand for whatever that file holds."""
    model = onnx.load(copy / 'model.onnx')
    external(model, where)
    replace_graph(copy, model.SerializeToString())
    (copy / 'weights.bin').write_bytes(bytes(1 << 16))

    with pytest.raises(BundleError, match=r'model\.onnx is refused.*in another file'):
        Bundle.open(copy)


def test_a_graph_that_names_a_compiled_program_is_refused(copy):
    model = onnx.load(copy / 'model.onnx')
    model.graph.node.append(onnx.helper.make_node('EPContext', [], [], ep_cache_context='x.bin'))
    replace_graph(copy, model.SerializeToString())

    with pytest.raises(BundleError, match='names a compiled program'):
        Bundle.open(copy)


def test_an_external_file_is_refused_also_where_the_manifest_lists_it(copy):
    """One rule: a graph is one file."""
    model = onnx.load(copy / 'model.onnx')
    external(model, initializers)
    (copy / 'weights.bin').write_bytes(bytes(1 << 16))
    change(copy, lambda d: d['files'].update({'weights.bin': sha256_of(copy / 'weights.bin')}))
    replace_graph(copy, model.SerializeToString())

    with pytest.raises(BundleError, match='in another file'):
        Bundle.open(copy)


def test_what_is_read_is_what_is_hashed(copy):
    """A file that changes after the bundle was opened is noticed when an engine reads it."""
    bundle = Bundle.open(copy)
    (copy / 'model.onnx').write_bytes(b'other weights')

    with pytest.raises(BundleError, match='sha256'):
        bundle.read('model.onnx')


def replace_graph(folder, content):
    (folder / 'model.onnx').write_bytes(content)
    digest = sha256_of(folder / 'model.onnx')
    change(folder, lambda data: data['files'].update({'model.onnx': digest}))


def test_no_message_repeats_a_long_value(copy):
    change(copy, lambda data: data['outputs'][0].update(dtype='Z' * 4000))

    with pytest.raises(BundleError) as caught:
        Bundle.open(copy)

    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize('key', ['name', 'licence'])
def test_a_text_that_would_fill_every_log_is_refused(copy, key):
    change(copy, lambda data: data.update({key: 'Z' * 100_000}))

    with pytest.raises(BundleError, match=r'Z.\.\.\. \(100000 characters\), expected at most'):
        Bundle.open(copy)


def test_the_hash_covers_the_whole_manifest(copy):
    before = Bundle.open(copy).hash
    change(copy, lambda data: data['input'].update(letterbox_colour=[1, 2, 3]))

    assert Bundle.open(copy).hash != before


@pytest.mark.parametrize('name', ['../model.onnx', '/etc/passwd', 'a/b', '..', '.', ''])
def test_a_file_name_must_stay_in_the_bundle(copy, name):
    change(copy, lambda data: data['files'].update({name: '0' * 64}))

    with pytest.raises(BundleError, match='must be a plain name'):
        Bundle.open(copy)


def test_no_folder_and_no_manifest_say_the_next_command(tmp_path):
    with pytest.raises(BundleError, match=r'found nothing.*mtl-perception doctor'):
        Bundle.open(tmp_path / 'none')
    with pytest.raises(BundleError, match=r'a folder without it.*training\.export'):
        Bundle.open(tmp_path)


def test_an_unknown_key_names_the_nearest(copy):
    change(copy, lambda data: data.update(licence_=data.pop('licence')))

    with pytest.raises(BundleError, match=r"unknown key 'licence_'; did you mean 'licence'\?"):
        Bundle.open(copy)


@pytest.mark.parametrize('schema', [0, 2, '1', None])
def test_another_schema_is_refused(copy, schema):
    change(copy, lambda data: data.update(schema=schema))

    with pytest.raises(BundleError, match=r'manifest schema .*, this version reads 1'):
        Bundle.open(copy)


def set_in(*keys, value):
    def edit(data):
        for key in keys[:-1]:
            data = data[key]
        data[keys[-1]] = value

    return edit


@pytest.mark.parametrize(
    ('edit', 'message'),
    [
        (lambda data: data.pop('licence'), "missing .'licence'"),
        (set_in('input', 'height', value='64'), "height must be int, found '64'"),
        (set_in('input', 'height', value=True), 'height must be int'),
        (set_in('input', 'height', value=8), 'sides of 32 to 8192'),
        (set_in('input', 'width', value=10**6), 'sides of 32 to 8192'),
        (set_in('input', 'letterbox_colour', value=[1, 2]), 'letterbox_colour must be'),
        (set_in('input', 'letterbox_colour', value=[1, 2, 300]), '0 to 255'),
        (set_in('tasks', 0, 'kind', value='telepathy'), "kind 'telepathy'"),
        (set_in('tasks', 0, 'classes', value='car'), 'classes must be'),
        (set_in('tasks', 0, 'colours', value=[[1, 2, 3]]), '1 colours for 10 classes'),
        (
            set_in('tasks', 0, 'colours', value=[[1, 2, 290 + i] for i in range(10)]),
            'red, green and blue of 0 to',
        ),
        (set_in('tasks', 0, 'name', value='two words'), "task name 'two words'"),
        (set_in('tasks', 0, 'name', value='overlay'), "task name 'overlay'"),
        (set_in('tasks', 1, 'name', value='detection'), 'each name once'),
        (set_in('tasks', value={}), 'tasks: expected a list'),
        (set_in('files', value={'x' * 300: '0' * 64}), 'cannot be read: .*File name too long'),
        (set_in('outputs', 0, 'task', value='nobody'), "task 'nobody' is not among"),
        (set_in('outputs', 0, 'meaning', value='magic'), "meaning 'magic'"),
        (set_in('outputs', 0, 'shape', value=[8, -4]), 'must be 1 to 65536'),
        (set_in('outputs', 0, 'stride', value=0), 'must be 1 to 65536'),
        (set_in('outputs', 0, 'shape', value=[8, 10**17]), 'must be 1 to 65536'),
        (set_in('outputs', 0, 'shape', value=[60000, 60000]), 'bytes per frame'),
        (set_in('outputs', 0, 'dtype', value='object'), "dtype 'object' is not one of"),
        (set_in('input', 'height', value=10**30), 'an integer of 31 digits'),
        (set_in('files', value={}), 'files must map'),
        (set_in('files', 'model.onnx', value='abc'), '64 hex digits'),
        (set_in('metrics', 0, 'values', value={'AP': 'good'}), 'values must be'),
    ],
)
def test_a_wrong_field_is_named(copy, edit, message):
    change(copy, edit)

    with pytest.raises(BundleError, match=message):
        Bundle.open(copy)


def test_a_python_tag_is_never_run(copy, tmp_path):
    canary = tmp_path / 'canary'
    text = (copy / 'manifest.yaml').read_text()
    tag = f'parent_run: !!python/object/apply:os.system ["touch {canary}"]\n'
    (copy / 'manifest.yaml').write_text(text.replace("parent_run: ''\n", tag))

    with pytest.raises(BundleError, match='YAML tags are not allowed'):
        Bundle.open(copy)
    assert not canary.exists()


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'x: &a [1]\ny: *a\n', 'aliases are not allowed'),
        (b'[' * 20000, 'nested deeper than 16'),
        (b'\xff\xfe\x00', 'not readable YAML'),
        (b'a: [', 'not readable YAML'),
        (b'a: !!bool foo', 'YAML tags are not allowed'),
        (b'a: !!timestamp foo', 'YAML tags are not allowed'),
        (b'', 'manifest schema None'),
        (b'- 1\n', 'manifest schema None'),
        (b'#' * (MAX_MANIFEST_BYTES + 1), 'larger than'),
    ],
)
def test_yaml_that_is_no_manifest(copy, content, message):
    (copy / 'manifest.yaml').write_bytes(content)

    with pytest.raises(BundleError, match=message):
        Bundle.open(copy)


def test_what_is_written_is_checked_first(tiny_bundle, tmp_path):
    data = yaml.safe_load((tiny_bundle / 'manifest.yaml').read_text())
    data['metrics'] = [{'data': 'x', 'split': 'val', 'values': {'AP': 1}}]

    assert parse_manifest(data, 'here').metrics[0].values == {'AP': 1}


def test_models_are_found_by_name_and_by_path(tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle_module, 'model_folders', lambda: [tiny_bundle.parent])

    assert find_bundle('tiny') == tiny_bundle
    assert find_bundle(str(tiny_bundle)) == tiny_bundle
    with pytest.raises(BundleError, match=r"no model 'tinny'.*did you mean 'tiny'\?"):
        find_bundle('tinny')
    with pytest.raises(BundleError, match="no model ''"):
        find_bundle('')


def test_sourced_ros_prefixes_are_searched(tmp_path, monkeypatch):
    models = tmp_path / 'share/mtl_perception/models'
    models.mkdir(parents=True)
    monkeypatch.setenv('AMENT_PREFIX_PATH', f'/nowhere:{tmp_path}')

    assert models in bundle_module.model_folders()
