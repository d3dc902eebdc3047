# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""`python -m training.evaluate`: what is measured, what is written, going on, bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from block_data import write_block_data

torch = pytest.importorskip('torch', reason='training extras are not installed')

from timm.layers import set_fused_attn, use_fused_attn  # noqa: E402

from mtl_evaluation.bags.sources import ImageFolder, write_drive  # noqa: E402
from mtl_evaluation.metrics.segmentation import SegmentationMetric  # noqa: E402
from mtl_evaluation.runs.run import Run  # noqa: E402
from mtl_perception.cli import main as cli_main  # noqa: E402
from mtl_perception.frame import Detections, Result  # noqa: E402
from mtl_perception.tasks import DRIVABLE, SEMANTIC  # noqa: E402
from training import evaluate  # noqa: E402
from training.checkpoint import save_best, save_checkpoint  # noqa: E402
from training.config import load_config, save_config  # noqa: E402
from training.data.sample import Boxes, Sample  # noqa: E402
from training.evaluation import scoring  # noqa: E402
from training.evaluation.official import BOXES  # noqa: E402
from training.evaluation.results import headline  # noqa: E402
from training.evaluation.scoring import COARSE, pieces, scored_tasks  # noqa: E402
from training.evaluation.yolop import YolopStyle, average_precision  # noqa: E402
from training.networks.build import build_network  # noqa: E402
from training.networks.cost import network_cost  # noqa: E402

SHARED = Path(__file__).parents[3] / 'shared' / 'data' / 'driving_mini'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_block_data(tmp_path_factory.mktemp('blocks'))


@pytest.fixture(scope='module')
def config(data, tmp_path_factory):
    """A configuration file with the block data, once as it is and once as a rough source."""
    path = tmp_path_factory.mktemp('config') / 'config.yaml'
    path.write_text(
        'name: blocks\noutput: unused\ntasks: [detection, drivable, semantic, weather, timeofday]\n'
        'augment: {input_height: 64, input_width: 96}\n'
        f'data:\n- {{name: fine, root: "{data}"}}\n'
        f'- {{name: rough, root: "{data}", drivable_split: false, pattern: "block_00[0-2]*"}}\n'
    )
    return path


def run_evaluate(*arguments):
    return evaluate.main([str(argument) for argument in arguments])


@pytest.fixture(scope='module')
def evaluation(tiny_bundle, config, tmp_path_factory):
    output = tmp_path_factory.mktemp('evaluation') / 'run'
    arguments = [tiny_bundle, '--config', config, '--engine', 'onnxruntime', '--latency', '2']
    assert run_evaluate(*arguments, '--output', output, '--official') == 0
    return output


def record_of(output):
    return json.loads((output / 'evaluation.json').read_text())


def test_figures_are_those_of_replay_on_the_same_frames(evaluation, tiny_bundle, data, tmp_path):
    write_drive(ImageFolder(data / 'images' / '100k' / 'val'), tmp_path / 'bag', lambda done: None)

    code = cli_main(
        ['replay', str(tmp_path / 'bag'), '--model', str(tiny_bundle), '--engine', 'onnxruntime',
         '--build', '--output', str(tmp_path / 'run')]
    )  # fmt: skip

    assert code == 0
    replayed = Run.open(tmp_path / 'run').summary['accuracy']
    fine = record_of(evaluation)['results']['fine']
    for task in ('detection', 'drivable', 'semantic', 'weather', 'timeofday'):
        assert flat(fine[task]) == pytest.approx(flat(replayed[task]), abs=1e-9), task
    assert 0.1 < fine['detection']['AP50'] < 0.95
    assert 0.1 < fine['semantic']['miou'] < 0.95


def flat(values, prefix=''):
    """Numbers of nested results by path."""
    found = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f'{prefix}{key}/')
        elif isinstance(value, float | int):
            found[f'{prefix}{key}'] = value
    return found


