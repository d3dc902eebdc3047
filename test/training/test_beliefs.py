# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What real data taught, calibration, one road class, and terms: from the data into the bundle."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import write_tiny_bundle
from tiny_data import frame, picture, put, put_json
from tiny_training import CONFIG, tiny_overrides, tiny_scenes

pytest.importorskip('torch', reason='training extras are not installed')

import torch

from mtl_perception.bundle import Bundle
from mtl_perception.tasks import DRIVABLE, WEATHER
from training import beliefs
from training.beliefs import apply_beliefs, believed_tasks, temperature
from training.config import load_config
from training.export import export, load_network
from training.networks.build import build_network
from training.tasks.segmentation import MaskOutputs, SegmentationHead
from training.terms import GENERATED, terms_of
from training.train import train


def write_real(root: Path, split: str, count: int) -> Path:
    """Photographs, as far as anybody can tell: all foggy, road not split."""
    frames = []
    for index in range(count):
        name = f'real_{split}_{index}'
        put(root / f'images/100k/{split}/{name}.jpg', picture(index, 160, 96))
        road = np.full((96, 160), 2, np.uint8)
        road[48:] = 0
        put(root / f'labels/drivable/masks/{split}/{name}.png', road)
        frames.append(frame(f'{name}.jpg', weather='foggy'))
    put_json(root / f'labels/det_20/det_{split}.json', frames)
    return root


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp('beliefs')
    tiny_scenes(root / 'scenes', 4, 2)
    write_real(root / 'real', 'train', beliefs.TAUGHT_FROM)
    write_real(root / 'real', 'val', 4)
    return root


def configuration(place: Path, *more: str):
    data = (
        f'data=[{{name: scenes, root: "{place / "scenes"}"}}, {{name: real, terms: CC BY 4.0, '
        f'root: "{place / "real"}", drivable_split: false, train_only: false}}]'
    )
    tiny = tiny_overrides(place / 'scenes', f'output={place / "run"}')[1:]
    small = ('network={trunk: resnet10t, neck_channels: 16}', 'optimizer={steps: 2, batch_size: 2}')
    return load_config(CONFIG, [data, *tiny, *small, *more])


def test_temperature_makes_an_overconfident_network_less_sure():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2000, 4))
    labels = np.array([rng.choice(4, p=np.exp(row) / np.exp(row).sum()) for row in logits])
    sharp = np.exp(3 * logits)
    assert temperature(sharp / sharp.sum(1, keepdims=True), labels) == pytest.approx(3, rel=0.15)
    flat = np.exp(0.3 * logits)
    assert temperature(flat / flat.sum(1, keepdims=True), labels) == 1, 'never sharper'


def test_only_real_data_teaches(place):
    config = configuration(place)
    network = build_network(config.network, config.task_table(), initialise=False).eval()
    tasks = {task.name: task for task in believed_tasks(network, config)}
    assert tasks['weather'].taught == ('foggy',)
    assert tasks['weather'].threshold == beliefs.THRESHOLD_ALONE, 'nothing said what fog is not'
    assert tasks['weather'].temperature >= 1
    assert tasks['scene'].taught == () and tasks['timeofday'].taught == ()
    assert tasks['drivable'].published == {0: 'road', 2: 'background'}
    assert tasks['semantic'].taught is None and tasks['detection'].taught is None


def test_generated_scenes_alone_are_believed(place):
    config = load_config(CONFIG, tiny_overrides(place / 'scenes'))
    network = build_network(config.network, config.task_table(), initialise=False).eval()
    assert all(task.taught is None for task in believed_tasks(network, config))


def test_one_road_never_says_alternative_and_keeps_the_background():
    head = SegmentationHead(DRIVABLE, [8, 8, 8, 8], 8).eval()
    logits = torch.randn(2, 3, 16, 16) * 4
    outputs = MaskOutputs(logits)
    plain = head.deploy(outputs)['drivable']
    head.one_road = True
    merged = head.deploy(outputs)['drivable']
    assert not (merged.argmax(1) == 1).any()
    road = plain.softmax(1)[:, :2].sum(1)
    assert torch.allclose(merged[:, [0, 2]].softmax(1)[:, 0], road, atol=1e-6)


