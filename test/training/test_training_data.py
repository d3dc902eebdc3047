# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Reading the BDD100K layout, drawing batches from it."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_data import HEIGHT, WIDTH, frame, picture, put, put_json, write_layout

pytest.importorskip('torch', reason='training extras are not installed')

from mtl_perception.tasks import DETECTION
from training.config import ConfigError, load_config
from training.data.layout import Layout, LayoutConfig, open_layouts
from training.data.loader import Draws, StepSampler, train_loader
from training.data.sample import DatasetError, collate
from training.data.sampling import repeat_factors
from training.data.transforms import AugmentConfig, augment

SHARED = Path(__file__).parents[3] / 'shared' / 'data'
CONFIG = Path(__file__).parents[2] / 'training' / 'configs' / 'demo.yaml'


@pytest.fixture
def layout(tmp_path):
    return Layout(LayoutConfig('tiny', str(write_layout(tmp_path))), 'train')


def test_only_what_is_labelled_is_a_label(layout):
    first, last = layout.load(0), layout.load(2)
    assert set(first.boxes) == {'detection'} and first.classes == {'weather': 0}
    assert first.boxes['detection'].ignored.tolist() == [False, True]
    assert not last.boxes and not last.classes
    assert set(last.masks) == {'drivable'}


def test_masks_without_a_split_become_class_sets(tmp_path):
    config = LayoutConfig('tiny', str(write_layout(tmp_path)), drivable_split=False)
    mask = Layout(config, 'train').load(0).masks['drivable']
    assert np.unique(mask).tolist() == [2, 3]


def test_missing_split_says_where_it_looked(tmp_path):
    with pytest.raises(DatasetError, match='images/'):
        Layout(LayoutConfig('tiny', str(write_layout(tmp_path))), 'val')


def test_optional_data_set_may_be_absent(tmp_path):
    here = LayoutConfig('tiny', str(write_layout(tmp_path / 'a')))
    gone = LayoutConfig('gone', str(tmp_path / 'b'), optional=True)
    assert [layout.config.name for layout in open_layouts([here, gone], 'train')] == ['tiny']
    with pytest.raises(DatasetError):
        open_layouts([gone], 'train')


@pytest.mark.parametrize(
    'fault', ['size', 'ids', 'json', 'image', 'cut', 'label', 'attributes', 'old frames']
)
def test_broken_files_are_named(tmp_path, fault):
    root = write_layout(tmp_path)
    mask = root / 'labels/drivable/masks/train/frame_0.png'
    image = root / 'images/100k/train/frame_0.jpg'
    if fault == 'size':
        cv2.imwrite(str(mask), np.zeros((5, 5), np.uint8))
    elif fault == 'ids':
        cv2.imwrite(str(mask), np.full((HEIGHT, WIDTH), 7, np.uint8))
    elif fault == 'json':
        (root / 'labels/det_20/det_train.json').write_text('[{"name": ')
    elif fault == 'image':
        image.write_bytes(b'no image')
    elif fault == 'cut':
        image.write_bytes(image.read_bytes()[:-200])
    elif fault == 'attributes':
        broken = {**frame('frame_0.jpg'), 'attributes': 'clear'}
        put_json(root / 'labels/det_20/det_train.json', [broken])
    elif fault == 'old frames':
        put_json(root / 'labels/det_20/det_train.json', {'name': 'frame_0', 'frames': [1]})
    else:
        half = {'category': 'car', 'box2d': {'x1': 1, 'y1': 2}}
        put_json(root / 'labels/det_20/det_train.json', [frame('frame_0.jpg', half)])
    with pytest.raises(DatasetError, match=r'frame_0|det_train'):
        Layout(LayoutConfig('tiny', str(root)), 'train').load(0)