def test_it_is_a_run_with_a_source_for_a_bag(evaluation):
    run = Run.open(evaluation)
    records = list(run.records())

    assert run.summary['complete']
    assert [record.bag for record in records] == ['fine'] * 6 + ['rough'] * 3
    assert records[0].name == 'block_000.jpg' and records[0].size == (96, 64)
    assert {record.slices.get('weather') for record in records} == {'clear', 'rainy'}
    assert set(records[0].pieces) >= {'detection', 'drivable', 'coarse7', 'two_class_drivable'}
    assert 'drivable' not in records[-1].pieces
    gaps = {b.stamp_ns - a.stamp_ns for a, b in zip(records, records[1:6], strict=False)}
    assert min(gaps) > 1_000_000_000  # nobody takes images of a data set for neighbours in time


def test_two_evaluations_are_compared_as_runs_are(evaluation, tmp_path, capsys):
    arguments = [str(evaluation), str(evaluation), '--samples', '100', '--output', str(tmp_path)]

    assert cli_main(['compare', *arguments]) == 0

    compared = json.loads((tmp_path / 'compare.json').read_text())
    assert 'two_class_drivable' in json.dumps(compared)
    assert '9 frames of 2 bags in both runs' in ' '.join(capsys.readouterr().out.split())


def test_a_source_without_a_drivable_split_has_the_two_class_figure_only(evaluation):
    results = record_of(evaluation)['results']

    assert set(results['rough']['drivable']) == {'frames', 'labelled_pixels', 'two_class_miou'}
    assert {'miou', 'official_miou', 'two_class_miou'} <= set(results['fine']['drivable'])
    assert 'two_class_drivable' not in results['fine'] and 'coarse7' in results['fine']
    values = headline(results)
    assert 'rough/drivable/two_class_miou' in values and 'rough/drivable/miou' not in values
    assert {'fine/drivable/miou', 'fine/detection/AP50', 'fine/weather/accuracy'} <= set(values)


def test_json_says_what_was_evaluated_how_and_what_it_costs(evaluation, capsys):
    record = record_of(evaluation)

    assert record['command'].startswith('python -m training.evaluate ')
    assert record['split'] == 'val' and record['engine'] == 'onnxruntime'
    assert record['bundle'] == 'tiny' and len(record['bundle_hash']) == 64
    assert record['environment']['packages']['torch']
    assert record['cost'] is None  # the hand-made bundle has no network of ours
    latency = record['latency']
    assert latency['frames'] == 2 and latency['source'] == [96, 64]
    assert latency['pipelines']['evaluated']['stages_ms']['total']['median'] > 0
    assert 'not' in latency['note']


def test_report_shows_curves_confusion_and_the_worst_frames(evaluation):
    page = (evaluation / 'report.html').read_text()

    for words in ('recall', 'Confusion', 'Worst', 'block_00', 'coarse7'):
        assert words.lower() in page.lower(), words
    assert 'http://' not in page.replace('http://www.w3.org', '')
    assert 'data:image/' in page


def test_predictions_in_official_forms(evaluation, data):
    folder = evaluation / 'official' / 'fine'
    frames = json.loads((folder / BOXES).read_text())

    assert [frame['name'] for frame in frames] == [f'block_{i:03d}.jpg' for i in range(6)]
    labels = [label for frame in frames for label in frame['labels']]
    assert set(labels[0]) == {'id', 'category', 'score', 'box2d'}
    assert len({label['id'] for label in labels}) == len(labels) > 10
    assert {label['category'] for label in labels} == {'pedestrian', 'rider', 'car'}
    for kind in ('drivable', 'sem_seg'):
        assert len(list((folder / kind).glob('block_*.png'))) == 6
    assert len(json.loads((evaluation / 'official/rough' / BOXES).read_text())) == 3


