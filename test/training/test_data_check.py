# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""`python -m training.data.check`: every fault is found, and only faults end with exit code 1."""

import json
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from tiny_data import CAR, HEIGHT, WIDTH, frame, picture, put, put_json, write_layout

pytest.importorskip('torch', reason='training extras are not installed')

from training.config import load_config
from training.data import check, rate

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / 'shared' / 'data'
LABELS = 'labels/det_20/det_train.json'


def run(root: Path, tmp_path: Path) -> tuple[int, dict]:
    report = tmp_path / 'report.json'
    code = check.main([str(root), '--json', str(report), '--workers', '2'])
    return code, json.loads(report.read_text())


def kinds(report: dict) -> dict[str, bool]:
    return {finding['kind']: finding['broken'] for finding in report['findings']}


def box(*corners: float) -> dict:
    return {'category': 'car', 'box2d': dict(zip(('x1', 'y1', 'x2', 'y2'), corners, strict=True))}


def test_sound_data_set_counts_and_exits_with_0(tmp_path, capsys):
    root = write_layout(tmp_path / 'set')
    write_layout(root, 2, 'val')
    code, report = run(root, tmp_path)
    assert code == 0 and report['broken'] == 0 and report['findings'] == []
    train, val = report['splits']
    assert (train['split'], train['images'], val['images']) == ('train', 3, 2)
    assert train['labelled'] == {'detection': 2, 'drivable': 3, 'weather': 2}
    assert train['classes']['detection'] == {'car': 2, 'ignored': 2}
    assert train['classes']['weather'] == {'rainy': 2}
    half = WIDTH * HEIGHT // 2
    assert train['classes']['drivable'] == {'direct': 3 * half, 'background': 3 * half}
    printed = capsys.readouterr().out
    assert '50.00%' in printed and '0 broken, 0 notes' in printed


FAULTS = {
    'image': 'image does not decode',
    'cut': 'image does not decode',
    'mask': 'broken mask',
    'mask size': 'broken mask',
    'mask ids': 'broken mask',
    'mask mode': 'broken mask',
    'json': 'labels cannot be read',
    'header': 'image does not decode',
    'label': 'malformed label',
    'attributes': 'malformed label',
    'size': 'malformed label',
    'old frames': 'labels cannot be read',
    'inverted': 'box inverted or not finite',
    'outside': 'box outside its image',
    'leak': 'same picture in two splits',
    'other images': 'no image of the label file is there',
    'empty': 'no split',
}


