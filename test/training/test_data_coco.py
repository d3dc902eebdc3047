# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The general door: the worked example of docs/data.md, and what it says about mistakes."""

import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from tiny_data import picture, put, put_json

pytest.importorskip('torch', reason='training extras are not installed')

from mtl_evaluation.truth.label_files import LabelError, scalabel_frames
from mtl_perception.tasks import DETECTION, DRIVABLE, SEMANTIC
from training.config import load_config
from training.data import check, preview
from training.data.layout import CocoConfig, Layout, LayoutConfig, MaskConfig
from training.data.sample import DatasetError
from training.evaluate import main as evaluate
from training.initial_weights import start_from
from training.networks.build import build_network
from training.preflight import check_sizes
from training.train import train

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / 'docs' / 'data.md'
CATEGORIES = ['Car', 'Pedestrian', 'DontCare', 'Misc', 'bicycle']


def coco_file(**changes) -> dict:
    """Two images; the first has a car, a crowd, a region that is not scored and a strange thing."""
    boxes = [(0, 10, 5, 20, 12, 0), (1, 30, 5, 10, 20, 1), (2, 0, 0, 9, 9, 0), (3, 1, 1, 5, 5, 0)]
    annotations = [
        {'id': i, 'image_id': 1, 'category_id': category, 'bbox': box, 'iscrowd': crowd}
        for i, (category, *box, crowd) in enumerate(boxes)
    ]
    images = [
        {'id': i, 'file_name': f'drive1/00000{i}.png', 'width': 64, 'height': 48} for i in (1, 2)
    ]
    images[0]['attributes'] = {'weather': 'foggy'}
    categories = [{'id': i, 'name': name} for i, name in enumerate(CATEGORIES)]
    return {'images': images, 'categories': categories, 'annotations': annotations} | changes


@pytest.fixture
def example(tmp_path):
    """The folder tree and the YAML of the guide, written to disk."""
    text = GUIDE.read_text('utf-8')
    block = next(b for b in re.findall(r'```yaml\n(.*?)```', text, re.S) if 'kind: coco' in b)
    data = yaml.safe_load(block)['data']
    for named in ('frames/train/drive1/000001.png', 'boxes/train.json', 'masks/train/drive1',
                  'road/train/drive1/000001.png'):  # fmt: skip
        assert named in text.replace('\n', ' ')
    root = tmp_path / 'my_camera'
    data[0]['root'] = str(root)
    semantic = np.zeros((48, 64), np.uint8)
    semantic[10:], semantic[20:], semantic[30:] = 21, 8, 7
    road = (semantic == 7).astype(np.uint8)
    for split in ('train', 'val'):
        for number, name in enumerate(('000001', '000002', '000003')):
            seed = number + 10 * (split == 'val')
            put(root / f'frames/{split}/drive1/{name}.png', picture(seed))
        put(root / f'masks/{split}/drive1/000001_ids.png', semantic)
        put(root / f'road/{split}/drive1/000001.png', road)
        put_json(root / f'boxes/{split}.json', coco_file())
    demo = yaml.safe_load((ROOT / 'training/configs/demo.yaml').read_text())
    config = {key: demo[key] for key in ('name', 'output')}
    config['tasks'] = ['detection', 'drivable', 'semantic', 'weather']
    path = tmp_path / 'my.yaml'
    path.write_text(yaml.safe_dump({**config, 'data': data}))
    return path


def test_the_worked_example_reads_as_it_says(example):
    layout = Layout(load_config(example).data[0], 'train')
    assert layout.names == [f'drive1/00000{i}.png' for i in (1, 2, 3)]
    first, second, third = (layout.load(i) for i in range(3))
    boxes = first.boxes['detection']
    found = [
        (DETECTION.classes[label], box, ignored)
        for label, box, ignored in zip(
            boxes.labels, boxes.xyxy.tolist(), boxes.ignored, strict=True
        )
    ]
    assert found == [
        ('car', [10, 5, 30, 17], False),
        ('pedestrian', [30, 5, 40, 25], True),
        ('car', [0, 0, 9, 9], True),
    ]
    names = [
        'unlabelled' if v == 255 else SEMANTIC.classes[v] for v in first.masks['semantic'][:, 0]
    ]
    assert [names[row] for row in (0, 15, 25, 40)] == [
        'unlabelled', 'vegetation', 'sidewalk', 'road',
    ]  # fmt: skip
    assert first.masks['drivable'][40, 0] == len(DRIVABLE.classes)  # direct or alternative
    assert first.masks['drivable'][0, 0] == DRIVABLE.classes.index('background')
    assert first.classes == {'weather': 5}
    assert len(second.boxes['detection'].labels) == 0 and not second.masks
    assert not third.boxes and not third.masks and not third.classes


def test_the_worked_example_passes_check_and_preview(example, tmp_path, capsys):
    assert check.main(['--config', str(example), '--workers', '1']) == 0
    printed = capsys.readouterr().out
    assert 'my_camera' in printed and '0 broken' in printed
    assert 'image without label: 2' in printed
    output = tmp_path / 'sheet.png'
    small = ['augment.height=48', 'augment.width=64', '--count', '3', '--columns', '2']
    for split in ('train', 'val'):
        command = [str(example), *small, '--split', split, '--output', str(output)]
        assert preview.main(command) == 0
        sheet = cv2.imread(str(output))
        assert sheet.shape[0] > 2 * 48 and sheet.shape[1] > 2 * 3 * 64
        output.unlink()


def config_of(path: Path, **changes) -> LayoutConfig:
    source = load_config(path).data[0]
    return LayoutConfig('c', source.root, 'coco', coco=CocoConfig(**vars(source.coco) | changes))


