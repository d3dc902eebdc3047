# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Distillation: features of one trunk into another, and of a model into one with another trunk."""

import pytest

torch = pytest.importorskip('torch', reason='training extras are not installed')
pytest.importorskip('timm', reason='training extras are not installed')

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import timm  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from training.checkpoint import BEST, EMA, save_best  # noqa: E402
from training.config import load_config, save_config  # noqa: E402
from training.distill import distill, load_distill_config, main  # noqa: E402
from training.networks.build import build_network  # noqa: E402
from training.networks.trunk import Trunk  # noqa: E402
from training.networks.weights import OWN  # noqa: E402

SMALL = ['optimizer.steps=4', 'log_every=2', 'checkpoint_every=2', 'workers=0']


def interrupt(*_):
    """Ctrl-C at the third step, after the checkpoint of the second."""
    raise KeyboardInterrupt


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / 'data' / 'images' / '100k' / 'train'
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(4):
        cv2.imwrite(str(folder / f'{i}.jpg'), rng.integers(0, 256, (64, 96, 3), np.uint8))
    return tmp_path / 'data'


def config_file(tmp_path, data, teacher):
    path = tmp_path / 'distill.yaml'
    path.write_text(
        f'name: d\noutput: {tmp_path / "run"}\nteacher: {teacher}\n'
        f'student: {{trunk: pvt_v2_b0}}\ndata: [{{name: d, root: {data}}}]\n'
        'optimizer: {batch_size: 2, warmup_steps: 1}\naugment: {height: 64, width: 64}\n'
    )
    return path


@pytest.fixture
def teacher_file(tmp_path):
    torch.manual_seed(0)
    body = timm.create_model('resnet18', features_only=True)
    path = tmp_path / 'teacher.safetensors'
    save_file({f'{OWN}{k}': v for k, v in body.state_dict().items()}, path)
    return path


def test_a_trunk_learns_the_features_of_another_and_is_taken_by_training(
    tmp_path, data, teacher_file
):
    teacher = f'{{trunk: resnet18, trunk_weights: {teacher_file}}}'
    path = config_file(tmp_path, data, teacher)
    weights = distill(load_distill_config(path, [*SMALL, 'optimizer.steps=2']))
    first = load_file(weights)
    assert Trunk('pvt_v2_b0', weights=str(weights)).channels == [32, 64, 160, 256]

    distill(load_distill_config(path, SMALL))  # resumes at step 2

    lines = (tmp_path / 'run' / 'losses.jsonl').read_text().splitlines()
    assert [line.split(',')[0] for line in lines] == ['{"step": 2', '{"step": 4']
    assert any(not torch.equal(first[k], v) for k, v in load_file(weights).items())


def test_an_interrupted_run_ends_as_one_that_was_not(tmp_path, data, teacher_file, monkeypatch):
    teacher = f'{{trunk: resnet18, trunk_weights: {teacher_file}}}'
    path = config_file(tmp_path, data, teacher)
    whole = load_file(distill(load_distill_config(path, SMALL)))
    config = load_distill_config(path, [*SMALL, f'output={tmp_path / "other"}', 'log_every=3'])
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr('training.distill._log', interrupt)
        distill(config)
    halves = load_file(distill(config))
    assert whole.keys() == halves.keys()
    assert all(torch.equal(whole[k], halves[k]) for k in whole)


def test_a_model_with_another_trunk_takes_over_the_heads(tmp_path, data):
    folder = tmp_path / 'teacher'
    folder.mkdir()
    (folder / 'c.yaml').write_text(
        f'name: t\noutput: {folder}\ntasks: [detection, lane, weather]\n'
        f'network: {{trunk: resnet18, neck_channels: 16}}\ndata: [{{name: d, root: {data}}}]\n'
    )
    run = load_config(folder / 'c.yaml')
    save_config(run, folder / 'config.yaml')
    torch.manual_seed(0)
    network = build_network(run.network, run.task_table())
    save_best(folder / BEST, network, {'step': 0})

    path = config_file(tmp_path, data, f'{{model: {folder}}}')
    output = distill(load_distill_config(path, SMALL))

    student = load_config(output / 'config.yaml')
    assert (student.network.trunk, student.tasks) == (
        'pvt_v2_b0',
        ['detection', 'lane', 'weather'],
    )
    tensors = load_file(output / BEST / EMA)
    for name, tensor in network.heads.state_dict().items():
        if name.startswith('weather'):  # reads the trunk
            assert tensors[f'heads.{name}'].shape != tensor.shape or tensor.ndim < 2
            continue
        assert torch.equal(tensors[f'heads.{name}'], tensor)
    build_network(student.network, student.task_table()).load_state_dict(tensors)


@pytest.mark.parametrize(
    ('teacher', 'message'),
    [
        ('{trunk: resnet18}', 'a trunk without weights teaches nothing'),
        ('{}', 'expected either trunk or model'),
        ('{model: nowhere}', 'neither a run folder'),
        ('{trunk: resnet18, trunk_weights: nowhere.pth}', 'nowhere.pth'),
    ],
)
def test_a_teacher_that_cannot_teach_is_one_sentence(tmp_path, data, teacher, message, capsys):
    assert main([str(config_file(tmp_path, data, teacher)), *SMALL]) == 1
    error = capsys.readouterr().err
    assert error.startswith('error: ') and message in error and 'Traceback' not in error
