# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""`training.evaluation.box_faults`: faults by source, at the node's thresholds."""

import json

import pytest
from block_data import write_block_data
from tiny_bundle import write_tiny_bundle

pytest.importorskip('torch', reason='training extras are not installed')

from mtl_perception.tasks import DETECTION
from training.data.layout import Layout, LayoutConfig
from training.evaluation import box_faults, scoring
from training.evaluation.model import open_model


@pytest.fixture
def place(tmp_path):
    write_tiny_bundle(tmp_path / 'model')
    root = write_block_data(tmp_path / 'data', images=6)
    (tmp_path / 'data.yaml').write_text(
        f'name: x\noutput: x\ntasks: [detection]\ndata: [{{name: block, root: "{root}"}}, '
        f'{{name: cars, root: "{root}", box_classes: [car]}}]\n'
    )
    return tmp_path


def run(place, *more: str) -> int:
    return box_faults.main([str(place / 'model'), *more, '--json', str(place / 'faults.json')])


def test_faults_are_counted_by_source(place):
    assert run(place, '--data', str(place / 'data.yaml'), '--every', '2') == 0
    record = json.loads((place / 'faults.json').read_text())
    block, cars = record['results']['block'], record['results']['cars']
    assert block['images'] == 3 and block['right'] > 0 and block['wrong_class'] > 0
    assert cars['not_judged'] > block['not_judged'], 'boxes of people are not judged there'
    assert record['thresholds']['score'] == 0.4 and '--every 2' in record['command']


def test_average_precision_leaves_out_classes_that_nobody_labelled(place):
    config = LayoutConfig('cars', str(place / 'data'), box_classes=['car'])
    pipeline = open_model(str(place / 'model')).pipeline
    (record, *_) = scoring.score_layout(Layout(config, 'val'), pipeline, [0])
    predicted = record.pieces['detection'].to_arrays()['predicted_labels']
    assert len(predicted) and set(predicted) == {DETECTION.classes.index('car')}


def test_wrong_use_is_one_sentence(place, capsys):
    assert run(place) == 1
    assert 'give --data' in capsys.readouterr().err
    assert run(place, '--data', str(place / 'data.yaml'), '--score', '2') == 1
    assert 'must be 0 to 1' in capsys.readouterr().err