def test_a_category_that_is_not_told_is_an_error(example):
    with pytest.raises(DatasetError, match=r"'Car', 'DontCare'.*add e\.g\. `Car: car`"):
        Layout(config_of(example, categories={'Pedestrian': 'pedestrian', 'Misc': None}), 'train')
    with pytest.raises(DatasetError, match=r"'Car: cra'.*expected some of"):
        Layout(config_of(example, categories={'Car': 'cra'}), 'train')


def test_mask_tables_are_checked(example):
    def masks(task='semantic', **changes):
        entry = {'folder': 'masks/{split}', 'ids': {7: 'road'}, 'suffix': '_ids.png'}
        return {'masks': {task: MaskConfig(**entry | changes)}}

    for wrong, message in (
        (masks(ids={7: 'raod'}), r"coco\.masks\.semantic\.ids\[7\].*no class \['raod'\]"),
        (masks(ids={7: ['road', 'sky']}), r"class set \['road', 'sky'\] is not one of"),
        (masks(ids={300: 'road'}), '300 is no value of an 8-bit mask'),
        (masks(other='nothing'), r"semantic\.other.*no class \['nothing'\]"),
        (masks(folder='mask/{split}'), 'no folder .*mask/train'),
        (masks(task='weather'), 'not a segmentation task'),
    ):
        with pytest.raises(DatasetError, match=message):
            Layout(config_of(example, **wrong), 'train')
    layout = Layout(config_of(example, **masks()), 'train')
    with pytest.raises(DatasetError, match=r'unknown ids \[0, 8, 21\], expected some of \[7\]'):
        layout.load(0)


def test_missing_label_file_and_masks_only(example):
    with pytest.raises(DatasetError, match=r'boxen/train\.json is not readable'):
        Layout(config_of(example, annotations='boxen/{split}.json'), 'train')
    assert not Layout(config_of(example, annotations=''), 'train').load(0).boxes
    told = Layout(config_of(example, boxes=False), 'train').load(0)
    assert not told.boxes and told.classes == {'weather': 5}
    with pytest.raises(DatasetError, match="kind 'kitti', expected one of"):
        Layout(LayoutConfig('c', '.', 'kitti'), 'train')


@pytest.mark.parametrize(
    ('broken', 'message'),
    [
        (coco_file(annotations=[{'image_id': 7, 'category_id': 0, 'bbox': [1, 1, 2, 2]}]), '7'),
        (coco_file(annotations=[{'image_id': 1, 'category_id': 0}]), 'bbox'),
        (coco_file(annotations=[{'image_id': 1, 'category_id': 0, 'bbox': [1, 2]}]), 'malformed'),
        ({'videos': []}, 'expected Scalabel frames'),
        ([{'labels': []}], 'expected Scalabel frames'),
        ({'name': 'a', 'frames': [{'objects': []}, {'objects': []}]}, 'one frame with `objects`'),
    ],
)
def test_malformed_label_files_are_named(tmp_path, broken, message):
    path = put_json(tmp_path / 'labels.json', broken)
    with pytest.raises(LabelError, match=rf'labels\.json.*{message}'):
        scalabel_frames(path)


def test_the_whole_configuration_for_own_data_reads_the_worked_example(
    example, monkeypatch, capsys
):
    """Its data, tasks, sizes and model: what `check --config` and the start of a training ask."""
    monkeypatch.setenv('MY_CAMERA', str(example.parent / 'my_camera'))
    path = ROOT / 'training/configs/own_data.yaml'
    config = load_config(path)
    assert config.data[0].coco == load_config(example).data[0].coco
    assert check.main(['--config', str(path), '--workers', '1']) == 0
    check_sizes(config)
    assert start_from(build_network(config.network, config.task_table()), config.network) == [
        f'head {task}: taken over' for task in config.tasks
    ]


def test_own_categories_are_trained_and_evaluated_on_the_split_of_the_run(
    example, tmp_path, capsys
):
    """`evaluate RUN` scores the split that the run was validated on, boxes and masks alike."""
    root = example.parent / 'my_camera'
    for folder in ('frames', 'masks', 'road'):
        (root / folder / 'val').rename(root / folder / 'night')
    (root / 'boxes/val.json').rename(root / 'boxes/night.json')
    network = 'network={trunk: resnet10t, neck_channels: 16}'
    small = 'augment={height: 64, width: 96, input_height: 64, input_width: 96}'
    steps = 'optimizer={steps: 1, batch_size: 2, warmup_steps: 1}'
    run = tmp_path / 'run'
    config = load_config(
        example,
        [network, small, steps, f'output={run}', 'accelerator=cpu', 'precision=32-true',
         'workers=0', 'validate_every=1', 'validate_split=night'],
    )  # fmt: skip
    train(config)
    found = tmp_path / 'found.json'
    command = [str(run), '--latency', '0', '--json', str(found)]
    assert evaluate([*command, '--output', str(tmp_path / 'evaluation')]) == 0
    record = json.loads(found.read_text())
    assert record['split'] == 'night' and record['results']['my_camera']['images'] == 3
    assert {'detection', 'drivable', 'semantic', 'weather'} <= set(record['results']['my_camera'])
    assert (tmp_path / 'evaluation/report.html').is_file()

    for path in (root / 'road/night', root / 'masks/night'):
        shutil.rmtree(path)
        path.mkdir()
    (root / 'boxes/night.json').write_text(json.dumps(coco_file(images=[], annotations=[])))
    capsys.readouterr()
    assert evaluate(command) == 1
    assert "nothing can be measured: the split 'night'" in capsys.readouterr().err
