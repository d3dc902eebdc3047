"""`mtl-perception replay`: every frame, by hand-known scores, the same twice; bad input."""

from __future__ import annotations

import json

import pytest
from red_drive import EXPECTED, START_NS, write_red_drive

from mtl_perception.cli import main
from mtl_perception.replay.accuracy import GENERATED_NOTE, NO_TRUTH_NOTE, note, percent
from mtl_perception.replay.bag_writer import DriveWriter, EncodedImage
from mtl_perception.replay.truth import Truth


def replay(bag, model, path):
    code = main(
        ['replay', str(bag), '--model', str(model), '--engine', 'onnxruntime', '--build',
         '--json', str(path)]
    )  # fmt: skip
    return code, json.loads(path.read_text())


def test_scores_are_those_worked_out_by_hand_and_the_same_twice(tmp_path, tiny_bundle, capsys):
    bag = write_red_drive(tmp_path / 'bag')

    code, results = replay(bag, tiny_bundle, tmp_path / 'a.json')
    _, again = replay(bag, tiny_bundle, tmp_path / 'b.json')

    assert code == 0
    assert results['frames']['processed'] == 12
    assert results['frames']['labelled'] == 10
    for task, expected in EXPECTED.items():
        found = {name: results['accuracy'][task][name] for name in expected}
        assert found == pytest.approx(expected), task
    assert results['accuracy']['weather']['accuracy'] is None
    assert results['accuracy']['detection']['frames'] == 10
    assert again['answers_sha256'] == results['answers_sha256']
    assert again['accuracy'] == results['accuracy']
    assert 'not measured' in capsys.readouterr().out


def test_undecodable_frames_are_counted_and_named(tmp_path, tiny_bundle):
    with DriveWriter(tmp_path / 'jpegs') as writer:
        for index in range(4):
            image = EncodedImage(data=b'\xff\xd8\xff broken', format='jpeg')
            writer.write_frame(START_NS + index, image, Truth())

    code, results = replay(tmp_path / 'jpegs', tiny_bundle, tmp_path / 'a.json')

    assert code == 1  # nothing could be processed
    assert results['frames']['undecodable'] == 4
    assert 'JPEG' in results['undecodable'][0]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['none'], 'nothing is there'),
        (['.', '--model', 'no_such_model'], 'a folder without metadata.yaml'),
    ],
)
def test_bad_input_is_one_sentence_and_a_code(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)

    assert main(['replay', *arguments]) == 1

    error = capsys.readouterr().err
    assert message in error
    assert 'Traceback' not in error


def test_a_missing_model_is_named(tmp_path, capsys):
    bag = write_red_drive(tmp_path / 'bag', frames=1)

    assert main(['replay', str(bag), '--model', 'no_such_model']) == 1
    assert "no model 'no_such_model'" in capsys.readouterr().err


def test_generated_scenes_are_said_to_be_no_evidence():
    measured = {'semantic': {'frames': 3}}

    assert note('generated', measured) == GENERATED_NOTE
    assert note('images', measured) != GENERATED_NOTE
    assert note('generated', {'semantic': {'frames': 0}}) == NO_TRUTH_NOTE
    assert percent(None) == 'not measured'
    assert percent(0.0) == '0.0 %'
