# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Engines on the tiny bundle: parity, subsets, precision in force, how one is chosen."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_bundle import write_tiny_bundle

from mtl_perception import engines
from mtl_perception.bundle import Bundle, sha256_of, write_manifest
from mtl_perception.engines import (
    Calibration,
    Engine,
    EngineError,
    Options,
    available,
    cache,
    engine_class,
    open_engine,
    torch_engine,
)
from mtl_perception.engines.fake import FakeEngine

NAMES = ['openvino', 'onnxruntime', 'torch_export']
"""Those that build in no time and without a GPU; the others have tests of their own."""
PACKAGES = {'openvino': 'openvino', 'onnxruntime': 'onnxruntime'}


@pytest.fixture(scope='module')
def bundle(tmp_path_factory):
    folder = write_tiny_bundle(tmp_path_factory.mktemp('engines') / 'tiny')
    if find_spec('torch') is not None:
        from tiny_program import add_program

        add_program(folder)
    return Bundle.open(folder)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    return tmp_path / 'mtl_perception' / 'engines'


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)


def opened(bundle, name, **arguments):
    if not available(bundle)[name].usable:
        pytest.skip(str(available(bundle)[name]))
    return open_engine(bundle, name, Options(**arguments), build=True)


def calibration(count=8):
    frames = np.random.default_rng(1).integers(0, 256, (count, 64, 96, 3), dtype=np.uint8)
    return Calibration(list(frames), 'noise')


@pytest.mark.parametrize('name', ['openvino', 'torch_export'])
def test_engines_agree_in_fp32(bundle, picture, name):
    first, second = opened(bundle, 'onnxruntime'), opened(bundle, name)

    one, other = first.run(picture), second.run(picture)

    assert list(one) == list(other) == [spec.name for spec in bundle.manifest.outputs]
    for spec in bundle.manifest.outputs:
        assert one[spec.name].shape == other[spec.name].shape == (1, *spec.shape)
        assert one[spec.name].dtype == other[spec.name].dtype == spec.dtype
        np.testing.assert_allclose(
            one[spec.name].astype(float), other[spec.name].astype(float), atol=1e-4
        )
    for name in ('drivable', 'semantic'):
        assert (one[name].argmax(1) == other[name].argmax(1)).all()