@pytest.mark.parametrize('fault', list(FAULTS))
def test_broken_data_is_listed_with_exit_code_1(tmp_path, fault, capsys):
    root = write_layout(tmp_path / 'set')
    image = root / 'images/100k/train/frame_0.jpg'
    mask = root / 'labels/drivable/masks/train/frame_0.png'
    if fault == 'image':
        image.write_bytes(b'no image')
    elif fault == 'cut':
        image.write_bytes(image.read_bytes()[:-100])
    elif fault == 'mask':
        mask.write_bytes(mask.read_bytes()[:30])
    elif fault == 'mask size':
        put(mask, np.zeros((9, 9), np.uint8))
    elif fault == 'mask ids':
        put(mask, np.full((HEIGHT, WIDTH), 3, np.uint8))
    elif fault == 'mask mode':
        put(mask, np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    elif fault == 'json':
        (root / LABELS).write_text('[{"name": ')
    elif fault == 'label':
        put_json(root / LABELS, [frame('frame_0.jpg', {'category': 'car', 'box2d': {'x1': 1}})])
    elif fault == 'header':
        # Orientation 6 as text: OpenCV turns the image, Pillow does not.
        exif = b'Exif\0\0II*\0' + struct.pack('<IHHHIII', 8, 1, 0x0112, 2, 1, 6, 0)
        Image.fromarray(picture(50)).save(image, exif=exif)
    elif fault == 'attributes':
        put_json(root / LABELS, [{**frame('frame_0.jpg', CAR), 'attributes': ['clear']}])
    elif fault == 'size':
        put_json(root / LABELS, [{**frame('frame_0.jpg', CAR), 'size': {'height': HEIGHT}}])
    elif fault == 'old frames':
        put_json(root / LABELS, {'name': 'frame_0', 'frames': [1]})
    elif fault == 'inverted':
        put_json(root / LABELS, [frame('frame_0.jpg', box(9, 1, 5, 8))])
    elif fault == 'outside':
        put_json(root / LABELS, [frame('frame_0.jpg', box(WIDTH + 1, 1, WIDTH + 9, 8))])
    elif fault == 'leak':
        put(root / 'images/100k/val/other.jpg', cv2.imread(str(image)))
        (root / 'images/100k/val/other.jpg').write_bytes(image.read_bytes())
    elif fault == 'other images':
        put_json(root / LABELS, [frame('elsewhere.jpg', CAR)])
    else:
        root = tmp_path / 'nothing'
        root.mkdir()
    code, report = run(root, tmp_path)
    assert code == 1 and report['broken'] >= 1
    assert kinds(report)[FAULTS[fault]]
    printed = capsys.readouterr().out
    assert f'BROKEN: {FAULTS[fault]}: 1' in printed
    assert str(tmp_path) in printed.replace('\n', '')


def test_notes_do_not_fail(tmp_path):
    root = write_layout(tmp_path / 'set')
    put(root / 'images/100k/train/unlabelled.jpg', picture(50))
    put(root / 'images/100k/train/again.jpg', picture(50))
    put(root / 'labels/drivable/masks/train/gone.png', np.zeros((HEIGHT, WIDTH), np.uint8))
    frames = [
        frame('frame_0.jpg', box(-5, 1, 9, 9), box(3, 3, 3, 9), weather='sunny'),
        frame('frame_1.jpg', {**box(1, 1, 5, 5), 'category': 'ufo'}),
        frame('lost.jpg', CAR),
    ]
    put_json(root / LABELS, frames)
    code, report = run(root, tmp_path)
    assert code == 0
    assert kinds(report) == dict.fromkeys(
        (
            'box over the border', 'box without area', 'boxes without image',
            'drivable mask without image', 'image without label', 'same picture twice in a split',
            'unknown category, ignored region', 'unknown weather',
        ),
        False,
    )  # fmt: skip


def test_wrong_use_says_so(tmp_path, capsys):
    with pytest.raises(SystemExit):
        check.main([])
    assert 'give a PATH or --config' in capsys.readouterr().err
    assert check.main(['--config', str(tmp_path / 'none.yaml')]) == 1
    assert 'none.yaml' in capsys.readouterr().err


def test_rate_measures_the_loader(tmp_path, capsys):
    root = write_layout(tmp_path / 'set')
    config = load_config(
        ROOT / 'training/configs/demo.yaml',
        [f'data=[{{name: tiny, root: "{root}"}}]', 'augment.height=32', 'augment.width=64'],
    )
    result = rate.measure(config, batches=2, steps=0)
    rates = result['loader_images_per_s_by_workers']
    assert {0, 1} <= set(rates) and all(value > 0 for value in rates.values())
    assert set(result['load_and_crop_cpu_ms']) == {'decoded as small as needed', 'decoded in full'}
    assert rate.main(['none.yaml']) == 1 and 'none.yaml' in capsys.readouterr().err


@pytest.mark.data
@pytest.mark.skipif(not SHARED.is_dir(), reason='../shared/data is not there')
def test_real_samples_are_sound(tmp_path):
    code, report = run(SHARED / 'bdd_samples', tmp_path)
    assert code == 0 and kinds(report) == {'image without label': False}
    (train,) = report['splits']
    assert (train['images'], train['labelled']['semantic']) == (14, 6)
