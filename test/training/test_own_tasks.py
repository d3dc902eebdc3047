# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""A task of a known kind is one entry of a configuration, whatever its name and classes."""

import json

import numpy as np
import pytest
import yaml
from tiny_data import picture, put, put_json
from tiny_training import CONFIG, SMALL

pytest.importorskip('torch', reason='training extras are not installed')

from mtl_perception.frame import Frame
from mtl_perception.pipeline import Pipeline
from mtl_perception.tasks import ALL_TASKS
from training.add_task import main as add_task
from training.config import ConfigError, load_config, save_config
from training.data import check, preview
from training.data.layout import Layout
from training.data.sample import DatasetError
from training.evaluate import main as evaluate
from training.export import export
from training.networks.build import build_network
from training.preflight import check_validation
from training.train import train

GAUGE = {
    'name': 'gauge', 'kind': 'segmentation', 'classes': ['dial', 'needle', 'rest'],
    'colours': [[1, 2, 3], [4, 5, 6], [7, 8, 9]],
}  # fmt: skip
FRUIT = {'name': 'fruit', 'kind': 'detection', 'classes': ['papaya', 'quince']}
SHIFT = {'name': 'shift', 'kind': 'classification', 'classes': ['early', 'late']}
RANGE = {'name': 'reach', 'kind': 'depth'}
TASKS = [FRUIT, GAUGE, SHIFT, RANGE]
CATEGORIES = {'Papaya fruit': 'papaya', 'leaf': None}


def labels() -> dict:
    """Three images of 96x64: a papaya, a leaf that is left out, a crowd of quinces."""
    shifts = ('early', 'late', 'undefined')
    images = [
        {
            'id': i, 'file_name': f'{i}.png', 'width': 96, 'height': 64,
            'attributes': {'shift': shifts[i]},
        }
        for i in range(3)
    ]  # fmt: skip
    rows = [(0, 0, [20, 10, 30, 30], 0), (0, 1, [1, 1, 5, 5], 0), (1, 2, [40, 20, 40, 30], 1)]
    return {
        'images': images,
        'categories': [
            {'id': i, 'name': name} for i, name in enumerate(('Papaya fruit', 'leaf', 'quince'))
        ],
        'annotations': [
            {'id': i, 'image_id': image, 'category_id': category, 'bbox': box, 'iscrowd': crowd}
            for i, (image, category, box, crowd) in enumerate(rows)
        ],
    }


def write(path, tasks, **coco):
    """A data set of the general door, and its configuration at `path`."""
    root = path.parent / 'orchard'
    mask = np.full((64, 96), 2, np.uint8)
    mask[20:40, 20:60], mask[30, 30:50] = 0, 1
    for split in ('train', 'val'):
        for i in range(3):
            put(root / f'images/{split}/{i}.png', picture(i + 9 * (split == 'val'), 96, 64))
        put(root / f'gauge/{split}/0.png', mask)
        put(root / f'reach/{split}/1.png', np.full((64, 96), 250, np.uint16))
        put_json(root / f'annotations/instances_{split}.json', labels())
    entries = {
        'task': 'fruit', 'categories': CATEGORIES, 'maps': {'reach': 'reach/{split}'},
        'masks': {'gauge': {'folder': 'gauge/{split}', 'ids': {0: 'dial', 1: 'needle', 2: 'rest'}}},
    } | coco  # fmt: skip
    path.write_text(
        yaml.safe_dump(
            {
                'base': str(CONFIG),
                'tasks': tasks,
                'loss_weights': {},
                'data': [{'name': 'orchard', 'root': str(root), 'kind': 'coco', 'coco': entries}],
            }
        )
    )
    return path