@pytest.mark.parametrize('name', NAMES)
class TestEveryEngine:
    def test_info_says_what_runs(self, bundle, name):
        engine = opened(bundle, name)

        assert isinstance(engine, Engine)
        assert (engine.info.name, engine.info.precision, engine.info.batch) == (name, 'fp32', 1)
        assert engine.info.version and int(engine.info.detail['threads']) >= 1

    def test_the_same_frame_gives_the_same_numbers(self, bundle, name, picture):
        engine = opened(bundle, name)

        first = {key: value.copy() for key, value in engine.run(picture).items()}
        engine.run(np.zeros_like(picture))
        again = engine.run(picture)

        for key, value in first.items():
            np.testing.assert_array_equal(value, again[key])

    def test_results_belong_to_the_caller(self, bundle, name, picture):
        engine = opened(bundle, name)

        kept = engine.run(picture)
        copies = {key: value.copy() for key, value in kept.items()}
        engine.run(np.zeros_like(picture))

        for key, value in copies.items():
            np.testing.assert_array_equal(value, kept[key])

    def test_a_subset_of_outputs(self, bundle, name, picture):
        everything = opened(bundle, name).run(picture)

        engine = opened(bundle, name, outputs=['weather', 'semantic'])
        some = engine.run(picture)

        assert list(some) == ['semantic', 'weather'] == list(engine.info.outputs)
        for key, value in some.items():
            np.testing.assert_allclose(value, everything[key], atol=1e-5)

    def test_an_unknown_output_is_named(self, bundle, name):
        with pytest.raises(EngineError, match="no output 'weathr'"):
            opened(bundle, name, outputs=['weathr'])

    def test_a_batch_of_two(self, bundle, name, picture):
        pair = np.concatenate([picture, 255 - picture])

        both = opened(bundle, name, batch=2).run(pair)
        single = opened(bundle, name).run(pair[1:])

        for key, value in single.items():
            np.testing.assert_allclose(both[key][1:], value, atol=1e-5)

    @pytest.mark.parametrize(
        'bad', [np.zeros((1, 64, 95, 3), np.uint8), np.zeros((1, 64, 96, 3), np.float32)]
    )
    def test_a_wrong_batch_is_refused(self, bundle, name, bad):
        with pytest.raises(EngineError, match=r'expected a uint8 batch of shape \(1, 64, 96, 3\)'):
            opened(bundle, name).run(bad)

    def test_close_twice_then_run(self, bundle, name, picture):
        engine = opened(bundle, name)
        engine.close()
        engine.close()

        with pytest.raises(EngineError, match='after close'):
            engine.run(picture)

    def test_an_unknown_device_names_those_there_are(self, bundle, name):
        with pytest.raises(EngineError, match="no device 'abacus', expected 'auto' or one of"):
            opened(bundle, name, device='abacus')

    def test_an_unknown_precision_names_those_there_are(self, bundle, name):
        with pytest.raises(EngineError, match="'fp32'"):
            opened(bundle, name, precision='int3')

    def test_a_graph_that_is_none(self, tmp_path, name, own_cache):
        bundle = broken_graph(tmp_path / 'bundle', b'this is not a graph', name)

        with pytest.raises(EngineError, match=r'model\.(onnx|pt2)'):
            opened(bundle, name)
        assert not list(own_cache.glob('[!.]*')) and not list(own_cache.glob('.building-*'))

    def test_a_graph_that_differs_from_the_manifest(self, tmp_path, name, own_cache):
        wide = write_tiny_bundle(tmp_path / 'wide', width=128)
        file = engine_class(name).file
        if file == 'model.pt2':
            wide = pytest.importorskip('tiny_program').add_program(wide)
        bundle = broken_graph(tmp_path / 'bundle', (wide / file).read_bytes(), name)

        with pytest.raises(EngineError, match=r'the manifest of bundle .* says|cannot build'):
            opened(bundle, name)

    def test_a_damaged_engine_names_the_command_that_mends_it(self, bundle, name, own_cache):
        engine = opened(bundle, name)
        path = next(own_cache.glob(f'*/{cache.BUILT_FILE}'))
        engine.close()
        path.write_bytes(path.read_bytes()[:-100])

        with pytest.raises(EngineError, match=r'is damaged.*mtl-perception compile .* --force'):
            opened(bundle, name)
        assert [entry['damaged'] for entry in cache.entries()] == [True]
        engines.compile_engine(bundle, name)
        opened(bundle, name)

    def test_a_built_engine_of_nonsense_with_a_right_sum(self, bundle, name, own_cache):
        """What a sum cannot find, the runtime refuses, and the sentence is the same."""
        opened(bundle, name).close()
        path = next(own_cache.glob(f'*/{cache.BUILT_FILE}'))
        path.write_bytes(b'nonsense' * 100)
        key = json.loads((path.parent / cache.KEY_FILE).read_text())
        key['sha256'] = cache.sha256_of(path)
        (path.parent / cache.KEY_FILE).write_text(json.dumps(key))

        with pytest.raises(EngineError, match=r'mtl-perception compile .* --force'):
            opened(bundle, name)

    def test_a_missing_package_says_what_to_install(self, bundle, name, monkeypatch):
        if name == 'torch_export':  # nothing is imported to say whether torch is there
            monkeypatch.setattr(torch_engine, 'version', missing)
        monkeypatch.setitem(sys.modules, name, None)

        with pytest.raises(EngineError, match='pip install'):
            open_engine(bundle, name, build=True)
        assert not available()[name].usable

    def test_a_batch_of_none(self, bundle, name):
        with pytest.raises(EngineError, match='batch 0, expected 1 or more'):
            opened(bundle, name, batch=0)

    def test_a_built_engine_for_something_else_is_refused_with_both_sides(
        self, bundle, name, own_cache
    ):
        opened(bundle, name, batch=3).close()

        with pytest.raises(EngineError, match=r'shape \[3, 64, 96, 3\], wanted \[1, 64, 96, 3\]'):
            open_engine(bundle, name)


