# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Polygons and run lengths drawn as masks."""

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_data import picture, put, put_json

pytest.importorskip('torch', reason='training extras are not installed')

from faster_coco_eval.core import mask as coco_mask

from training.data import to_masks
from training.data.layout import Layout, LayoutConfig
from training.data.sample import DatasetError

SHARED = Path(__file__).parents[3] / 'shared' / 'data'
SIZE = (160, 120)


def circle(x: float, y: float, radius: float) -> dict:
    """Four cubic Bezier curves; the last one ends where the first began."""
    reach = radius * 4 / 3 * (2**0.5 - 1)
    turns = [np.array([[0, 1], [-1, 0]])]
    for _ in range(3):
        turns.append(turns[-1] @ turns[0])
    quarter = np.array([[radius, 0], [radius, reach], [reach, radius]])
    points = np.concatenate([quarter @ turn for turn in [np.eye(2), *turns[:3]]])
    return {'vertices': (points + np.array([x, y])).tolist(), 'types': 'LCC' * 4, 'closed': True}


def square(x: float, y: float, side: float) -> dict:
    corners = [[x, y], [x + side, y], [x + side, y + side], [x, y + side]]
    return {'vertices': corners, 'types': 'LLLL', 'closed': True}


def label(category: str, *shapes, **attributes) -> dict:
    return {'id': '1', 'category': category, 'poly2d': list(shapes), 'attributes': attributes}


def rle(mask: np.ndarray) -> dict:
    found = coco_mask.encode(np.asfortranarray(mask))
    return {'size': list(found['size']), 'counts': found['counts'].decode()}


def test_curves_and_squares_cover_what_they_enclose():
    frame = {'name': 'a', 'labels': [label('direct', circle(80, 60, 40))]}
    mask = to_masks.draw_mask(frame, 'drivable', SIZE)
    ys, xs = np.indices(mask.shape) + 0.5
    disc = (xs - 80) ** 2 + (ys - 60) ** 2 < 40**2
    assert (disc & (mask != 0)).sum() < 0.002 * disc.sum()
    assert ((mask == 0) & ~disc).sum() < 2 * np.pi * 40  # half a pixel around, see below
    assert set(np.unique(mask)) == {0, 2}
    frame = {'name': 'a', 'labels': [label('car', square(20, 30, 10)), label('dynamic')]}
    mask = to_masks.draw_mask(frame, 'semantic', SIZE)
    # As in the toolkit's masks, pixels that the outline runs through belong to the area.
    assert (mask[30:40, 20:30] == 13).all() and (mask == 13).sum() <= 11 * 11
    assert (mask[~(mask == 13)] == 255).all()


def test_later_labels_lie_over_earlier_ones_and_rle_is_exact():
    area = np.zeros((120, 160), np.uint8)
    area[50:70, 60:90] = 1
    labels = [label('road', square(0, 0, 100)), {'id': '2', 'category': 'car', 'rle': rle(area)}]
    mask = to_masks.draw_mask({'name': 'a', 'labels': labels}, 'semantic', SIZE)
    assert ((mask == 13) == (area > 0)).all() and mask[10, 10] == 0
    mask = to_masks.draw_mask({'name': 'a', 'labels': labels[::-1]}, 'semantic', SIZE)
    assert not (mask == 13).any()
    counts = {'size': [120, 160], 'counts': [50 * 160, 20, 160 * 120 - 50 * 160 - 20]}
    assert to_masks.decode_rle(counts, SIZE).sum() == 20
    with pytest.raises(DatasetError, match=r'a: label 2 cannot be drawn.*RLE of size'):
        to_masks.draw_mask({'name': 'a', 'labels': labels[1:]}, 'semantic', (100, 100))


def test_names_of_2018_and_lane_attributes():
    value = to_masks.mask_value
    assert value(label('area/alternative'), 'drivable') == 1
    assert value(label('drivable area', areaType='direct'), 'drivable') == 0
    assert value(label('car'), 'drivable') is None and value(label('car'), 'lane') is None
    assert value(label('lane/single white'), 'lane') == 6
    dashed = {'laneDirection': 'vertical', 'laneStyle': 'dashed'}
    assert value(label('road curb', **dashed), 'lane') == 0b0011_0100
    assert value(label('lane', laneTypes='crosswalk', **dashed), 'lane') == 0b0011_0000
    rows = [[10, 20, 'L'], [50, 20, 'L'], [50, 60, 'L'], [10, 60, 'L']]
    old = {'category': 'area/drivable', 'poly2d': rows}
    mask = to_masks.draw_mask({'name': 'a', 'labels': [old]}, 'drivable', SIZE)
    assert (mask[20:60, 10:50] == 0).all() and (mask == 0).sum() <= 41 * 41
    with pytest.raises(DatasetError, match='cannot be drawn'):
        broken = label('direct', {'vertices': [[1, 1], [2, 2]], 'types': 'LX'})
        to_masks.draw_mask({'name': 'a', 'labels': [broken]}, 'drivable', SIZE)


