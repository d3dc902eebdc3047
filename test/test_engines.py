"""Engines on the tiny bundle: parity, subsets, precision in force, the cache."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from tiny_bundle import write_tiny_bundle

from mtl_perception import engines
from mtl_perception.bundle import Bundle
from mtl_perception.engines import Engine, EngineError, available, cache, open_engine
from mtl_perception.engines.fake import FakeEngine

NAMES = list(engines.ENGINES)


@pytest.fixture(scope='module')
def bundle(tiny_bundle):
    return Bundle.open(tiny_bundle)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    return tmp_path / 'mtl_perception' / 'engines'


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)


def opened(bundle, name, **arguments):
    if not available()[name].usable:
        pytest.skip(str(available()[name]))
    return open_engine(bundle, name, build=True, **arguments)


def test_engines_agree_in_fp32(bundle, picture):
    first, second = (opened(bundle, name, precision='fp32') for name in NAMES)

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
        bundle = broken_graph(tmp_path / 'bundle', b'this is not a graph')

        with pytest.raises(EngineError, match=r'model\.onnx'):
            opened(bundle, name)
        assert not list(own_cache.glob('[!.]*')) and not list(own_cache.glob('.building-*'))

    def test_a_graph_that_differs_from_the_manifest(self, tmp_path, name, own_cache):
        wide = write_tiny_bundle(tmp_path / 'wide', width=128)
        bundle = broken_graph(tmp_path / 'bundle', (wide / 'model.onnx').read_bytes())

        with pytest.raises(EngineError, match=r'the manifest of bundle .* says'):
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

    def test_a_missing_package_names_the_extra(self, bundle, name, monkeypatch):
        monkeypatch.setitem(sys.modules, name, None)

        with pytest.raises(EngineError, match=rf"pip install 'mtl_perception\[{name}\]'"):
            open_engine(bundle, name, build=True)
        assert not available()[name].usable


def broken_graph(folder, content):
    """A tiny bundle whose graph is replaced, hash included."""
    from dataclasses import replace

    from mtl_perception.bundle import sha256_of, write_manifest

    write_tiny_bundle(folder)
    (folder / 'model.onnx').write_bytes(content)
    bundle = Bundle.open(folder, verify=False)
    files = dict(bundle.manifest.files) | {'model.onnx': sha256_of(folder / 'model.onnx')}
    write_manifest(folder, replace(bundle.manifest, files=files))
    return Bundle.open(folder)


def test_openvino_runs_the_precision_it_is_asked_for(bundle):
    try:
        engine = opened(bundle, 'openvino', precision='bf16')
    except EngineError as error:
        pytest.skip(str(error))

    assert engine.info.precision == 'bf16'


def test_the_key_follows_everything_the_engine_depends_on(bundle, tmp_path):
    from dataclasses import replace

    if not available()['openvino'].usable:
        pytest.skip(str(available()['openvino']))
    from mtl_perception.engines.openvino import OpenVinoEngine

    key = OpenVinoEngine.key(bundle)
    other = Bundle.open(write_tiny_bundle(tmp_path, width=128))
    changed = [
        OpenVinoEngine.key(other),
        OpenVinoEngine.key(bundle, batch=2),
        OpenVinoEngine.key(bundle, outputs=['weather']),
        replace(key, engine='onnxruntime'),
        replace(key, precision='bf16'),
        replace(key, device='CPU another #00000000'),
        replace(key, versions={'openvino': '1'}),
    ]

    assert OpenVinoEngine.key(bundle) == key
    assert len({key.folder, *(item.folder for item in changed)}) == 1 + len(changed)


def test_auto_takes_the_first_and_says_so(bundle, own_cache, caplog):
    with caplog.at_level('INFO'):
        engine = open_engine(bundle, build=True)

    assert engine.info.name == next(name for name, it in available().items() if it.usable)
    assert f'engine auto: {engine.info.name}' in caplog.text


def test_auto_takes_the_one_that_is_built(bundle, own_cache, caplog):
    opened(bundle, NAMES[1]).close()

    with caplog.at_level('INFO'):
        engine = open_engine(bundle)

    assert engine.info.name == NAMES[1]
    assert f'engine auto: {NAMES[1]}; {NAMES[0]} is not built' in caplog.text


def test_auto_with_nothing_says_why(bundle, monkeypatch):
    for name in NAMES:
        monkeypatch.setitem(sys.modules, name, None)

    with pytest.raises(EngineError, match='no engine can run bundle') as caught:
        open_engine(bundle)
    assert all(name in str(caught.value) for name in NAMES)


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