@pytest.mark.skipif(os.geteuid() != 0, reason='only root can give files to another user')
@pytest.mark.parametrize('which', ['cache', 'engine'])
def test_an_engine_of_another_user_is_not_loaded(bundle, own_cache, which):
    opened(bundle, 'onnxruntime').close()
    folder = own_cache if which == 'cache' else next(own_cache.iterdir())
    os.chown(folder, 12345, 12345)

    with pytest.raises(EngineError, match=r'belongs to user 12345.*XDG_CACHE_HOME'):
        open_engine(bundle, 'onnxruntime')


@pytest.mark.parametrize('which', ['cache', 'engine', 'file'])
def test_an_engine_that_others_can_write_is_not_loaded(bundle, own_cache, which):
    opened(bundle, 'onnxruntime').close()
    engine = next(own_cache.iterdir())
    if which == 'file':
        engine.chmod(0o755)
        (engine / cache.BUILT_FILE).chmod(0o666)
    else:
        (own_cache if which == 'cache' else engine).chmod(0o777)

    for attempt in (open_engine, lambda *args: open_engine(*args, build=True)):
        with pytest.raises(EngineError, match='can be written by others'):
            attempt(bundle, 'onnxruntime')


def test_nothing_is_built_into_a_cache_that_others_can_write(bundle, own_cache):
    own_cache.mkdir(parents=True)
    own_cache.chmod(0o777)

    with pytest.raises(EngineError, match='can be written by others'):
        engines.compile_engine(bundle, 'onnxruntime')


def missing(name):
    raise PackageNotFoundError(name)


def broken_graph(folder, content, name):
    """A tiny bundle whose graph of that engine is replaced, hash included."""
    write_tiny_bundle(folder)
    file = engine_class(name).file
    (folder / file).write_bytes(content)
    bundle = Bundle.open(folder, verify=False)
    files = dict(bundle.manifest.files) | {file: sha256_of(folder / file)}
    write_manifest(folder, replace(bundle.manifest, files=files))
    return Bundle.open(folder)


def test_openvino_runs_the_precision_it_is_asked_for(bundle):
    if 'bf16' not in available()['openvino'].precisions:
        pytest.skip('this CPU has no bfloat16')

    assert opened(bundle, 'openvino', precision='bf16').info.precision == 'bf16'


@pytest.mark.parametrize(('name', 'needs'), [('onnxruntime', 'onnx'), ('openvino', 'nncf')])
class TestInt8:
    def test_the_boxes_and_scores_stay_exact(self, bundle, name, needs, picture, own_cache):
        """No heavy operation is before them; nncf rounds the pixels that they share with one."""
        pytest.importorskip(needs, reason=f'{needs} is not installed')
        exact = opened(bundle, name).run(picture)
        options = Options(precision='int8')

        engines.compile_engine(bundle, name, options, calibration())
        engine = open_engine(bundle, name, options)

        assert engine.info.precision == 'int8'
        found = engine.run(picture)
        step = 1e-5 if name == 'onnxruntime' else 1 / 255
        for output in ('boxes', 'scores', 'weather'):
            np.testing.assert_allclose(found[output], exact[output], atol=step)
        assert 0 < np.abs(found['semantic'] - exact['semantic']).max() < 0.05

    def test_without_frames_the_command_is_named(self, bundle, name, needs, own_cache):
        pytest.importorskip(needs, reason=f'{needs} is not installed')
        with pytest.raises(EngineError, match=r'--precision int8 --calibrate FOLDER'):
            engines.compile_engine(bundle, name, Options(precision='int8'))


