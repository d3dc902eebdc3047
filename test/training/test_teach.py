# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""`training.teach`: what teachers are sure of becomes labels, and what does not fit is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from block_data import HEIGHT, WIDTH, write_block_data
from tiny_bundle import write_tiny_bundle
from tiny_data import put, put_json

pytest.importorskip('torch', reason='training extras are not installed')

from mtl_perception.frame import Detections
from mtl_perception.tasks import DETECTION, SEMANTIC, WEATHER
from training import teach
from training.data.layout import Layout, LayoutConfig
from training.data.sample import DatasetError
from training.teaching.boxes import averaged, fused
from training.teaching.rules import Rule, attribute_label, box_labels, mask_label
from training.teaching.views import View, views


def detections(*rows: tuple) -> Detections:
    """(x1, y1, x2, y2, score, class name) a box."""
    return Detections(
        np.array([row[:4] for row in rows], np.float32).reshape(-1, 4),
        np.array([row[4] for row in rows], np.float32),
        np.array([DETECTION.classes.index(row[5]) for row in rows], np.int64),
    )


def probabilities(*pixels: dict[str, float], task=SEMANTIC) -> np.ndarray:
    """A row of pixels, float32 [C, 1, N], from probabilities by class."""
    row = np.zeros((len(task.classes), 1, len(pixels)), np.float32)
    for x, pixel in enumerate(pixels):
        for name, value in pixel.items():
            row[task.classes.index(name), 0, x] = value
    return row


class TestViews:
    def test_views_of_a_scale_cover_the_image(self):
        for scale in (0.5, 1.0, 1.5, 2.0):
            seen = np.zeros((1, 60, 100), np.float32)
            for view in views(100, 60, [scale], flip=True):
                view.add(np.ones((1, view.height, view.width), np.float32), seen)
            assert seen.min() >= 2

    def test_what_a_view_cuts_comes_back_to_its_place(self):
        image = np.random.default_rng(0).integers(0, 256, (60, 100, 3), np.uint8)
        for view in (View(-10, -5, 120, 70), View(30, 20, 50, 30), View(30, 20, 50, 30, True)):
            total = np.zeros((3, 60, 100), np.float32)
            view.add(view.cut(image, (0, 0, 0)).transpose(2, 0, 1).astype(np.float32), total)
            seen = total.any(0)
            assert np.array_equal(total[:, seen], image.transpose(2, 0, 1)[:, seen])

    def test_boxes_are_mirrored_moved_and_left_out_where_the_view_cuts_them(self):
        view = View(50, 0, 50, 60, mirrored=True)
        found = view.boxes(
            detections((0, 10, 10, 20, 0.9, 'car'), (30, 10, 50, 20, 0.8, 'car')), 100, 60
        )
        assert found.boxes.tolist() == [[90, 10, 100, 20]], 'the other lies on the inner border'


class TestBoxes:
    def test_views_are_averaged_over_those_that_could_see_the_object(self):
        whole, part = View(0, 0, 100, 60), View(50, 0, 50, 60)
        found = averaged(
            [
                (whole, detections((60, 10, 70, 20, 0.8, 'car'), (10, 10, 20, 20, 0.6, 'car'))),
                (part, detections((62, 10, 72, 20, 0.4, 'car'))),
            ],
            100, 60,
        )  # fmt: skip
        assert found.scores.tolist() == pytest.approx([0.6, 0.6])
        assert sorted(found.boxes[:, 0].tolist()) == pytest.approx([10, 60 + 2 / 3])

    def test_teachers_are_counted_once_an_object(self):
        objects = fused([
            detections((0, 0, 10, 10, 0.9, 'car'), (0, 0, 10, 9, 0.5, 'car')),
            detections((0, 0, 10, 10, 0.7, 'car')),
        ])  # fmt: skip
        assert objects.sources == ((0, 1), (0,))

    def test_thresholds_by_class_and_agreement(self):
        found = [
            detections(
                (0, 0, 9, 9, 0.6, 'car'), (20, 0, 29, 9, 0.6, 'bus'), (40, 0, 49, 9, 0.2, 'car')
            ),
            detections((0, 0, 9, 9, 0.6, 'car')),
        ]
        labels = box_labels(found, DETECTION, Rule(sure=0.5, classes={'bus': 0.7}))
        assert [(b['category'], b['attributes']['crowd']) for b in labels] == [
            ('car', False), ('bus', True),
        ]  # fmt: skip
        agreed = box_labels(found, DETECTION, Rule(sure=0.5, agree=2))
        assert [b['attributes']['crowd'] for b in agreed] == [False, True]

    def test_soft_boxes_are_labels_whatever_their_score(self):
        found = [detections((0, 0, 9, 9, 0.3, 'car'), (20, 0, 29, 9, 0.2, 'bus'))]
        (label,) = box_labels(found, DETECTION, Rule(soft=True))
        assert label['attributes'] == {'crowd': False, 'classUnsure': False, 'soft': True}
        (hard,) = box_labels(found, DETECTION, Rule())
        assert hard['attributes'] == {'crowd': True, 'classUnsure': False, 'soft': False}

    def test_two_classes_on_one_thing_are_one_box_of_unsure_class(self):
        both = [detections((0, 0, 10, 10, 0.9, 'car'), (0, 0, 10, 10, 0.8, 'truck'))]
        (label,) = box_labels(both, DETECTION, Rule())
        assert label['category'] == 'car' and label['attributes']['classUnsure']
        rider = [detections((0, 0, 10, 10, 0.9, 'rider'), (0, 1, 10, 10, 0.8, 'motorcycle'))]
        assert len(box_labels(rider, DETECTION, Rule())) == 2