def test_an_interrupted_evaluation_goes_on(evaluation, tiny_bundle, config, tmp_path, monkeypatch):
    arguments = [tiny_bundle, '--config', config, '--engine', 'onnxruntime', '--latency', '0']
    arguments += ['--output', tmp_path / 'run']
    answered = []

    def stop(sample, *rest, real=scoring.pieces):
        answered.append(sample)
        if len(answered) == 5:
            raise KeyboardInterrupt
        return real(sample, *rest)

    monkeypatch.setattr(scoring, 'pieces', stop)
    monkeypatch.setattr(evaluate, 'write_report', lambda *_, **__: 'none')
    with pytest.raises(KeyboardInterrupt):
        run_evaluate(*arguments)
    assert not Run.open(tmp_path / 'run').summary['complete']

    assert run_evaluate(*arguments) == 0
    assert len(answered) == 5 + 5  # the other two of the first source, three of the second
    first, second = record_of(evaluation)['results'], record_of(tmp_path / 'run')['results']
    assert second == first
    assert run_evaluate(*arguments) == 0  # a whole one is not answered again
    assert len(answered) == 10


def test_a_run_of_something_else_is_not_gone_on_with(tiny_bundle, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, 'write_report', lambda *_, **__: 'none')
    arguments = ['--engine', 'onnxruntime', '--latency', '0', '--output', tmp_path / 'run']
    other = write_block_data(tmp_path / 'data', 2)
    config = tmp_path / 'config.yaml'
    config.write_text(
        f'name: b\noutput: u\ntasks: [semantic]\ndata: [{{name: fine, root: "{other}"}}]\n'
    )
    assert run_evaluate(tiny_bundle, '--config', config, *arguments) == 0
    write_block_data(tmp_path / 'data', 2, seed=1)  # the labels change

    assert run_evaluate(tiny_bundle, '--config', config, *arguments) == 1
    assert 'labels.fine' in capsys.readouterr().err
    assert run_evaluate(tiny_bundle, '--config', config, *arguments, '--fresh') == 0
    assert run_evaluate(tiny_bundle, '--config', config, *arguments, '--official') == 1
    assert '--official needs all images' in capsys.readouterr().err


@pytest.fixture(scope='module')
def training_run(config, tmp_path_factory):
    """A run folder with three different sets of weights, none of them trained."""
    folder = tmp_path_factory.mktemp('training')
    settings = load_config(config, ['tasks=[detection,semantic,weather]', f'output={folder}'])
    save_config(settings, folder / 'config.yaml')
    networks = []
    for seed in range(3):
        torch.manual_seed(seed)
        networks.append(build_network(settings.network, settings.task_table()))
    optimizer = torch.optim.SGD(networks[0].parameters(), lr=0.1)
    save_checkpoint(folder / 'checkpoint', networks[0], networks[1], optimizer, {'step': 8})
    save_best(folder / 'best', networks[2], {'step': 4})
    return folder


