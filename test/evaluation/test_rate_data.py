# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""`mtl-perception compile --rate --data`: the accuracy of each size, on labelled images."""

from __future__ import annotations

import json

import pytest
from block_data import write_block_data
from tiny_bundle import write_tiny_bundle

from mtl_perception import cli
from mtl_perception.bundle import Bundle
from mtl_perception.rate_choice import load

pytest.importorskip('onnx')


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return Bundle.open(write_tiny_bundle(tmp_path / 'any', 256, 384, any_size=True))


def test_every_size_is_scored_and_the_images_are_named(bundle, tmp_path, capsys):
    data = write_block_data(tmp_path / 'data', images=4)
    code = cli.main([
        'compile', str(bundle.path), '--rate', '0.2', '--engine', 'onnxruntime', '--data',
        str(data), '--sizes', '256x384,128x192', '--timed', '2',
        '--json', str(tmp_path / 'rate.json'),
    ])  # fmt: skip

    assert code == 0
    measured = json.loads((tmp_path / 'rate.json').read_text())['measured']
    assert [(each['height'], each['width']) for each in measured] == [(256, 384), (128, 192)]
    for each in measured:
        assert set(each['accuracy']) == {'detection AP', 'drivable miou', 'semantic miou'}
        assert each['accuracy']['semantic miou'] > 50
    assert '4' in load(bundle, 0.2).data
    assert 'detection AP' in capsys.readouterr().out.replace('\n', ' ')


def test_images_without_labels_are_refused(bundle, tmp_path, capsys):
    data = write_block_data(tmp_path / 'data', images=1)
    folder = tmp_path / 'unlabelled'
    folder.mkdir()
    picture = next((data / 'images').rglob('*.*'))
    (folder / picture.name).write_bytes(picture.read_bytes())

    assert cli.main(['compile', str(bundle.path), '--rate', '1', '--data', str(folder)]) == 1
    assert 'accuracy needs labels beside the images' in capsys.readouterr().err
