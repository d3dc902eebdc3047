# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Labels that teachers wrote fill in what people left out, in training only."""

from pathlib import Path

import numpy as np
import pytest
from tiny_data import HEIGHT, WIDTH, frame, put, put_json, write_layout

pytest.importorskip('torch', reason='training extras are not installed')

from mtl_perception.tasks import DETECTION
from training.config import load_config
from training.data.box_classes import scored
from training.data.layout import Layout, LayoutConfig, open_index, open_layouts
from training.data.sample import DatasetError

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / 'shared' / 'data'
PERSON = {'category': 'pedestrian', 'box2d': {'x1': 2, 'y1': 2, 'x2': 9, 'y2': 30}}
VEHICLES = ['car', 'truck', 'bus']


def sure(category: str, **attributes) -> dict:
    box = {'x1': 20, 'y1': 20, 'x2': 44, 'y2': 40}
    return {'category': category, 'score': 0.8, 'box2d': box, 'attributes': attributes}


def classes(layout: Layout, row: int) -> list[str]:
    boxes = layout.boxes(row)
    return [DETECTION.classes[i] for i in boxes.labels[~boxes.ignored]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Frames 0 and 1 have boxes by people, frame 2 has none; a teacher labelled all three."""
    root = write_layout(tmp_path / 'set')
    write_layout(root, 2, 'val')
    frames = [
        frame('frame_0.jpg', PERSON),
        frame('frame_1.jpg', PERSON),
        frame('frame_2.jpg', PERSON, sure('car', classUnsure=True), sure('bus', crowd=True)),
    ]
    put_json(root / 'labels/teacher/det_train.json', frames)
    put_json(root / 'labels/teacher/det_val.json', frames)
    return root


def layout_of(root: Path, split: str = 'train', **options) -> Layout:
    return Layout(LayoutConfig('tiny', str(root), **options), split)


def test_boxes_of_a_teacher_fill_images_without_boxes(root):
    layout = layout_of(root, teachers={'detection': 'teacher'})
    assert [classes(layout, row) for row in range(2)] == [['car'], ['car']]
    assert layout.boxes(2).ignored.tolist() == [False, False, True]
    vehicle = len(DETECTION.classes)
    assert layout.boxes(2).labels[:2].tolist() == [0, vehicle], 'a car that is unsure'
    assert layout.classes(2, 'detection').tolist() == [0]
    assert all('detection' in layout.tasks(row) for row in range(3))
    index = open_index(layout.config, 'train')
    assert index.taught == {'detection': {'frame_2.jpg'}}


def test_soft_boxes_count_by_their_scores(root):
    path = root / 'labels/teacher/det_train.json'
    soft = [{**sure('car', soft=True), 'id': str(i), 'score': 0.3} for i in range(400)]
    put_json(
        path, [frame('frame_2.jpg', *soft, {**soft[0], 'score': 1.0}, {**soft[0], 'score': 0})]
    )
    options = {'teachers': {'detection': 'teacher'}}
    ignored = layout_of(root, **options).boxes(2).ignored
    assert ignored[-2:].tolist() == [False, True]
    assert 0.2 < (~ignored).mean() < 0.4
    again = layout_of(root, **options).boxes(2).ignored
    assert (again == ignored).all(), 'a sample is a function of its index'
    put_json(path, [frame('frame_2.jpg', {**soft[0], 'attributes': 'soft'})])
    with pytest.raises(DatasetError, match='a label is malformed'):
        layout_of(root, **options)
    put_json(path, [frame('frame_2.jpg', {**soft[0], 'score': '0.3'})])
    with pytest.raises(DatasetError, match=r"frame_2.jpg: a box is soft and its score is '0.3'"):
        layout_of(root, **options)


def test_a_teacher_adds_the_classes_that_people_left_out(root):
    options = {'box_classes': VEHICLES, 'teachers': {'detection': 'teacher'}}
    layout = layout_of(root, teacher_classes=['pedestrian', 'car'], **options)
    assert sorted(classes(layout, 0)) == ['car', 'pedestrian']
    covered = open_index(layout.config, 'train').covered
    assert covered['frame_0.jpg'] == {*VEHICLES, 'pedestrian'}
    assert covered['frame_2.jpg'] == {'pedestrian', 'car'}


def test_box_classes_leave_other_boxes_out(root):
    layout = layout_of(root, box_classes=['pedestrian'])
    assert classes(layout, 0) == [] and 'detection' in layout.tasks(0)
    assert len(layout.boxes(0).labels) == 0, 'other vehicle forgives cars only'
    assert set(open_index(layout.config, 'train').covered['frame_0.jpg']) == {'pedestrian'}


def test_a_box_may_be_of_a_class_set(root):
    vehicle = {**sure('vehicle'), 'attributes': {}}
    crowd = {**sure('two-wheeler'), 'attributes': {'crowd': True}}
    put_json(root / 'labels/det_20/det_train.json', [frame('frame_0.jpg', vehicle, crowd, PERSON)])
    boxes = layout_of(root).boxes(0)
    first = len(DETECTION.classes)
    assert boxes.labels.tolist() == [first, first + 1, 0]
    assert boxes.ignored.tolist() == [False, True, False]
    judged = scored(boxes, DETECTION)
    regions = [DETECTION.classes[i] for i in judged.labels[judged.ignored]]
    assert regions == ['car', 'truck', 'bus', 'train', 'motorcycle', 'bicycle']
    assert judged.labels[~judged.ignored].tolist() == [0]
    assert len(layout_of(root, box_classes=VEHICLES).boxes(0).labels) == 0, 'trains are not covered'
    assert len(layout_of(root, box_classes=[*VEHICLES, 'train']).boxes(0).labels) == 1


def test_validation_reads_no_teacher(root):
    layout = layout_of(root, 'val', teachers={'detection': 'teacher'})
    assert [layout.tasks(row) & {'detection'} for row in range(2)] == [{'detection'}, set()]
    assert not open_index(layout.config, 'val').taught


def test_masks_of_a_teacher_are_coded_as_ours(root, tmp_path):
    mask = np.full((HEIGHT, WIDTH), 255, np.uint8)
    mask[:8], mask[8:16], mask[16:24] = 1, 2, 3
    (root / 'labels/drivable/masks/train/frame_2.png').unlink()
    for name in ('frame_0', 'frame_2'):
        put(tmp_path / f'written/masks/train/{name}.png', mask)
    teachers = {'drivable': str(tmp_path / 'written')}
    layout = layout_of(root, teachers=teachers)
    assert np.array_equal(layout.load(2).masks['drivable'], mask)
    assert not np.array_equal(layout.load(0).masks['drivable'], mask), 'people go first'
    road = layout_of(root, teachers=teachers, drivable_split=False).load(2).masks['drivable']
    assert road[::8, 0].tolist() == [3, 2, 3, 255, 255, 255]


def test_masks_of_a_task_that_people_did_not_label_at_all(root):
    lane = np.zeros((HEIGHT, WIDTH), np.uint8)
    lane[:, ::2], lane[0] = 1, 255
    put(root / 'labels/lane_teacher/masks/train/frame_1.png', lane)
    layout = layout_of(root, teachers={'lane': 'lane_teacher'})
    assert [('lane' in layout.tasks(row)) for row in range(3)] == [False, True, False]
    assert np.array_equal(layout.load(1).masks['lane'], lane)


def test_attributes_of_a_teacher(root):
    frames = [frame(f'frame_{i}.jpg', weather='clear', timeofday='night') for i in range(3)]
    put_json(root / 'labels/attributes/det_train.json', frames)
    teachers = {'weather': 'attributes', 'timeofday': 'attributes', 'detection': 'teacher'}
    layout = layout_of(root, teachers=teachers)
    assert [layout.load(row).classes for row in (0, 2)] == [
        {'weather': 0, 'timeofday': 1}, {'weather': 2, 'timeofday': 1},
    ]  # fmt: skip
    without_boxes = layout_of(root, teachers={'weather': 'attributes', 'timeofday': 'attributes'})
    assert without_boxes.tasks(2) == {'drivable', 'weather', 'timeofday'}, 'no boxes, not empty'


def test_listing_says_which_attributes_are_labelled(root):
    listed = [
        {'name': 'frame_0.jpg', 'tasks': ['det']},
        {'name': 'frame_1.jpg', 'tasks': ['weather']},
    ]
    put_json(root / 'labels.json', {'frames': listed})
    layout = layout_of(root)
    assert [layout.load(row).classes for row in (0, 1)] == [{}, {'weather': 0}]


def test_own_folder_of_boxes(root):
    put_json(root / 'labels/lights/det_train.json', [frame('frame_2.jpg', sure('traffic light'))])
    layout = layout_of(root, boxes='lights', box_classes=['traffic light'])
    assert [layout.tasks(row) & {'detection'} for row in range(3)] == [set(), set(), {'detection'}]
    assert classes(layout, 2) == ['traffic light']


def test_source_without_validation_split(tmp_path, root):
    alone = LayoutConfig('alone', str(write_layout(tmp_path / 'alone')), train_only=True)
    both = LayoutConfig('tiny', str(root))
    assert [layout.config.name for layout in open_layouts([alone, both], 'val')] == ['tiny']
    assert len(open_layouts([alone, both], 'train')) == 2


FAULTS = {
    'no file': ({'teachers': {'detection': 'gone'}}, 'no file .*gone/det_train.json'),
    'no folder': ({'teachers': {'semantic': 'gone'}}, 'no folder .*gone/masks/train'),
    'no task': ({'teachers': {'boxes': 'teacher'}}, "teachers.boxes: no task .*'detection'"),
    'kind': ({'teachers': {'depth': 'teacher'}}, 'teachers.depth: no task that a teacher labels'),
    'boxes': ({'teachers': {'voc_detection': 'teacher'}}, 'boxes of this source are detection'),
    'class': ({'box_classes': ['cars']}, "no class 'cars', .* did you mean 'car'"),
    'taught class': (
        {'teachers': {'detection': 'teacher'}, 'teacher_classes': ['van']},
        "teacher_classes: detection has no class 'van'",
    ),
    'nothing added': ({'teachers': {'weather': 'teacher'}}, 'adds nothing .* such as frame_0.jpg'),
}  # fmt: skip


@pytest.mark.parametrize('fault', list(FAULTS))
def test_what_does_not_fit_is_refused(root, fault):
    options, message = FAULTS[fault]
    with pytest.raises(DatasetError, match=message):
        layout_of(root, **options)


def test_mask_of_another_size_names_both_sides(root):
    (root / 'labels/drivable/masks/train/frame_2.png').unlink()
    path = put(root / 'labels/road/masks/train/frame_2.png', np.zeros((9, 9), np.uint8))
    layout = layout_of(root, teachers={'drivable': 'road'})
    with pytest.raises(DatasetError, match=rf'{path}: mask is \(9, 9\), its image is \(48, 64\)'):
        layout.load(2)


@pytest.mark.data
@pytest.mark.skipif(not SHARED.is_dir(), reason='../shared/data is not there')
def test_real_sources_are_labelled_as_their_listing_says(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = load_config(ROOT / 'training/configs/real_roads_data.yaml')
    labelled = {
        layout.config.name: layout.labelled() for layout in open_layouts(config.data, 'train')
    }
    assert labelled['traffic_light_seoul'] == {'detection', 'drivable', 'lane'}
    assert labelled['idd_lite'] == {'detection', 'drivable', 'lane', 'semantic'}
    held_out = {
        layout.config.name: layout.labelled() for layout in open_layouts(config.data, 'val')
    }
    assert held_out['idd_lite'] == {'drivable', 'lane', 'semantic'}
    assert 'autospeed_highway' not in held_out