@pytest.mark.parametrize(
    ('given', 'file', 'step'),
    [
        ([], 'best/ema.safetensors', 4),
        (['--weights', 'last'], 'checkpoint/ema.safetensors', 8),
        (['--weights', 'raw'], 'checkpoint/network.safetensors', 8),
    ],
)
def test_a_training_run_is_evaluated_by_the_weights_asked_for(
    training_run, tmp_path, given, file, step
):
    found = tmp_path / 'metrics.json'
    arguments = [training_run, '--limit', 1, '--latency', '0', '--json', found, *given]

    assert run_evaluate(*arguments) == 0  # on the data of the run's own configuration

    record = json.loads(found.read_text())
    assert list(record['files']) == [file] and record['step'] == step
    assert record['engine'] == 'torch' and record['results']['fine']['images'] == 1
    parameters = record['cost']['parameters']
    assert parameters['all'] == sum(v for name, v in parameters.items() if name != 'all')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['no_such_model'], 'no_such_model'),
        (['{run}', '--engine', 'openvino'], 'training.export'),
        (['{run}', '--official'], '--output'),
        (['{run}', 'optimizer.lrr=1'], 'lrr'),
        (['{run}', '--split', 'test'], 'no images'),
        (['{run}', '--device', 'cuda:9'], 'cuda:9'),
        (['{bundle}'], '--config'),
        (['{bundle}', '--weights', 'last'], 'no training run'),
    ],
)
def test_bad_input_is_one_sentence(training_run, tiny_bundle, capsys, arguments, message):
    arguments = [text.format(run=training_run, bundle=tiny_bundle) for text in arguments]

    assert run_evaluate(*arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith('error: ') and message in error


def test_cost_is_split_by_part(training_run):
    settings = load_config(training_run / 'config.yaml')
    network = build_network(settings.network, settings.task_table())

    cost = network_cost(network, 64, 96)
    twice = network_cost(network, 128, 96)

    parts = {'trunk', 'neck', 'heads.detection', 'heads.semantic', 'heads.weather'}
    for figures in (cost['parameters'], cost['gflop']):
        assert set(figures) == {'all', *parts}
        assert figures['all'] == pytest.approx(sum(figures[part] for part in parts))
    assert cost['gmac'] == pytest.approx(cost['gflop']['all'] / 2)
    assert twice['gflop']['neck'] == pytest.approx(2 * cost['gflop']['neck'])
    first = network.trunk.state_dict()
    assert cost['parameters']['trunk'] <= sum(tensor.numel() for tensor in first.values())


@pytest.mark.parametrize('fused', [True, False])
def test_attention_is_counted_however_it_is_computed(training_run, fused):
    settings = load_config(training_run / 'config.yaml')
    before = use_fused_attn()
    set_fused_attn(fused)
    try:
        network = build_network(settings.network, settings.task_table())
    finally:
        set_fused_attn(bool(before))

    # pvt_v2_b0 at 64x96: convolutions and linear layers alone are 0.12923.
    assert network_cost(network, 64, 96)['gflop']['trunk'] == pytest.approx(0.13038, abs=1e-5)


def test_class_sets_are_scored_at_the_classes_that_they_tell_apart():
    """Pixels that are only known to be some vehicle are right for a car and for a truck alike."""
    rough = 19 + 3  # fourth set of the seven: vehicles
    truth = np.array([[rough, rough, 0, 255]], np.uint8)
    found = np.array([[13, 14, 1, 0]], np.uint8)
    sample = Sample('a', 's', np.zeros((1, 4, 3), np.uint8), masks={'semantic': truth})

    coarse = pieces('a', sample, Result({'semantic': found}), ())['coarse7']

    assert isinstance(coarse, SegmentationMetric)
    assert coarse.confusion[3, 3] == 2 and coarse.confusion[0, 1] == 1
    assert coarse.confusion.sum() == 3
    drivable = COARSE[DRIVABLE.name]
    assert drivable.table[[0, 1, 2, 3, 255]].tolist() == [0, 0, 1, 0, 255]
    assert [task.name for task in scored_tasks([SEMANTIC, DRIVABLE])] == [
        'semantic', 'drivable', 'coarse7', 'two_class_drivable',
    ]  # fmt: skip


def vehicles(boxes, labels, ignored=None):
    """Truth boxes of one image."""
    flags = np.zeros(len(labels), bool) if ignored is None else np.array(ignored)
    return Boxes(np.array(boxes, np.float32).reshape(-1, 4), np.array(labels), flags)


def test_yolop_style_by_hand():
    car, truck, person = 2, 3, 0
    image = np.zeros((100, 200, 3), np.uint8)
    family = YolopStyle()
    truth = vehicles([[0, 0, 40, 40], [60, 0, 100, 40], [120, 0, 160, 40]], [car, truck, car])
    found = Detections(
        np.array(
            [
                [0, 0, 40, 40],  # right
                [0, 0, 40, 38],  # a truck on the same place: suppressed, the classes are one
                [60, 0, 100, 40],  # a car on a truck: right, the classes are one
                [0, 60, 30, 90],  # false
                [120, 0, 160, 18],  # IoU 0.45: false
                [0, 60, 30, 90],  # no vehicle
            ],
            np.float32,
        ),
        np.array([0.9, 0.8, 0.7, 0.6, 0.002, 0.5], np.float32),
        np.array([car, truck, car, car, car, person]),
    )
    sample = Sample('a', 's', image, boxes={'detection': truth})
    family.add(pieces('a', sample, Result({'detection': found}), ()))
    crowd = vehicles([[0, 0, 100, 100]], [car], [True])
    sample = Sample('b', 's', image, boxes={'detection': crowd})
    inside = Detections(
        np.array([[10, 10, 40, 40]], np.float32), np.array([0.95], np.float32), np.array([car])
    )
    family.add(pieces('b', sample, Result({'detection': inside}), ()))

    result = family.result()

    assert result['vehicles'] == 3 and result['recall'] == pytest.approx(2 / 3)
    assert result['vehicle_map50'] == pytest.approx(
        average_precision(np.array([True, True, False, False]), 3)
    )
    # Precision 1 up to recall 2/3, where it falls to 1/2 and within 0.01 to 0: at the recall points
    # 1 up to 0.66, 1/3 at 0.67, then 0.
    assert result['vehicle_map50'] == pytest.approx(0.66 + 0.01 * (1 + 1 / 3) / 2 + 0.01 / 6)
    assert 'drivable_miou' not in result
    assert YolopStyle().result() == {}


def test_yolop_style_drivable_is_a_mean_over_images():
    family = YolopStyle()
    for wrong in (0, 50):
        truth = np.zeros((10, 20), np.uint8)
        truth[:, 10:] = 2
        found = truth.copy()
        found.ravel()[np.flatnonzero(truth.ravel() == 2)[:wrong]] = 1
        sample = Sample('a', 's', np.zeros((10, 20, 3), np.uint8), masks={'drivable': truth})
        family.add(pieces('a', sample, Result({'drivable': found}), ('drivable',)))

    expected = (1 + (100 / 150 + 50 / 100) / 2) / 2
    assert family.result()['drivable_miou'] == pytest.approx(expected)


@pytest.mark.data
@pytest.mark.skipif(not SHARED.is_dir(), reason=f'no {SHARED}')
def test_figures_are_those_of_replay_on_real_frames(tmp_path):
    root = tmp_path / 'camvid'
    images = root / 'images' / '100k' / 'val'
    images.mkdir(parents=True)
    for path in sorted((SHARED / 'images/100k/val').glob('camvid_*.jpg'))[::34]:
        (images / path.name).symlink_to(path)
    (root / 'labels').symlink_to(SHARED / 'labels')
    write_drive(ImageFolder(images), tmp_path / 'bag', lambda done: None)
    config = tmp_path / 'config.yaml'
    config.write_text(
        f'name: c\noutput: u\ntasks: [semantic]\n'
        f'data: [{{name: camvid, root: "{root}", drivable_split: false}}]\n'
    )
    model = ['hydranet_lite0', '--engine', 'onnxruntime']
    found = tmp_path / 'metrics.json'

    assert run_evaluate(*model, '--config', config, '--latency', 0, '--json', found) == 0
    assert cli_main(
        ['replay', str(tmp_path / 'bag'), '--model', *model, '--precision', 'fp32', '--build',
         '--output', str(tmp_path / 'run')]
    ) == 0  # fmt: skip

    replayed = Run.open(tmp_path / 'run').summary['accuracy']
    results = json.loads(found.read_text())['results']['camvid']
    assert results['images'] == len(list(images.iterdir())) == 3
    for task in ('detection', 'semantic', 'timeofday'):
        if task in results:
            assert flat(results[task]) == pytest.approx(flat(replayed[task]), abs=1e-4), task
    two_class = replayed['drivable']['two_class_miou']
    assert results['drivable']['two_class_miou'] == pytest.approx(two_class, abs=1e-4)
    assert results['semantic']['miou'] > 0.3