def test_inverted_boxes_are_left_out_and_said(tmp_path, caplog):
    root = write_layout(tmp_path)
    boxes = [(8, 8, 4, 20), (1, 1, 5, 5), (float('nan'), 1, 5, 5)]
    labels = [
        {'category': 'car', 'box2d': dict(zip(('x1', 'y1', 'x2', 'y2'), box, strict=True))}
        for box in boxes
    ]
    frames = [frame('frame_0.jpg', *labels), frame('frame_2.jpg', labels[1])]
    put_json(root / 'labels/det_20/det_train.json', frames)
    layout = Layout(LayoutConfig('tiny', str(root)), 'train')
    assert layout.boxes(0).xyxy.tolist() == layout.boxes(2).xyxy.tolist() == [[1, 1, 5, 5]]
    assert '2 of 4 boxes are inverted' in caplog.text


def test_labels_of_2018_say_the_same(tmp_path):
    root = write_layout(tmp_path)
    new = root / 'labels/det_20/det_train.json'
    expected = Layout(LayoutConfig('tiny', str(root)), 'train').load(0)
    entry = frame(
        'frame_0.jpg',
        {'category': 'car', 'box2d': {'x1': 8, 'y1': 8, 'x2': 40, 'y2': 32}},
        {'category': 'other vehicle', 'box2d': {'x1': 0, 'y1': 0, 'x2': 8, 'y2': 8}},
        {'category': 'area/drivable', 'poly2d': [[0, 0, 'L'], [9, 9, 'L'], [9, 0, 'L']]},
        weather='rainy',
    )
    new.unlink()
    put_json(root / 'labels/bdd100k_labels_images_train.json', [entry])
    one_file = Layout(LayoutConfig('tiny', str(root)), 'train')
    (root / 'labels/bdd100k_labels_images_train.json').unlink()
    objects = {'timestamp': 10000, 'objects': entry['labels']}
    put_json(
        root / 'labels/100k/train/frame_0.json',
        {'name': 'frame_0', 'attributes': entry['attributes'], 'frames': [objects]},
    )
    a_file_an_image = Layout(LayoutConfig('tiny', str(root)), 'train')
    for layout in (one_file, a_file_an_image):
        found = layout.load(0)
        assert found.classes == expected.classes
        assert (found.boxes['detection'].xyxy == expected.boxes['detection'].xyxy).all()
        assert (found.boxes['detection'].ignored == expected.boxes['detection'].ignored).all()
        assert not layout.load(1).boxes


def test_older_names_and_crowds_are_read_as_the_toolkit_does(tmp_path):
    root = write_layout(tmp_path, 1)
    box = {'x1': 1, 'y1': 1, 'x2': 9, 'y2': 9}
    names = ('person', 'bike', 'motor', 'van', 'trailer', 'rider')
    labels = [{'category': name, 'box2d': box} for name in names]
    labels[-1]['attributes'] = {'crowd': True}
    put_json(root / 'labels/det_20/det_train.json', [frame('frame_0.jpg', *labels)])
    boxes = Layout(LayoutConfig('tiny', str(root)), 'train').boxes(0)
    found = [DETECTION.classes[label] for label in boxes.labels]
    assert found == ['pedestrian', 'bicycle', 'motorcycle', 'car', 'truck', 'rider']
    assert boxes.ignored.tolist() == [False, False, False, False, True, True]


def test_images_that_another_part_holds_out_are_not_trained_on(tmp_path, caplog):
    root = write_layout(tmp_path)
    for name in ('frame_1', 'other'):
        put(root / f'images/10k/train/{name}.jpg', picture(7))
    put(root / 'images/10k/train/held.jpg', picture(8))
    put(root / 'images/100k/val/held.jpg', picture(8))
    put(root / 'images/100k/val/frame_0.jpg', picture(9))  # of the same part: another picture
    layout = Layout(LayoutConfig('tiny', str(root)), 'train')
    assert layout.names == ['frame_0.jpg', 'frame_1.jpg', 'frame_2.jpg', 'other.jpg']
    assert '1 training images are held out' in caplog.text