def options(output) -> list[str]:
    """Two steps of a tiny network."""
    return [
        f'output={output}', *SMALL, 'optimizer.steps=2',
        'augment={height: 64, width: 96, input_height: 64, input_width: 96, photometric: 0}',
        'precision=32-true', 'accelerator=cpu', 'workers=0', 'log_every=1', 'checkpoint_every=2',
        'validate_every=2',
    ]  # fmt: skip


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A run of all four own tasks, beside its configuration and its data."""
    folder = tmp_path_factory.mktemp('own')
    config = load_config(write(folder / 'own.yaml', TASKS), options(folder / 'run'))
    train(config)
    return folder


def test_labels_of_own_tasks_are_read(tmp_path):
    config = load_config(write(tmp_path / 'own.yaml', TASKS))
    fruit, gauge, shift, reach = config.task_table()
    assert gauge.colours == ((1, 2, 3), (4, 5, 6), (7, 8, 9)) and len(fruit.colours) == 2
    layout = Layout(config.data[0], 'train')
    first, second, third = (layout.load(i) for i in range(3))
    assert first.boxes['fruit'].xyxy.tolist() == [[20, 10, 50, 40]]
    assert second.boxes['fruit'].labels.tolist() == [1] and second.boxes['fruit'].ignored.all()
    assert [sample.classes for sample in (first, second, third)] == [{'shift': 0}, {'shift': 1}, {}]
    assert set(np.unique(first.masks['gauge'])) == {0, 1, 2}
    assert second.maps['reach'].max() == 2.5 and reach.kind == 'depth' and shift.classes


def test_an_own_configuration_is_saved_as_it_is_read(tmp_path):
    config = load_config(write(tmp_path / 'own.yaml', TASKS))
    save_config(config, tmp_path / 'saved.yaml')
    saved = yaml.safe_load((tmp_path / 'saved.yaml').read_text())
    assert saved['tasks'] == ['fruit', 'gauge', 'shift', 'reach']
    assert 'definitions' not in saved['data'][0]
    assert load_config(tmp_path / 'saved.yaml') == config
    fewer = load_config(tmp_path / 'saved.yaml', ['tasks=[gauge]'])
    assert [task.name for task in fewer.task_table()] == ['gauge']


def test_own_tasks_train_export_answer_and_are_scored(trained, capsys):
    assert (trained / 'run' / 'best').is_dir()
    bundle = export(trained / 'run', trained / 'orchard_net', program=False)
    assert [task.name for task in bundle.manifest.tasks] == ['fruit', 'gauge', 'shift', 'reach']
    assert bundle.manifest.task('gauge').classes == ('dial', 'needle', 'rest')
    pipeline = Pipeline.open(bundle.path, 'onnxruntime', 'cpu', 'fp32', build=True)
    result = pipeline(Frame(picture(1, 96, 64)))
    assert result.masks['gauge'].shape == (64, 96) and result.masks['gauge'].max() < 3
    assert result.probabilities['shift'].shape == (2,) and result.maps['reach'].min() > 0
    assert result.detections['fruit'].boxes.shape[1] == 4
    output = trained / 'scored'
    command = [str(bundle.path), '--output', str(output), '--latency', '0']
    assert evaluate(command) == 0
    found = json.loads((output / 'evaluation.json').read_text())['results']['orchard']
    assert {name: found[name]['frames'] for name in ('fruit', 'gauge', 'shift', 'reach')} == {
        'fruit': 3, 'gauge': 1, 'shift': 2, 'reach': 1,
    }  # fmt: skip
    printed = capsys.readouterr().out
    for figure in ('gauge/miou', 'shift/accuracy', 'reach/delta1', 'fruit/AP50'):
        assert f'orchard/{figure}' in printed
    assert 'gauge' in (output / 'report.html').read_text()


def test_an_own_task_is_added_to_a_model(trained, tmp_path):
    extra = {'name': 'ripeness', 'kind': 'classification', 'classes': ['early', 'late']}
    path = write(tmp_path / 'more.yaml', [extra, GAUGE, FRUIT, RANGE])
    for split in ('train', 'val'):
        file = tmp_path / f'orchard/annotations/instances_{split}.json'
        file.write_text(file.read_text().replace('shift', 'ripeness'))
    command = [
        str(trained / 'run'), str(path), *options('ignored'), '--task', 'ripeness', '--views', '1',
        '--output', str(tmp_path / 'added'), '--cache', str(tmp_path / 'cache'),
        '--bundle', str(tmp_path / 'net'),
    ]  # fmt: skip
    assert add_task(command) == 0
    names = [task.name for task in load_config(tmp_path / 'added/config.yaml').task_table()]
    assert names == ['fruit', 'gauge', 'shift', 'reach', 'ripeness']


def test_check_and_preview_know_own_tasks(tmp_path, capsys):
    path = write(tmp_path / 'own.yaml', TASKS)
    assert check.main(['--config', str(path), '--workers', '1']) == 0
    printed = capsys.readouterr().out
    assert (
        'papaya' in printed and 'needle' in printed and 'early' in printed and '0 broken' in printed
    )
    small = ['augment.height=64', 'augment.width=96', '--count', '2']
    assert preview.main([str(path), *small, '--output', str(tmp_path / 'sheet.png')]) == 0


def test_own_tasks_can_be_the_best_by(tmp_path):
    path = write(tmp_path / 'own.yaml', TASKS)
    config = load_config(path, [*options(tmp_path / 'run'), 'best_by=["*/gauge/miou"]'])
    check_validation(config)


def test_two_detection_tasks_of_ones_own_fit_into_one_network(tmp_path):
    other = FRUIT | {'name': 'tool', 'classes': ['rake']}
    config = load_config(write(tmp_path / 'own.yaml', [FRUIT, other, 'detection']))
    network = build_network(config.network, config.task_table(), initialise=False)
    names = [name for head in network.heads.values() for name in head.deployed_names()]
    assert len(set(names)) == 9 and {'boxes', 'fruit_boxes', 'tool_boxes'} < set(names)


@pytest.mark.parametrize(
    ('tasks', 'message'),
    [
        ([GAUGE | {'name': 'drivable'}], "'drivable' is known already, of kind segmentation"),
        ([GAUGE | {'kind': 'smell'}], "kind 'smell' is not one of"),
        ([GAUGE | {'name': 'tracks'}], 'none of'),
        ([GAUGE | {'name': 'coarse7'}], 'none of'),
        ([GAUGE | {'name': 'keys'}], 'no method of'),
        ([GAUGE | {'name': '1st'}], 'a letter first'),
        ([GAUGE | {'clases': []}], 'clases'),
        ([{'name': 'gauge'}], 'has no kind'),
        ([{'kind': 'depth'}], 'expected a name'),
        ([{'name': 'gauge', 'kind': 'segmentation'}], 'needs class names'),
        ([GAUGE | {'colours': [[1, 2]]}], 'colour'),
        ([GAUGE, GAUGE | {'classes': ['a'], 'colours': []}], 'defined twice'),
        ([GAUGE, GAUGE], 'each name once'),
        (['gauges'], "unknown ['gauges']"),
        (['detection', 'coco_detection'], ''),
    ],
)
def test_a_task_that_cannot_be_is_one_clear_error(tmp_path, tasks, message):
    path = write(tmp_path / 'own.yaml', tasks)
    with pytest.raises(ConfigError) as error:
        config = load_config(path)
        build_network(config.network, config.task_table(), initialise=False)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ('coco', 'message'),
    [
        ({'task': 'gauge'}, "'gauge' is not a detection task, expected one of"),
        ({'categories': {}}, "['Papaya fruit', 'leaf'] are neither classes of fruit nor"),
        ({'categories': CATEGORIES | {'leaf': 'rake'}}, 'leaf: rake'),
        ({'maps': {'gauge': 'gauge/{split}'}}, "'gauge' is not a depth or normals task"),
        ({'masks': {'reach': {'folder': 'reach', 'ids': {}}}}, "'reach' is not a segmentation"),
    ],
)
def test_a_data_set_that_does_not_fit_its_tasks_is_one_clear_error(tmp_path, coco, message):
    config = load_config(write(tmp_path / 'own.yaml', TASKS, **coco))
    with pytest.raises(DatasetError) as error:
        Layout(config.data[0], 'train')
    assert message in str(error.value)


def test_an_attribute_that_is_no_class_is_one_clear_error(tmp_path):
    config = load_config(
        write(tmp_path / 'own.yaml', [SHIFT | {'classes': ['early']}, *TASKS[:2], RANGE])
    )
    with pytest.raises(DatasetError, match=r"1.png: shift is 'late', expected one of"):
        Layout(config.data[0], 'train')
    assert 'shift' not in ALL_TASKS