@pytest.mark.slow
def test_a_bundle_says_what_it_was_taught_and_its_terms(place):
    config = configuration(place)
    train(config)
    data = {'name': 'x', 'output': 'x', 'tasks': ['drivable']}
    sources = [{'name': 'scenes', 'root': 'x', 'terms': 'other'}, {'name': 'new', 'root': 'x'}]
    (place / 'terms.yaml').write_text(json.dumps({**data, 'data': sources}))
    bundle = export(
        place / 'run', place / 'models' / 'tiny', program=False, terms_from=place / 'terms.yaml'
    )
    manifest = bundle.manifest
    assert manifest.task('weather').taught == ('foggy',)
    assert manifest.terms['real'] == 'CC BY 4.0' and 'Apache-2.0' in manifest.terms['scenes']
    card = (bundle.path / 'card.md').read_text()
    assert 'weather: real data taught foggy' in card and '- real: CC BY 4.0' in card
    assert load_network(Bundle.open(bundle.path)).head('drivable').one_road


def test_without_the_data_all_is_believed_and_the_log_says_so(place, tmp_path, caplog):
    config = configuration(place, f'data=[{{name: gone, root: "{tmp_path}"}}]')
    network = build_network(config.network, config.task_table(), initialise=False).eval()
    tasks = beliefs.believed(network, config, {})
    assert all(task.taught is None for task in tasks) and 'not calibrated' in caplog.text
    known = {'weather': {'taught': ['clear'], 'temperature': 2.0, 'threshold': 0.6}}
    (weather,) = [t for t in beliefs.believed(network, config, {'believed': known}) if t == WEATHER]
    assert (weather.taught, weather.temperature) == (('clear',), 2.0), 'as the parent says'


def test_apply_beliefs_reaches_the_head(place):
    config = configuration(place)
    network = build_network(config.network, config.task_table(), initialise=False).eval()
    apply_beliefs(network, believed_tasks(network, config))
    assert network.head('drivable').one_road


class TestTerms:
    def test_sources_teachers_and_trunk(self, place):
        config = configuration(
            place, 'network.trunk_weights="pypi:no-such-package"', 'network.trunk_terms=MIT'
        )
        source = asdict(config)['data'][1]
        source |= {'teachers': {'lane': 'marks'}, 'teacher_terms': 'Apache-2.0'}
        found = terms_of({**asdict(config), 'data': [source]})
        assert found == {
            'real': 'CC BY 4.0',
            'teacher of lane in real, marks': 'Apache-2.0',
            'weights of pypi:no-such-package': 'MIT',
        }

    def test_runs_and_bundles_that_it_began_with(self, place, tmp_path):
        (tmp_path / 'config.yaml').write_text(
            json.dumps({'data': [{'name': 'old', 'root': 'x', 'terms': 'research only'}]})
        )
        (tmp_path / 'distill.yaml').write_text(
            json.dumps({'data': [], 'teacher': {'trunk': 'resnet18', 'pretrained': True}})
        )
        assert terms_of({'network': {'init_from': str(tmp_path)}}) == {
            'old': 'research only', 'weights of timm resnet18': 'apache-2.0',
        }  # fmt: skip
        trunk = tmp_path / 'trunk.safetensors'
        assert 'old' in terms_of({'network': {'trunk_weights': str(trunk)}})
        bundle = str(write_tiny_bundle(tmp_path / 'tiny'))
        made = 'none: made by hand'
        assert terms_of({'network': {'init_from': bundle}}) == {made: ''}
        assert terms_of({'network': {'init_from': 'gone'}}) == {'model gone': ''}
        own = {'data': [{'name': made, 'root': 'x', 'terms': 'ours'}]}
        begun = {**own, 'network': {'init_from': bundle}}
        assert terms_of(begun) == {made: 'ours'}, 'what is stated stays'

    def test_the_permissive_configuration_is(self):
        """The configuration of a bundle that may be used names no other terms than these."""
        permissive = ('Apache-2.0', 'MIT', 'CC BY 4.0', 'public domain', 'drawn by')
        config = asdict(load_config(CONFIG.with_name('permissive.yaml')))
        for source in config['data']:
            source['terms'] = source['terms'] or f'{GENERATED} (scenes need not be drawn here)'
        found = terms_of(config)
        assert len(found) > 10
        assert [
            name for name, text in found.items() if not any(p in text for p in permissive)
        ] == []