def test_command_writes_masks_that_the_loader_reads(tmp_path, capsys, caplog):
    for name in ('a', 'b'):
        put(tmp_path / f'images/100k/train/{name}.jpg', picture(1, *SIZE))
    line = {'vertices': [[10, 10.5], [100, 10.5]], 'types': 'LL', 'closed': False}
    put_json(
        tmp_path / 'labels/lane/polygons/lane_train.json',
        [{'name': 'a.jpg', 'labels': [label('single white', line)]}],
    )
    areas = [
        {'name': 'a.jpg', 'labels': [label('direct', square(0, 0, 50))]},
        {'name': 'b.jpg', 'labels': []},
    ]
    put_json(tmp_path / 'labels/drivable/polygons/drivable_train.json', areas)
    assert not Layout(LayoutConfig('t', str(tmp_path)), 'train').masks
    assert 'training.data.to_masks' in caplog.text
    assert to_masks.main([str(tmp_path), '--workers', '1']) == 0
    layout = Layout(LayoutConfig('t', str(tmp_path)), 'train')
    first, second = layout.load(0).masks, layout.load(1).masks
    assert (first['drivable'][:49, :49] == 0).all() and (second['drivable'] == 2).all()
    assert set(first) == {'drivable', 'lane'} and set(second) == {'drivable'}
    assert set(np.flatnonzero((first['lane'] == 0).any(axis=1))) == {9, 10, 11}
    capsys.readouterr()
    assert to_masks.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.count('is there already') == 2
    assert to_masks.main([str(tmp_path / 'images')]) == 1
    assert 'no [' in capsys.readouterr().err


@pytest.mark.parametrize('fault', ['label', 'direction', 'disk'])
def test_a_run_that_stopped_halfway_is_done_again(tmp_path, capsys, monkeypatch, fault):
    line = {'vertices': [[10, 10], [100, 10]], 'types': 'LL', 'closed': False}
    frames = [{'name': f'{i}.jpg', 'labels': [label('road curb', line)]} for i in range(3)]
    labels = tmp_path / 'labels/lane/polygons/lane_train.json'
    put_json(labels, frames)
    masks = tmp_path / 'labels/lane/masks'
    put(masks / '.train.new/left_by_a_killed_run.png', np.zeros((9, 9), np.uint8))
    with monkeypatch.context() as patch:
        if fault == 'disk':
            full = OSError(28, 'No space left on device')
            patch.setattr(Path, 'write_bytes', lambda *_: (_ for _ in ()).throw(full))
        elif fault == 'direction':
            broken = label('road curb', line, laneDirection=None)
            put_json(labels, [*frames[:2], {'name': '2.jpg', 'labels': [broken]}])
        else:
            put_json(labels, [*frames[:2], {'name': '2.jpg', 'labels': ['road curb']}])
        assert to_masks.main([str(tmp_path)]) == 1
    message = {
        'label': "2.jpg: label 'road curb' cannot be drawn",
        'direction': '2.jpg: label 1 cannot be drawn (ValueError: lane of direction None',
        'disk': f'{masks}/train cannot be written: [Errno 28] No space left on device',
    }
    assert message[fault] in capsys.readouterr().err
    assert list(masks.iterdir()) == []
    put_json(labels, frames)
    assert to_masks.main([str(tmp_path)]) == 0
    assert [path.name for path in masks.iterdir()] == ['train']
    assert sorted(path.name for path in masks.glob('train/*')) == ['0.png', '1.png', '2.png']


@pytest.mark.data
@pytest.mark.skipif(not SHARED.is_dir(), reason='../shared/data is not there')
def test_polygons_agree_with_the_run_lengths_of_bdd100k():
    folder = SHARED / 'bdd_samples/labels/seg_track_20/train'
    frames = json.loads(next(folder.glob('*.json')).read_text())
    both = either = 0
    for one in (found for frame in frames for found in frame['labels']):
        height, width = one['rle']['size']
        official = to_masks.decode_rle(one['rle'], (width, height))
        ours = np.zeros((height, width), np.uint8)
        for vertices, types in to_masks.polygons(one['poly2d']):
            to_masks.draw(ours, to_masks.flatten(vertices, types, True), True, 1)
        both += (official & (ours > 0)).sum()
        either += (official | (ours > 0)).sum()
    assert both / either > 0.98  # 0.987: official instances do not overlap, polygons do
