# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Depth and normals in training: files, augmentation, losses, export, evaluation."""

import json

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='training extras are not installed')
pytest.importorskip('timm', reason='training extras are not installed')
onnxruntime = pytest.importorskip('onnxruntime')

from tiny_training import CONFIG, SMALL, tiny_overrides, tiny_scenes  # noqa: E402

from mtl_perception.bundle import InputSpec  # noqa: E402
from mtl_perception.tasks import DEPTH, NORMALS, SEMANTIC  # noqa: E402
from mtl_scenes import random_scene  # noqa: E402
from training.config import load_config  # noqa: E402
from training.data import map_files, mosaic  # noqa: E402
from training.data.layout import Layout, LayoutConfig  # noqa: E402
from training.data.sample import DatasetError, Sample, collate  # noqa: E402
from training.data.scenes import SPLIT_SEEDS  # noqa: E402
from training.data.transforms import View  # noqa: E402
from training.evaluate import evaluate_network, headline  # noqa: E402
from training.export import save_onnx  # noqa: E402
from training.networks.base import DeployedNetwork, output_specs  # noqa: E402
from training.networks.build import build_network  # noqa: E402
from training.tasks.depth import DepthConfig, DepthHead  # noqa: E402
from training.tasks.normals import NormalsConfig, NormalsHead  # noqa: E402

TASKS = (SEMANTIC, DEPTH, NORMALS)
CHANNELS = [8, 8, 8, 8]


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return tiny_scenes(tmp_path_factory.mktemp('scenes'), 2, 1)


@pytest.fixture(scope='module')
def config(scenes):
    more = ['tasks=[semantic, depth, normals]', 'loss_weights={}']
    return load_config(CONFIG, [*SMALL, *tiny_overrides(scenes, *more)])


def test_generated_scenes_hold_what_the_renderer_knows(scenes):
    layout = Layout(LayoutConfig('scenes', str(scenes)), 'train')
    assert {'depth', 'normals'} <= layout.tasks(1)
    sample, frame = layout.load(1), random_scene(SPLIT_SEEDS['train'] + 1, 160, 96)
    near = frame.depth <= map_files.FARTHEST_M
    assert np.abs(sample.maps['depth'] - frame.depth)[near].max() < 0.0051
    assert (sample.maps['depth'][~near] == 0).all()
    assert np.abs(sample.maps['normals'] - frame.normals).max() < 1e-4
    assert json.loads((scenes / 'scenes.json').read_text())['version'] == 2


def test_a_map_of_another_form_is_refused(tmp_path):
    map_files.write_depth_cm(tmp_path / 'depth.png', np.ones((4, 4), np.float32))
    with pytest.raises(DatasetError, match='three channels, found uint16'):
        map_files.read_normals(tmp_path / 'depth.png')
    with pytest.raises(DatasetError, match='nothing readable'):
        map_files.read_depth_cm(tmp_path / 'missing.png')


def sample_of(depth, normals):
    image = np.zeros((*depth.shape, 3), np.uint8)
    return Sample('a', 'b', image, maps={'depth': depth, 'normals': normals})


def test_a_mirrored_zoomed_view_changes_the_numbers_as_it_changes_the_picture():
    depth = np.arange(1, 13, dtype=np.float32).reshape(3, 4)
    normals = np.zeros((3, 4, 3), np.float32)
    normals[..., 0], normals[..., 2] = 0.6, -0.8
    seen = View(2.0, 0, 0, True, 6, 10, zoom=2.0).apply(sample_of(depth, normals), (0, 0, 0))
    assert seen.maps['depth'][0].tolist() == [0, 0, 2.0, 2.0, 1.5, 1.5, 1.0, 1.0, 0.5, 0.5]
    assert np.allclose(seen.maps['normals'][0, 9], (-0.6, 0, -0.8))
    assert not seen.maps['normals'][:, :2].any()  # beyond the image nothing is known
    plain = View(2.0, 0, 0, False, 6, 8).apply(sample_of(depth, normals), (0, 0, 0))
    assert plain.maps['depth'][0, -1] == 4.0  # the letterbox's own scale leaves metres alone
    assert np.allclose(plain.maps['normals'][0, 0], (0.6, 0, -0.8))


def test_tiles_of_a_mosaic_without_depth_are_unknown():
    with_depth = sample_of(np.full((2, 2), 7, np.float32), np.ones((2, 2, 3), np.float32))
    without = Sample('c', 'd', np.zeros((2, 2, 3), np.uint8))
    tiles = [mosaic.Tile(0, 0, 2, 2), mosaic.Tile(0, 2, 2, 2)]
    joined = mosaic.join([with_depth, without], tiles)
    assert joined.maps['depth'].tolist() == [[7, 7, 0, 0]] * 2
    assert not joined.maps['normals'][:, 2:].any()