class TestMasks:
    def test_sure_pixels_are_labelled_and_sets_where_only_the_set_is_sure(self):
        known = probabilities(
            {'road': 0.9, 'sidewalk': 0.1},
            {'car': 0.5, 'truck': 0.45},
            {'road': 0.5, 'sky': 0.5},
            {},
        )
        mask = mask_label([known], SEMANTIC, Rule(sure=0.8))
        vehicles = len(SEMANTIC.classes) + 3
        assert mask.tolist() == [[0, vehicles, 255, 255]]

    def test_two_teachers_must_agree(self):
        one = probabilities({'road': 0.9}, {'road': 0.9}, {'car': 1.0})
        other = probabilities({'road': 0.9}, {'sidewalk': 1.0}, {'truck': 1.0})
        mask = mask_label([one, other], SEMANTIC, Rule(sure=0.4, agree=2))
        vehicles = len(SEMANTIC.classes) + 3
        assert mask.tolist() == [[0, 255, vehicles]]

    def test_coarse_labels_of_people_check_the_fine_class(self):
        vehicles, living = len(SEMANTIC.classes) + 3, len(SEMANTIC.classes) + 2
        known = probabilities({'car': 0.5, 'truck': 0.05, 'sky': 0.4}, {'car': 0.9}, {'car': 0.9})
        human = np.array([[vehicles, living, 255]], np.uint8)
        mask = mask_label([known], SEMANTIC, Rule(sure=0.8), human)
        assert mask.tolist() == [[13, 255, 255]]

    def test_soft_labels_keep_every_pixel_with_its_confidence(self):
        known = probabilities({'road': 0.6, 'sky': 0.4}, {'car': 1.0}, {})
        label = mask_label([known], SEMANTIC, Rule(soft=True))
        assert label.mask.tolist() == [[0, 13, 255]]
        assert label.confidence.tolist() == [[153, 255, 0]]

    def test_attributes(self):
        sure = np.array([0, 0, 0.95, 0.05, 0, 0], np.float32)
        assert attribute_label([sure], WEATHER, Rule()) == ('clear', 0.95)
        assert attribute_label([sure, sure[::-1]], WEATHER, Rule(sure=0.4, agree=2)) is None


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Images whose weather, lanes and half of whose boxes nobody labelled, and a teacher."""
    write_tiny_bundle(tmp_path / 'teacher')
    root = write_block_data(tmp_path / 'data', images=4, split='train')
    boxes = root / 'labels/det_20/det_train.json'
    frames = json.loads(boxes.read_text())
    put_json(boxes, [{**frame, 'attributes': {}} for frame in frames[:2]])
    for path in sorted((root / 'labels/sem_seg/masks/train').iterdir())[2:]:
        path.unlink()
    (tmp_path / 'data.yaml').write_text(
        f'name: x\noutput: x\ntasks: [detection, drivable, semantic, weather]\n'
        f'data: [{{name: block, root: "{root}"}}]\n'
    )
    write_config(tmp_path, {'name': 'tiny', 'path': str(tmp_path / 'teacher')})
    return tmp_path


def write_config(folder: Path, *teachers: dict) -> None:
    """The tiny network is sure of little: its logits are colours of 0 to 1."""
    rules = {'semantic': 0.05, 'drivable': 0.3, 'weather': 0.3, 'timeofday': 0.3, 'detection': 0.3}
    taught = {task for teacher in teachers for task in teacher.get('tasks', rules)}
    config = {
        'config': str(folder / 'data.yaml'),
        'output': str(folder / 'out'),
        'teachers': teachers,
        'rules': {task: {'sure': sure} for task, sure in rules.items() if task in taught},
    }
    (folder / 'teach.yaml').write_text(json.dumps(config))


def run(place: Path, *overrides: str) -> int:
    return teach.main([str(place / 'teach.yaml'), *overrides])


def test_a_model_labels_what_people_left_out_and_training_reads_it(place, capsys):
    assert run(place) == 0
    out = place / 'out/block'
    assert f'detection: {out}/detection' in capsys.readouterr().out
    report = json.loads((place / 'out/teach.json').read_text())
    written = report['sources']['block']['written']
    assert {task: w['images'] for task, w in written.items()} == {
        'detection': 2, 'drivable': 0, 'semantic': 2, 'weather': 4, 'timeofday': 4,
    }  # fmt: skip
    agreement = report['sources']['block']['agreement_with_people']
    assert 0.5 < agreement['drivable']['direct']['precision'] <= 1
    assert agreement['detection']['car']['said'] > 0
    teachers = {task: str(out / task) for task in ('detection', 'semantic', 'weather')}
    layout = Layout(LayoutConfig('block', str(place / 'data'), teachers=teachers), 'train')
    taught = layout.load(2)
    assert {'detection', 'semantic', 'weather'} <= {*taught.boxes, *taught.masks, *taught.classes}
    assert len(taught.boxes['detection'].labels)
    assert (taught.masks['semantic'] < 3).any()


def test_flips_and_scales_are_averaged(place):
    assert run(place, 'scales=[1.0,2.0]', 'flip=true') == 0
    frames = json.loads((place / 'out/block/detection/det_train.json').read_text())
    assert {label['category'] for f in frames for label in f['labels']} <= {
        'pedestrian',
        'rider',
        'car',
    }


def test_label_files_are_teachers_too(place):
    frames = [
        {'name': f'block_{i:03d}.jpg', 'labels': [
            {'category': 'bus', 'score': 0.9, 'box2d': {'x1': 1, 'y1': 1, 'x2': 30, 'y2': 30}},
        ]} for i in range(4)
    ]  # fmt: skip
    put_json(place / 'data/labels/other/det_train.json', frames)
    labels = {'name': 'other', 'path': '{root}/labels/other', 'tasks': ['detection']}
    write_config(place, labels)
    assert run(place) == 0
    written = json.loads((place / 'out/block/detection/det_train.json').read_text())
    assert [f['name'] for f in written] == ['block_002.jpg', 'block_003.jpg']
    assert written[0]['labels'][0]['category'] == 'bus'
    write_config(place, labels, {'name': 'tiny', 'path': str(place / 'teacher')})
    assert run(place, 'rules.detection.agree=2', 'rules.detection.sure=0.3') == 1, (
        'they never agree'
    )


def wrong_size(place: Path) -> dict:
    folder = place / 'labels'
    for i in range(4):
        put(folder / f'masks/train/block_{i:03d}.png', np.zeros((9, 9), np.uint8))
    return {'path': str(folder), 'tasks': ['semantic']}


def wrong_class(place: Path) -> dict:
    box = {'category': 'ufo', 'box2d': {'x1': 1, 'y1': 1, 'x2': 9, 'y2': 9}}
    frames = [{'name': f'block_{i:03d}.jpg', 'labels': [box]} for i in range(4)]
    put_json(place / 'labels/det_train.json', frames)
    return {'path': str(place / 'labels'), 'tasks': ['detection']}


def wrong_place(place: Path) -> dict:
    box = {'category': 'car', 'box2d': {'x1': 1, 'y1': 1, 'x2': 999, 'y2': 9}}
    frames = [{'name': f'block_{i:03d}.jpg', 'labels': [box]} for i in range(4)]
    put_json(place / 'labels/det_train.json', frames)
    return {'path': str(place / 'labels'), 'tasks': ['detection']}


def strange_ids(place: Path) -> dict:
    for i in range(4):
        put(place / f'labels/masks/train/block_{i:03d}.png', np.full((HEIGHT, WIDTH), 77, np.uint8))
    return {'path': str(place / 'labels'), 'tasks': ['semantic']}


FAULTS = {
    'size': (wrong_size, (), 'block_000.png is (9, 9), its image is (64, 96)'),
    'class': (wrong_class, (), "class 'ufo', expected one of ['pedestrian'"),
    'outside': (wrong_place, (), 'its image is 96x64'),
    'ids': (strange_ids, (), 'has ids [77], expected 0 to 27'),
    'no task': (lambda p: {'path': str(p / 'teacher'), 'tasks': ['lanes']}, (), "no task 'lanes'"),
    'tasks of labels': (lambda p: {'path': str(p)}, (), 'labels in'),
    'no model': (lambda p: {'path': str(p / 'gone')}, (), 'no model'),
    'nothing sure': (None, ('rules.semantic.sure=1.0',), 'sure of nothing for the task'),
    'agree': (None, ('rules.semantic.agree=2',), 'agree 2, but 1 of the teachers'),
    'rule': (None, ('rules.semantic.classes.rood=0.5',), "unknown ['rood']"),
    'task of a rule': (None, ('rules.rood.sure=0.5',), "unknown task 'rood'"),
    'range': (None, ('rules.semantic.sure=2',), 'expected probabilities'),
    'scales': (None, ('scales=[]',), 'scales: expected values above 0'),
    'source': (None, ('sources=[camvid]',), "unknown ['camvid']"),
    'key': (None, ('teachrs=1',), 'teachrs'),
}  # fmt: skip


@pytest.mark.parametrize('fault', list(FAULTS))
def test_what_does_not_fit_is_one_sentence(place, fault, capsys):
    teacher, overrides, message = FAULTS[fault]
    if teacher:
        write_config(place, {'name': 'it', **teacher(place)})
    assert run(place, *overrides) == 1
    printed = capsys.readouterr().err
    assert printed.startswith('error: ') and message in printed


def test_classes_of_another_order_are_refused(place, capsys):
    manifest = place / 'teacher/manifest.yaml'
    manifest.write_text(manifest.read_text().replace('direct', 'own lane'))
    assert run(place) == 1
    assert "['own lane', 'alternative', 'background'] for 'drivable'" in capsys.readouterr().err


def test_a_coarse_mask_is_refined_on_reading(tmp_path):
    root = write_block_data(tmp_path / 'data', images=1, split='train')
    coarse = np.full((HEIGHT, WIDTH), 3, np.uint8)
    coarse[:, :8] = 255
    put(root / 'labels/coarse7/masks/train/block_000.png', coarse)
    fine = np.full((HEIGHT, WIDTH), 13, np.uint8)
    fine[:8], fine[8:16] = 0, 255
    put(root / 'labels/fine/masks/train/block_000.png', fine)
    config = LayoutConfig(
        'x', str(root), semantic_masks='coarse7', teachers={'semantic': 'fine'}
    )  # fmt: skip
    mask = Layout(config, 'train').load(0).masks['semantic']
    vehicles = len(SEMANTIC.classes) + 3
    assert mask[[0, 8, 16], 8].tolist() == [vehicles, vehicles, 13]
    assert (mask[:, :8] == 255).all(), 'what people left open stays open'


def test_soft_labels_count_in_proportion_to_their_confidence(place):
    assert run(place, 'rules.semantic.soft=true') == 0
    folder = place / 'out/block/semantic'
    confidence = folder / 'confidence/train/block_002.png'
    assert confidence.is_file() and (folder / 'masks/train/block_002.png').is_file()
    put(confidence, np.repeat(np.array([[0, 64, 255]], np.uint8), HEIGHT, 0).repeat(WIDTH // 3, 1))
    config = LayoutConfig('block', str(place / 'data'), teachers={'semantic': str(folder)})
    layout = Layout(config, 'train')
    mask = layout.load(2).masks['semantic']
    kept = [(part != 255).mean() for part in np.split(mask, 3, axis=1)]
    assert kept[0] == 0 and kept[1] == pytest.approx(0.25, abs=0.05) and kept[2] == 1
    assert np.array_equal(layout.load(2).masks['semantic'], mask)
    put(confidence, np.zeros((9, 9), np.uint8))
    with pytest.raises(DatasetError, match=r'block_002.png: .9, 9., its mask is .64, 96.'):
        layout.load(2)
