# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""`mtl-perception bench`: other networks beside ours, subsets, batches, load, the peak rate."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from mtl_evaluation.bench.costs import _dropped
from mtl_evaluation.bench.rivals import find_rival
from mtl_perception import cli
from mtl_perception.engines import EngineError
from mtl_perception.frame import Frame

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
FRAME = Frame(np.zeros((8, 8, 3), np.uint8))


def foreign(path, shape=('B', 3, 32, 64)):
    """A network from elsewhere: float input, one convolution."""
    weight = onnx.numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), 'weight')
    info, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node('Conv', ['images', 'weight'], ['mask'])], 'foreign',
        [info('images', kind, shape)], [info('mask', kind, [shape[0], 2, *shape[2:]])], [weight],
    )  # fmt: skip
    opset = [onnx.helper.make_opsetid('', 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


def test_others_are_timed_in_the_same_engine(tiny_bundle, tmp_path, capsys):
    file = tmp_path / 'bench.json'

    code = cli.main(
        ['bench', str(tiny_bundle), '--frames', '3', '--size', '192x108', '--engine', 'onnxruntime',
         '--against', str(foreign(tmp_path / 'peer.onnx')), '--outputs', 'boxes,scores,labels',
         '--batch', '2', '--json', str(file)]
    )  # fmt: skip

    report = json.loads(file.read_text())
    ours, subset, peer = report['engines'].values()
    assert code == 0 and list(report['against']) == ['peer']
    assert list(report['engines'])[1:] == [
        'onnxruntime fp32 boxes,scores,labels', 'onnxruntime fp32 peer',
    ]  # fmt: skip
    assert set(ours['stages_ms']) == {'letterbox', 'engine', 'decode', 'total'}
    assert set(peer['stages_ms']) == {'letterbox', 'engine', 'total'}
    assert peer['times_engine'] > 0 and subset['times_engine'] > 0 and 'times_engine' not in ours
    assert all(each['load_s'] > 0 and each['frames_per_s_batch'] > 0 for each in (ours, peer))
    assert report['sum_of_others']['onnxruntime fp32'] > 0
    assert 'of the engine time of all others' in capsys.readouterr().out


def test_a_foreign_network_gets_our_input_and_the_same_numbers(tmp_path):
    from mtl_perception.engines import open_engine

    bundle = find_rival(str(foreign(tmp_path / 'peer.onnx')), tmp_path / 'made')
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 64, 3), dtype=np.uint8)

    found = open_engine(bundle, 'onnxruntime', build=True).run(image)

    assert bundle.manifest.input.height == 32 and bundle.manifest.input.width == 64
    np.testing.assert_allclose(found['mask'][:, 0], image.sum(3) / np.float32(255), rtol=1e-5)


def test_a_network_of_no_fixed_size_is_refused(tmp_path):
    path = foreign(tmp_path / 'peer.onnx', ('B', 3, 'H', 'W'))

    with pytest.raises(EngineError, match='fixed height and width'):
        find_rival(str(path), tmp_path / 'made')


@pytest.mark.parametrize(('rate_hz', 'low', 'high'), [(20, 0.0, 0.0), (200, 0.3, 0.9)])
def test_what_is_not_kept_up_with_is_dropped(monkeypatch, rate_hz, low, high):
    monkeypatch.setattr('mtl_evaluation.bench.costs.TRIAL_FRAMES', 10)
    monkeypatch.setattr('mtl_evaluation.bench.costs.TRIAL_S', 0.3)

    dropped = _dropped(lambda frame: time.sleep(0.02), [FRAME], rate_hz)

    assert low <= dropped <= high