def batch_of(values):
    """Targets of one task from arrays, as the loader makes them."""
    return [torch.from_numpy(v) for v in values]


@pytest.mark.parametrize('loss', ['log_l1', 'l1'])
def test_depth_loss_is_zero_for_the_truth_and_knows_holes(loss):
    head = DepthHead(DEPTH, CHANNELS, 8, DepthConfig(loss=loss))
    depth = np.zeros((8, 8), np.float32)
    depth[:, :4] = 5.0
    target = batch_of([depth, depth])
    assert head.normaliser(target) == 2 * 4 * 2  # half resolution, half of the pixels
    outputs = torch.full((2, 1, 4, 4), float(np.log(5.0)))
    assert head.loss(outputs, target) == pytest.approx(0, abs=1e-4)
    wrong = head.loss(torch.full((2, 1, 4, 4), float(np.log(10.0))), target) / 16
    assert wrong == pytest.approx(np.log(2) if loss == 'log_l1' else 5.0, rel=1e-4)
    assert head.loss(outputs, batch_of([0 * depth] * 2)) == 0


@pytest.mark.parametrize(('loss', 'worst'), [('cosine', 2.0), ('l1', 2.0)])
def test_normals_loss_is_zero_for_the_truth_and_knows_holes(loss, worst):
    head = NormalsHead(NORMALS, CHANNELS, 8, NormalsConfig(loss=loss))
    normals = np.zeros((8, 8, 3), np.float32)
    normals[:4, :, 2] = -1
    target = batch_of([normals])
    outputs = torch.zeros(1, 3, 4, 4)
    outputs[:, 2] = -4
    assert head.normaliser(target) == 8
    assert head.loss(outputs, target) == pytest.approx(0, abs=1e-6)
    assert head.loss(-outputs, target) / 8 == pytest.approx(worst, abs=1e-5)


def test_unknown_options_are_refused():
    for make in (lambda: DepthConfig('unet'), lambda: NormalsConfig(loss='l3')):
        with pytest.raises(ValueError, match='expected one of'):
            make()


@pytest.mark.parametrize('decoder', ['mlp', 'aspp'])
def test_other_decoders_serve_depth_and_normals(decoder, config):
    overrides = [
        f'network.{kind}.decoder={decoder}' for kind in ('segmentation', 'depth', 'normals')
    ]
    changed = load_config(CONFIG, [*SMALL, 'tasks=[semantic, depth, normals]', *overrides])
    network = build_network(changed.network, TASKS)
    specs = {spec.name: spec for spec in output_specs(network.eval(), 64, 96)}
    stride = 32 if decoder == 'aspp' else 4
    assert specs['depth'].shape == (64 // stride, 96 // stride) and specs['depth'].stride == stride
    assert specs['normals'].shape == (3, 64 // stride, 96 // stride)
    assert specs['normals'].meaning == 'normals'


def test_they_train_evaluate_and_export(config, scenes, tmp_path):
    torch.manual_seed(0)
    network = build_network(config.network, TASKS)
    layout = Layout(config.data[0], 'train')
    views = [View(0.6, 0, 0, i > 0, 64, 96) for i in range(2)]
    batch = collate([v.apply(layout.load(i), (0, 0, 0)) for i, v in enumerate(views)], config.tasks)
    features = network.train().features(batch.image)
    for task in TASKS:
        head = network.head(task.name)
        loss = head.loss(head(features), batch.targets[task.name])
        assert torch.isfinite(loss) and loss > 0 and head.normaliser(batch.targets[task.name]) > 0
        loss.backward(retain_graph=True)
        assert all(p.grad is not None for p in head.parameters())
    network.eval()
    figures = headline(evaluate_network(network, config, 'val'))
    assert {'scenes/depth/delta1', 'scenes/normals/mean_error'} <= set(figures)
    assert 0 <= figures['scenes/normals/within_11_25'] <= 1
    save_onnx(network, InputSpec(64, 96), tmp_path / 'model.onnx')
    session = onnxruntime.InferenceSession(str(tmp_path / 'model.onnx'))
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), np.uint8)
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, {'image': image}), strict=True))
    with torch.no_grad():
        expected = DeployedNetwork(network)(torch.from_numpy(image))
    for name in ('depth', 'normals'):
        assert np.allclose(found[name], expected[name].numpy(), rtol=1e-3, atol=1e-4)