@pytest.mark.slow
@pytest.mark.skipif(which('g++') is None, reason='AOTInductor builds with g++')
def test_aot_inductor_agrees_for_a_subset(bundle, picture):
    exact = opened(bundle, 'onnxruntime').run(picture)

    found = opened(bundle, 'aot_inductor', device='cpu', outputs=['labels', 'semantic']).run(
        picture
    )

    assert list(found) == ['labels', 'semantic']
    for name, value in found.items():
        np.testing.assert_allclose(value, exact[name], atol=1e-5)


def test_torch_lowers_what_is_heavy_and_nothing_else(bundle, picture):
    if 'bf16' not in available(bundle)['torch_export'].precisions:
        pytest.skip('this CPU has no bfloat16, or torch is not installed')
    exact = opened(bundle, 'torch_export').run(picture)

    found = opened(bundle, 'torch_export', device='cpu', precision='bf16').run(picture)

    np.testing.assert_array_equal(found['scores'], exact['scores'])
    assert 0 < np.abs(found['semantic'] - exact['semantic']).max() < 0.01


def test_the_key_follows_everything_the_engine_depends_on(bundle, tmp_path):
    if not available()['openvino'].usable:
        pytest.skip(str(available()['openvino']))

    def key(of=bundle, **options):
        return engine_class('openvino').plan(of, Options(**options)).key

    changed = [
        key(Bundle.open(write_tiny_bundle(tmp_path, width=128))),
        key(batch=2),
        key(outputs=['weather']),
        replace(key(), engine='onnxruntime'),
        replace(key(), precision='bf16'),
        replace(key(), device='CPU another #00000000'),
        replace(key(), versions={'openvino': '1'}),
    ]

    assert key() == key(threads=1) == key(device='CPU')
    assert len({key().folder, *(item.folder for item in changed)}) == 1 + len(changed)


def test_a_subset_in_another_order_is_the_same_engine(bundle):
    first, second = (
        engine_class('onnxruntime').plan(bundle, Options(outputs=names)).key
        for names in (('scores', 'boxes'), ['boxes', 'scores', 'boxes'])
    )

    assert first == second


