# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""GPU day, whole, on a CPU in tiny sizes: pack, train, finish, engines."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('torch', reason='training extras are not installed')
pytest.importorskip('timm', reason='training extras are not installed')

from tiny_training import CONFIG, ROOT, tiny_scenes

from tools.gpu_day.smaller import copy_source
from training.data.layout import Layout, LayoutConfig


def call(*words):
    return subprocess.run(
        [sys.executable, '-m', *map(str, words)], cwd=ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


@pytest.fixture(scope='module')
def pack(tmp_path_factory):
    root = tmp_path_factory.mktemp('day')
    data = f'data=[{{name: scenes, root: "{tiny_scenes(root / "scenes", 3, 2)}"}}]'
    done = call('tools.gpu_day.pack', CONFIG, root / 'pack', data, '--quality', 70)
    assert done.returncode == 0, done.stderr
    return root / 'pack'


def test_a_pack_holds_the_data_at_its_size_and_a_configuration_of_it(pack):
    copied = sorted((pack / 'data').rglob('*.jpg'))
    original = sorted((pack.parent / 'scenes').rglob('*.jpg'))
    assert len(copied) == len(original) == 5
    for a, b in zip(copied, original, strict=True):
        assert a.stat().st_size <= b.stat().st_size
        one, other = cv2.imread(str(a)), cv2.imread(str(b))
        assert one.shape == other.shape
        assert np.abs(one.astype(int) - other).mean() < 6
    assert str(pack / 'data') in (pack / 'config.yaml').read_text()


def test_images_shrink_with_their_masks_and_boxes(pack, tmp_path):
    source = LayoutConfig('scenes', str(pack.parent / 'scenes'))
    copy_source(Path(source.root), tmp_path / 'small', 90, width=80)
    before, after = (
        Layout(replace(source, root=str(root)), 'train')
        for root in (source.root, tmp_path / 'small')
    )
    assert (before.size(0), after.size(0)) == ((160, 96), (80, 48))
    for index in range(len(before)):
        large, small = before.load(index), after.load(index)
        assert before.tasks(index) == after.tasks(index)
        boxes = (sample.boxes['detection'] for sample in (large, small))
        big, half = (box.xyxy for box in boxes)
        np.testing.assert_allclose(half, big / 2, atol=1e-3)
        for task, mask in large.masks.items():
            assert np.array_equal(small.masks[task], mask[::2, ::2])


def test_a_pack_above_the_limit_says_what_takes_the_room(pack, tmp_path):
    data = f'data=[{{name: scenes, root: "{pack.parent / "scenes"}"}}]'
    done = call('tools.gpu_day.pack', CONFIG, tmp_path / 'pack', data, '--limit-mb', 0.01)
    assert done.returncode == 1
    assert 'data of scenes' in done.stdout
    assert 'expected at most 0.01; leave sources out' in done.stderr


@pytest.mark.slow
def test_the_three_commands_leave_their_figures(pack, tmp_path):
    parts = {}
    for command in ('train', 'finish', 'engines'):
        done = call(
            'tools.gpu_day.day', command, pack, '--output', tmp_path, '--dry-run', '--minutes', 60
        )
        record = json.loads((tmp_path / f'{command}.json').read_text())
        assert done.returncode == 0, record['parts']
        assert record['environment']['cpu']
        parts[command] = record
    assert min(parts['train']['data_rate']['image_cpu_ms'].values()) > 0
    assert list(parts['train']['parts']) == ['data rate', 'training']
    assert list(parts['finish']['parts']) == ['training', 'evaluation', 'export']
    assert 'scenes' in str(parts['finish']['evaluation'])
    networks = parts['engines']['latency']['networks']
    assert networks['resnet10t']['eager']['1']['p50_ms'] > 0 and 'yolop' in networks
    assert 'bench' in parts['engines']


def test_a_part_that_fails_is_recorded_and_the_others_go_on(pack, tmp_path):
    wrong = 'network.trunk=no_such_trunk'
    done = call(
        'tools.gpu_day.day', 'train', pack, wrong, '--output', tmp_path, '--dry-run',
        '--minutes', 60,
    )  # fmt: skip
    parts = json.loads((tmp_path / 'train.json').read_text())['parts']
    assert done.returncode == 1 and list(parts) == ['data rate', 'training']
    assert 'no_such_trunk' in ' '.join(parts['training']['last_lines'])
