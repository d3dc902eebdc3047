# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What a model is not to be believed is published as `unknown`; its terms are printed."""

from dataclasses import replace

import numpy as np
import pytest
from tiny_bundle import write_tiny_bundle

from mtl_perception.bundle import Bundle, BundleError, write_manifest
from mtl_perception.cli import main
from mtl_perception.decode.answers import UNKNOWN, answer, calibrated
from mtl_perception.frame import Frame
from mtl_perception.pipeline import Pipeline
from mtl_perception.tasks import DRIVABLE, WEATHER, Task

FOGGY = replace(WEATHER, taught=('foggy',), temperature=2.0, threshold=0.6)


def softmax(logits: list[float]) -> np.ndarray:
    powers = np.exp(np.array(logits, np.float32))
    return powers / powers.sum()


def test_temperature_divides_the_logits():
    logits = [3.0, 1.0, -2.0]
    assert calibrated(softmax(logits), 2.0) == pytest.approx(softmax([1.5, 0.5, -1.0]))
    assert np.array_equal(calibrated(softmax(logits), 1.0), softmax(logits))
    assert np.isfinite(calibrated(np.array([1, 0, 0], np.float32), 10.0)).all()


@pytest.mark.parametrize(
    ('likely', 'probability', 'expected'),
    [
        ('foggy', 0.9, ('foggy', 0.9)),
        ('foggy', 0.5, (UNKNOWN, 0.5)),
        ('clear', 0.9, (UNKNOWN, 0.98)),
    ],
)
def test_only_what_was_taught_and_is_likely_is_answered(likely, probability, expected):
    others = (1 - probability) / (len(WEATHER.classes) - 1)
    row = np.full(len(WEATHER.classes), others, np.float32)
    row[WEATHER.classes.index(likely)] = probability
    name, score = answer(row, FOGGY)
    assert name == expected[0] and score == pytest.approx(expected[1])


def test_a_task_that_nothing_real_taught_answers_nothing():
    row = softmax([5, 0, 0, 0, 0, 0])
    assert answer(row, replace(WEATHER, taught=())) == (UNKNOWN, 1.0)
    assert answer(row, WEATHER)[0] == 'rainy'


def test_road_is_one_class_where_no_data_told_lanes_apart():
    road = replace(DRIVABLE, taught=('direct', 'background'))
    assert road.published == {0: 'road', 2: 'background'}
    assert DRIVABLE.published == dict(enumerate(DRIVABLE.classes))
    assert road == DRIVABLE, 'figures of the two can be compared'


@pytest.mark.parametrize(
    'wrong', [{'taught': ('sunny',)}, {'temperature': 0.0}, {'threshold': 1.5}]
)
def test_beliefs_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match='weather'):
        Task('weather', 'classification', WEATHER.classes, **wrong)


@pytest.fixture
def bundle(tmp_path):
    """The tiny bundle, which says `clear` to bright images, taught foggy only."""
    folder = write_tiny_bundle(tmp_path / 'tiny')
    manifest = Bundle.open(folder).manifest
    road = replace(DRIVABLE, taught=('direct', 'background'))
    believed = {'weather': FOGGY, 'drivable': road}
    tasks = tuple(believed.get(task.name, task) for task in manifest.tasks)
    terms = {'fog': 'CC BY 4.0', 'teacher': 'Apache-2.0'}
    changed = replace(manifest, tasks=tasks, terms=terms, training_data=('fog', 'found somewhere'))
    write_manifest(folder, changed)
    return Bundle.open(folder)


def test_a_manifest_keeps_what_it_says_of_belief(bundle):
    weather = bundle.manifest.task('weather')
    assert (weather.taught, weather.temperature, weather.threshold) == (('foggy',), 2.0, 0.6)
    assert bundle.manifest.task('semantic').taught is None
    text = (bundle.path / 'manifest.yaml').read_text()
    assert text.count('temperature') == 1, 'defaults are not written'


def test_probabilities_are_calibrated_on_the_way(bundle, tmp_path):
    frame = Frame(np.full((64, 96, 3), 200, np.uint8))
    plain = Pipeline.open(write_tiny_bundle(tmp_path / 'plain'), 'onnxruntime', build=True)
    raw = plain(frame, ['weather']).probabilities['weather']
    pipeline = Pipeline.open(bundle.path, 'onnxruntime', build=True)
    found = pipeline(frame, ['weather']).probabilities['weather']
    assert found == pytest.approx(calibrated(raw, 2.0))


def test_command_prints_answers_and_terms(bundle, capsys):
    assert main(['bundle', str(bundle.path)]) == 0
    printed = capsys.readouterr().out
    assert 'drivable (segmentation): road, background' in printed
    assert 'the own lane is not told from others' in printed
    assert 'unknown for what no real data taught: rainy, snowy, clear' in printed
    assert 'unknown below a probability of 0.6 (temperature 2.00)' in printed
    assert 'fog: CC BY 4.0' in printed and 'teacher: Apache-2.0' in printed
    assert 'found somewhere: not stated' in printed


def test_command_on_no_bundle_is_one_sentence(tmp_path, capsys):
    assert main(['bundle', str(tmp_path)]) == 1
    assert 'no model bundle at' in capsys.readouterr().err


def test_unknown_class_in_taught_names_the_manifest(bundle):
    manifest = bundle.path / 'manifest.yaml'
    manifest.write_text(
        manifest.read_text().replace('- foggy\n  temperature', '- smoky\n  temperature')
    )
    with pytest.raises(BundleError, match=r"tasks\[3\].*taught names \['smoky'\]"):
        Bundle.open(bundle.path)
