# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Tasks of known kinds with names and classes of their own: replayed, compared, published."""

import json

import numpy as np
import pytest
from tiny_data import picture

pytest.importorskip('torch', reason='training extras are not installed')

from test_own_tasks import TASKS, options, write

from mtl_evaluation.bags.bag_writer import DriveWriter, EncodedImage
from mtl_evaluation.truth.truth import Truth, TruthBoxes
from mtl_perception.cli import main
from training.config import load_config
from training.export import export
from training.train import train

pytestmark = pytest.mark.slow

FRAMES = 30
NAMES = ('fruit', 'gauge', 'shift', 'reach')


def truth_of(index: int) -> Truth:
    """A papaya that moves, a dial, an early shift, a wall."""
    box = np.array([[10 + index, 10, 40 + index, 40]], np.float32)
    mask = np.full((64, 96), 2, np.uint8)
    mask[20:40, 20:60] = 0
    return Truth(
        TruthBoxes(box, ('papaya',), np.zeros(1, bool)),
        {'gauge': mask},
        {'shift': 'early'},
        maps={'reach': np.full((64, 96), 2 + index / 8, np.float32)},
    )


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    """A folder with two bundles of one training, and a drive with truth for all four tasks."""
    folder = tmp_path_factory.mktemp('orchard')
    config = load_config(write(folder / 'own.yaml', TASKS), options(folder / 'trained'))
    train(config)
    for name, weights in (('best', 'best'), ('last', 'last')):
        export(folder / 'trained', folder / name, weights=weights, program=False)
    with DriveWriter(folder / 'drive') as writer:
        for i in range(FRAMES):
            frame = EncodedImage(picture(i, 96, 64))
            writer.write_frame(10**18 + i * 10**8, frame, truth_of(i), name=f'{i}.png')
    return folder


def replay(folder, model: str, output: str, *more: str):
    """The folder of a replay of the drive."""
    made = folder / output
    engine = ['--model', str(folder / model), '--engine', 'onnxruntime', '--build']
    assert main(['replay', str(folder / 'drive'), *engine, '--output', str(made), *more]) == 0
    return made


def test_they_are_replayed_with_truth_and_compared(model):
    first, second = (replay(model, name, f'run_{name}') for name in ('best', 'last'))
    accuracy = json.loads((first / 'run.json').read_text())['accuracy']
    assert {name: accuracy[name]['frames'] for name in NAMES} == dict.fromkeys(NAMES, FRAMES)
    command = ['compare', str(first), str(second), '--samples', '100', '--block-s', '0.2']
    assert main(command) == 0
    compared = json.loads((second / 'against_run_best/compare.json').read_text())
    found = {item['metric'] for item in compared['differences']}
    assert {
        'fruit/AP50/papaya', 'gauge/iou/needle', 'gauge/flicker', 'shift/f1/late', 'reach/rmse',
    } <= found  # fmt: skip
    page = (first / 'report.html').read_text()
    assert all(name in page for name in NAMES)


@pytest.mark.ros
@pytest.mark.usefixtures('private_ros')
def test_a_live_node_publishes_them(model, tmp_path):
    pytest.importorskip('rclpy', reason='needs ROS 2')
    from live_node import LATCHED, NODE, active_node, image, peer
    from sensor_msgs.msg import Image
    from vision_msgs.msg import Classification, Detection2DArray, LabelInfo

    topics = {
        'fruit': Detection2DArray, 'gauge': Image, 'scene/shift': Classification, 'reach': Image,
    }  # fmt: skip
    settings = {'model': model / 'best', 'engine': 'onnxruntime', 'build': 'true'}
    with active_node(tmp_path, **settings, score_threshold=0.0), peer() as other:
        heard = {name: other.listen(f'{NODE}/{name}', kind) for name, kind in topics.items()}
        names = other.listen(f'{NODE}/gauge/label_info', LabelInfo, LATCHED)
        sent = image(3, height=64, width=96)
        other.repeat(sent, lambda: names and all(heard.values()))

    assert all(messages[0].header == sent.header for messages in heard.values())
    assert [entry.class_name for entry in names[0].class_map] == ['dial', 'needle', 'rest']
    gauge, reach = heard['gauge'][0], heard['reach'][0]
    assert (gauge.encoding, gauge.width, max(gauge.data) < 3) == ('mono8', 96, True)
    assert (reach.encoding, reach.width) == ('32FC1', 96)
    assert np.frombuffer(reach.data, np.float32).min() > 0
    assert {item.class_id for item in heard['scene/shift'][0].results} >= {'early', 'late'}
    boxes = heard['fruit'][0].detections
    assert {box.results[0].hypothesis.class_id for box in boxes} <= {'papaya', 'quince'}