class TestAuto:
    def test_it_takes_the_first_and_says_so(self, bundle, own_cache, caplog):
        with caplog.at_level('INFO'):
            engine = open_engine(bundle, build=True)

        assert engine.info.name == next(n for n, it in available(bundle).items() if it.usable)
        assert f'engine auto: {engine.info.name} fp32' in caplog.text

    def test_it_takes_the_one_that_is_built(self, bundle, own_cache, caplog):
        opened(bundle, NAMES[1]).close()

        with caplog.at_level('INFO'):
            engine = open_engine(bundle)

        assert engine.info.name == NAMES[1]
        assert f'engine auto: {NAMES[1]} fp32;' in caplog.text
        assert f'not built yet: {NAMES[0]} fp32' in caplog.text

    def test_a_lower_precision_is_taken_once_its_accuracy_was_measured(self, bundle, own_cache):
        """Not before, not when it failed, and not when it is no faster."""
        if 'bf16' not in available()['openvino'].precisions:
            pytest.skip('this CPU has no bfloat16')
        options = Options(precision='bf16')
        opened(bundle, 'openvino').close()
        key, _ = engines.compile_engine(bundle, 'openvino', options)

        chosen = [engines.choose(bundle, 'openvino')[1].precision]
        for verdict in (
            {'passed': False, 'text': 'worst AP +3', 'speed': 2.0},
            {'passed': True, 'text': '', 'speed': 2.0},
        ):
            cache.keep(key, cache.VERDICT_FILE, verdict)
            chosen.append(engines.choose(bundle, 'openvino')[1].precision)
        name, taken = engines.choose(bundle)
        _, subset = engines.choose(bundle, 'auto', Options(outputs=['weather'], batch=2))

        assert chosen == ['fp32', 'fp32', 'bf16']
        assert (name, taken.precision) == ('openvino', 'bf16')
        assert subset.precision == 'bf16', 'a subset is the same arithmetic'

    def test_what_failed_is_said(self, bundle, own_cache, caplog):
        if 'bf16' not in available()['openvino'].precisions:
            pytest.skip('this CPU has no bfloat16')
        key, _ = engines.compile_engine(bundle, 'openvino', Options(precision='bf16'))
        cache.keep(key, cache.VERDICT_FILE, {'passed': False, 'text': 'worst AP +3', 'speed': 9.0})

        with caplog.at_level('INFO'):
            engines.choose(bundle)

        assert 'engine openvino bf16 loses accuracy (worst AP +3)' in caplog.text

    def test_a_rebuilt_engine_has_no_verdict(self, bundle, own_cache):
        key, _ = engines.compile_engine(bundle, 'onnxruntime')
        cache.keep(key, cache.VERDICT_FILE, {'passed': True})
        engines.compile_engine(bundle, 'onnxruntime')

        assert cache.verdict(key) == {}

    def test_with_nothing_it_says_why(self, bundle, monkeypatch):
        for name in PACKAGES:
            monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.setattr(torch_engine, 'version', missing)

        with pytest.raises(EngineError, match='no engine can run bundle') as caught:
            open_engine(bundle)
        assert all(name in str(caught.value) for name in engines.ENGINES)


def test_an_unknown_engine_names_those_there_are(bundle):
    with pytest.raises(EngineError, match=r"no engine 'tensorflow', expected 'auto' or one of"):
        open_engine(bundle, 'tensorflow')


def test_a_cache_that_cannot_be_written(bundle, tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))

    with pytest.raises(EngineError, match=r'cannot write the engine cache.*XDG_CACHE_HOME'):
        opened(bundle, 'onnxruntime')


def test_a_build_that_fails_leaves_nothing(bundle, own_cache):
    key = cache.CacheKey('tiny', 'hash', 'onnxruntime', 'fp32', (1, 64, 96, 3), 'cpu', {})

    def write(path):
        path.write_bytes(b'half')
        raise EngineError('out of memory')

    with pytest.raises(EngineError, match='out of memory'):
        cache.build(key, write)
    assert list(own_cache.iterdir()) == [] and not cache.is_built(key)


def test_the_fake_engine_is_never_chosen_and_answers_zeros(bundle, picture):
    engine = open_engine(bundle, 'fake')

    assert isinstance(engine, FakeEngine) and 'fake' not in available()
    assert all((value == 0).all() for value in engine.run(picture).values())


def test_another_users_cache_is_said_and_left(bundle, own_cache, monkeypatch):
    engines.open_engine(bundle, 'onnxruntime', build=True).close()
    opened = Path.open

    def refuse(path, *more, **named):
        if own_cache in path.parents:
            raise PermissionError(13, 'Permission denied', str(path))
        return opened(path, *more, **named)

    monkeypatch.setattr(Path, 'open', refuse)

    with pytest.raises(EngineError, match=r'cannot be read: .*set XDG_CACHE_HOME'):
        engines.open_engine(bundle, 'onnxruntime')
    assert [entry['damaged'] for entry in cache.entries()] == [True]


def test_openvino_is_told_threads_on_a_cpu_only(bundle):
    openvino = pytest.importorskip('mtl_perception.engines.openvino')
    for device, told in (('CPU', True), ('GPU', False)):
        plan = SimpleNamespace(precision='fp32', device=device)
        assert ('INFERENCE_NUM_THREADS' in openvino._config(plan, 4)) is told
