# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""`mtl-perception compile --check`: which engines keep their accuracy, and that `auto` heeds it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from block_data import write_block_data
from tiny_bundle import write_tiny_bundle

from mtl_evaluation.bench.frames import images
from mtl_perception import cli, engines
from mtl_perception.bundle import Bundle
from mtl_perception.engines import Options, cache, engine_class
from mtl_perception.engines.onnxruntime import OnnxRuntimeEngine

pytest.importorskip('onnx')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = write_block_data(tmp_path_factory.mktemp('data'), images=6)
    return write_block_data(root, images=4, split='train', seed=1)


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return Bundle.open(write_tiny_bundle(tmp_path / 'tiny'))


def check(bundle, data, file, *more):
    arguments = ['compile', str(bundle.path), '--check', str(data), '--engine', 'onnxruntime']
    code = cli.main([*arguments, '--json', str(file), *more])
    return code, json.loads(file.read_text())


def test_every_precision_is_measured_and_the_verdict_kept(bundle, data, tmp_path, capsys):
    code, report = check(bundle, data, tmp_path / 'new' / 'check.json', '--calibrate', str(data))

    assert report['reference'] == 'onnxruntime fp32' and report['frames'] == 6
    assert set(report['reference_scores']) == {'detection AP', 'drivable miou', 'semantic miou'}
    exact, int8 = report['engines']['onnxruntime fp32'], report['engines']['onnxruntime int8']
    assert exact['passed'] and set(exact['losses_points'].values()) == {0.0}
    assert int8['limit_points'] == 1.0 and int8['losses_points']['detection AP'] == 0.0
    assert code == (0 if int8['passed'] else 1)
    key = engine_class('onnxruntime').plan(bundle, Options(precision='int8')).key
    assert cache.verdict(key) == int8
    assert '4 images' in json.loads((key.folder / cache.KEY_FILE).read_text())['calibration']
    assert 'onnxruntime int8' in capsys.readouterr().out


def test_an_engine_that_loses_too_much_is_not_offered(bundle, data, tmp_path, monkeypatch, capsys):
    right = OnnxRuntimeEngine._run

    def wrong(self, batch):
        answers = right(self, batch)
        if self.info.precision == 'int8':
            answers['drivable'] = np.roll(answers['drivable'], 8, axis=3)
        return answers

    monkeypatch.setattr(OnnxRuntimeEngine, '_run', wrong)

    code, report = check(bundle, data, tmp_path / 'x.json', '--calibrate', str(data))

    verdict = report['engines']['onnxruntime int8']
    assert code == 1 and not verdict['passed']
    assert verdict['losses_points']['drivable miou'] > 1 > verdict['losses_points']['detection AP']
    assert verdict['text'].startswith('worst drivable miou')
    assert 'not offered' in capsys.readouterr().out
    assert engines.choose(bundle, 'onnxruntime')[1].precision == 'fp32'


def test_an_engine_that_answers_with_nan_does_not_end_the_check(
    bundle, data, tmp_path, monkeypatch
):
    right = OnnxRuntimeEngine._run

    def wrong(self, batch):
        answers = right(self, batch)
        if self.info.precision == 'int8':
            answers['drivable'] = np.full_like(answers['drivable'], np.nan)
        return answers

    monkeypatch.setattr(OnnxRuntimeEngine, '_run', wrong)

    code, report = check(bundle, data, tmp_path / 'x.json', '--calibrate', str(data))

    verdict = report['engines']['onnxruntime int8']
    assert code == 1 and report['engines']['onnxruntime fp32']['passed']
    assert not verdict['passed'] and 'holds NaN or infinity' in verdict['text']
    key = engine_class('onnxruntime').plan(bundle, Options(precision='int8')).key
    assert cache.verdict(key) == verdict


@pytest.mark.parametrize('part', [('--outputs', 'boxes,scores,labels'), ('--batch', '2')])
def test_parts_of_the_graph_are_not_checked(bundle, data, capsys, part):
    code = cli.main(['compile', str(bundle.path), '--check', str(data), *part])

    assert code == 1
    assert 'leave out --outputs and --batch' in capsys.readouterr().err


def test_single_precision_that_loses_too_much_is_not_offered_either(bundle):
    engine = engines.open_engine(bundle, 'onnxruntime', build=True)
    engine.close()
    key = engine_class('onnxruntime').plan(bundle, Options(precision='fp32')).key
    cache.keep(key, cache.VERDICT_FILE, {'passed': False, 'text': 'worst', 'speed': 9.0})

    with pytest.raises(engines.EngineError, match='lost accuracy at every precision'):
        engines.choose(bundle, 'onnxruntime')
    assert engines.choose(bundle, 'onnxruntime', Options(precision='fp32'))[0] == 'onnxruntime'


def test_images_without_labels_are_refused(bundle, data, tmp_path, capsys):
    alone = tmp_path / 'alone'
    alone.mkdir()
    source = next((data / 'images/100k/val').iterdir())
    (alone / source.name).write_bytes(source.read_bytes())

    code = cli.main(['compile', str(bundle.path), '--check', str(alone)])

    assert code == 1
    assert 'none of 1 images is labelled for' in capsys.readouterr().err


def test_fewer_frames_are_spread_over_the_data(data):
    names = [path.stem for path in images(data, 'val', 3).paths]

    assert names == ['block_000', 'block_002', 'block_004']