def test_lane_bytes_become_lane_or_background(tmp_path):
    root = write_layout(tmp_path, 1)
    mask = np.full((HEIGHT, WIDTH), 255, np.uint8)
    mask[10], mask[20], mask[30] = 6, 0b0011_0011, 0b0000_1000
    path = put(root / 'labels/lane/masks/train/frame_0.png', mask)
    layout = Layout(LayoutConfig('tiny', str(root)), 'train')
    lane = layout.load(0).masks['lane']
    assert set(np.flatnonzero((lane == 0).all(axis=1))) == {10, 20}
    assert (np.delete(lane, [10, 20], axis=0) == 1).all()
    mask[40] = 0b0100_0001
    put(path, mask)
    with pytest.raises(DatasetError, match=r'unknown ids \[65\]'):
        layout.load(0)


def test_a_source_may_be_the_images_with_some_label(tmp_path):
    root = write_layout(tmp_path)
    config = LayoutConfig('tiny', str(root), labelled=['weather'])
    assert Layout(config, 'train').names == ['frame_0.jpg', 'frame_1.jpg']
    with pytest.raises(DatasetError, match=r"labelled for any of \['semantic'\]"):
        Layout(LayoutConfig('tiny', str(root), labelled=['semantic']), 'train')


def test_only_wanted_labels_are_read(layout):
    Path(layout.masks['drivable'].paths['frame_0.jpg']).write_bytes(b'broken')
    assert set(layout.load(0, tasks=['detection']).boxes) == {'detection'}
    assert layout.tasks(0) == {'detection', 'drivable', 'weather'}
    assert layout.classes(0, 'weather').tolist() == [0]


def test_batches_depend_on_seed_and_step_only(layout):
    config = AugmentConfig(32, 64, 32, 64)
    draws = Draws([layout], config, seed=5)
    whole = list(train_loader(draws, StepSampler(0, 4, 2), ['drivable'], workers=0))
    tail = list(train_loader(draws, StepSampler(2, 4, 2), ['drivable'], workers=0))
    assert len(whole) == 4 and len(tail) == 2
    for a, b in zip(whole[2:], tail, strict=True):
        assert (a.image == b.image).all()


def test_a_draw_is_what_it_was_before_there_were_options(layout):
    """Runs that were begun earlier go on with the same images, crops and labels."""
    config = AugmentConfig(32, 64, 32, 64)
    draws = Draws([layout, layout], config, seed=3)
    for number in range(6):
        rng = np.random.default_rng([3, number])
        rng.choice(2, p=[0.5, 0.5])
        expected = augment(layout.load(int(rng.integers(len(layout)))), config, rng)
        assert draws[number].name == expected.name
        assert (draws[number].masks['drivable'] == expected.masks['drivable']).all()
        assert np.abs(draws[number].image.astype(int) - expected.image).mean() < 3


def test_a_broken_image_is_replaced_by_the_same_draw_each_time(layout, caplog):
    config = AugmentConfig(32, 64, 32, 64)
    whole = [Draws([layout], config, 1)[draw].name for draw in range(12)]
    layout.paths[0].write_bytes(b'broken')
    draws = Draws([layout], config, 1)
    found = [draws[draw] for draw in range(12)]
    assert 'frame_0.jpg' in whole and 'frame_0.jpg' not in {sample.name for sample in found}
    for before, after, again in zip(whole, found, (draws[d] for d in range(12)), strict=True):
        assert after.name == again.name and (after.image == again.image).all()
        assert bool(after.broken) == (before == 'frame_0.jpg')
        assert after.broken or after.name == before
    batches = list(train_loader(draws, StepSampler(0, 3, 4), ['drivable'], workers=0))
    assert sum(len(batch.broken) for batch in batches) == sum(len(s.broken) for s in found)
    assert caplog.text.count('takes its place') == 1


def test_too_many_broken_images_end_the_run(layout):
    layout.paths[0].write_bytes(b'broken')
    draws = Draws([layout], AugmentConfig(32, 64, 32, 64), 1)
    batches = train_loader(draws, StepSampler(0, 200, 4), ['drivable'], workers=0)
    with pytest.raises(DatasetError, match=r'draws were broken, more than 1%.*frame_0'):
        list(batches)
    for path in layout.paths:
        path.write_bytes(b'broken')
    with pytest.raises(DatasetError, match='draw 5 and 7 in its place are broken'):
        draws[5]


@pytest.mark.parametrize(
    'override',
    [
        'augment.fog=1.5', 'augment.scale_min=2', 'augment.scale_min=0',
        'data=[{name: a, root: b, weight: 0}]',
    ],
)  # fmt: skip
def test_settings_out_of_range_are_named(override):
    with pytest.raises(ConfigError, match=r'expected 0|expected above 0'):
        load_config(CONFIG, [override])


def test_rare_classes_are_drawn_more_often(tmp_path):
    """LVIS, section 4.1: bus in 1 of 8 labelled images, t = 0.5: r = sqrt(0.5 / 0.125) = 2."""
    root = write_layout(tmp_path, 9)
    box = {'x1': 1, 'y1': 1, 'x2': 9, 'y2': 9}
    labels = [[{'category': 'car', 'box2d': box}] for _ in range(8)]
    labels[3].append({'category': 'bus', 'box2d': box})
    frames = [frame(f'frame_{i}.jpg', *found) for i, found in enumerate(labels)]
    put_json(root / 'labels/det_20/det_train.json', frames)
    layout = Layout(LayoutConfig('tiny', str(root), repeat_threshold=0.5), 'train')
    factors = repeat_factors(layout, 0.5, ['detection'])
    assert factors.tolist() == [1, 1, 1, 2, 1, 1, 1, 1, 1]
    draws = Draws([layout], AugmentConfig(8, 16, 8, 16), seed=0)
    names = [draws[draw].name for draw in range(600)]
    assert names.count('frame_3.jpg') / 600 == pytest.approx(0.2, abs=0.04)
    assert names[:5] == [draws[draw].name for draw in range(5)]
    # Masks count as well: background is in all of them, so nothing is rare.
    assert repeat_factors(layout, 0.5, ['drivable']).tolist() == [1] * 9
    with pytest.raises(DatasetError, match="'semantic', for which no image is labelled"):
        repeat_factors(layout, 0.5, ['semantic'])


def test_ranks_share_a_batch_without_overlap():
    parts = [list(StepSampler(1, 3, 8, rank, 2)) for rank in (0, 1)]
    for step in (0, 1):
        together = sorted(parts[0][step] + parts[1][step])
        assert together == list(range(8 * (step + 1), 8 * (step + 2)))


def test_collate_keeps_unlabelled_as_none(layout):
    batch = collate([layout.load(0), layout.load(2)], ['detection', 'drivable', 'weather'])
    assert batch.targets['detection'][1] is None and list(batch.targets['weather']) == [0, None]
    assert batch.targets['detection'][0].ignored.shape == (1, 4)
    assert batch.image.shape == (2, 3, HEIGHT, WIDTH)


@pytest.mark.data
@pytest.mark.skipif(not SHARED.is_dir(), reason='../shared/data is not there')
def test_real_bdd100k_samples_load():
    layout = Layout(LayoutConfig('bdd', str(SHARED / 'bdd_samples')), 'train')
    samples = [layout.load(i) for i in range(len(layout))]
    assert len(samples) == 14  # one frame is in 100k and in 10k, the clip has no detection labels
    assert sum('detection' in s.boxes for s in samples) == 3
    assert sum('semantic' in s.masks for s in samples) == 6
    assert any(len(s.boxes['detection'].labels) for s in samples if s.boxes)
