# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Every head option and every reference network exports to a graph that answers as torch does."""

import pytest

torch = pytest.importorskip('torch', reason='training extras are not installed')
pytest.importorskip('timm', reason='training extras are not installed')
onnxruntime = pytest.importorskip('onnxruntime')

import numpy as np  # noqa: E402
from torch import nn  # noqa: E402

from mtl_perception.bundle import BundleError, InputSpec  # noqa: E402
from mtl_perception.tasks import DETECTION, DRIVABLE, LANE, SEMANTIC, WEATHER  # noqa: E402
from training.config import NetworkConfig  # noqa: E402
from training.export import check_target, save_onnx  # noqa: E402
from training.networks.base import DeployedNetwork, MultiTaskNetwork  # noqa: E402
from training.networks.build import build_network  # noqa: E402
from training.networks.references import hybridnets, twinlitenet_plus  # noqa: E402
from training.tasks import Features  # noqa: E402
from training.tasks.detection import DetectionConfig, DetectionHead  # noqa: E402
from training.tasks.segmentation import SegmentationConfig, SegmentationHead  # noqa: E402

HEIGHT, WIDTH = 64, 128
CHANNELS = 32


class Stem(nn.Module):
    """Four strided convolutions for a trunk."""

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Conv2d(3 if s == 4 else CHANNELS, CHANNELS, s if s == 4 else 2, s if s == 4 else 2)
            for s in (4, 8, 16, 32)
        )

    def forward(self, x):
        x = x.float() / 255
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return levels


class EveryOption(MultiTaskNetwork):
    """All options of the heads at once, so that one export tries them."""

    def __init__(self):
        detection = DetectionConfig(levels='p2-p5', one_to_one=True)
        heads = {DETECTION.name: DetectionHead(DETECTION, (), CHANNELS, detection)}
        for task, decoder in ((DRIVABLE, 'mlp'), (SEMANTIC, 'upernet'), (LANE, 'semantic_fpn')):
            options = SegmentationConfig(decoder=decoder, auxiliary=0.4)
            heads[task.name] = SegmentationHead(task, [CHANNELS] * 4, CHANNELS, options)
        super().__init__(Stem(), nn.Identity(), (DETECTION, DRIVABLE, SEMANTIC, LANE), heads)

    def features(self, image):
        trunk = self.trunk(image)
        return Features(trunk, self.neck(trunk))


def assert_onnx_equals_torch(network, path):
    """Batches of another size than the exported one, too."""
    network.train()
    with torch.no_grad():  # batch norms with statistics of their own
        features = network.features(torch.randint(0, 256, (2, 3, HEIGHT, WIDTH), dtype=torch.uint8))
        for task in network.tasks:
            network.head(task.name)(features)
    save_onnx(network.eval(), InputSpec(HEIGHT, WIDTH), path)
    image = np.random.default_rng(0).integers(0, 256, (3, HEIGHT, WIDTH, 3), np.uint8)
    with torch.no_grad():
        outputs = DeployedNetwork(network)(torch.from_numpy(image))
    expected = {name: tensor.numpy() for name, tensor in outputs.items()}
    session = onnxruntime.InferenceSession(str(path))
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, {'image': image}), strict=True))
    assert set(found) == set(expected)
    for name in set(found) - {'boxes', 'labels'}:
        np.testing.assert_allclose(found[name], expected[name], atol=2e-5)
    if 'scores' in found:  # the order of nearly equal scores is nobody's promise
        for i in range(len(image)):
            rows, wanted = (
                np.column_stack((by['boxes'][i], by['labels'][i], 1e3 * by['scores'][i]))
                for by in (found, expected)
            )
            nearest = np.abs(rows[:200, None] - wanted[None]).max(2).min(1)
            assert (nearest < 0.05).all(), 'a box that torch did not give'


def test_every_option_of_the_heads(tmp_path):
    pytest.importorskip('segmentation_models_pytorch', reason='two of the decoders are its')
    torch.manual_seed(0)
    assert_onnx_equals_torch(EveryOption(), tmp_path / 'options.onnx')


@pytest.mark.slow
@pytest.mark.parametrize('name', ['yolop', 'hybridnets', 'twinlitenet_plus_medium'])
def test_references(name, tmp_path, monkeypatch):
    # The same code with fewer repetitions exports in a fraction of the time.
    monkeypatch.setattr(hybridnets, 'CELLS', 1)
    monkeypatch.setattr(hybridnets, 'TRUNK', 'mobilenetv3_small_050')
    small = twinlitenet_plus.Size((8, 32, 64), (1, 1))
    monkeypatch.setitem(twinlitenet_plus.SIZES, 'medium', small)
    torch.manual_seed(0)
    tasks = (DETECTION, DRIVABLE, SEMANTIC, WEATHER)[name.startswith('twin') :]
    network = build_network(NetworkConfig(architecture=name), tasks)
    assert_onnx_equals_torch(network, tmp_path / 'reference.onnx')


def test_only_a_bundle_is_replaced(tmp_path):
    """`export RUN models`, the name forgotten, takes no other bundles away."""
    (tmp_path / 'models' / 'one').mkdir(parents=True)
    (tmp_path / 'models' / 'one' / 'manifest.yaml').touch()

    with pytest.raises(BundleError, match=r'models exists and is no bundle.*models/NAME'):
        check_target(tmp_path / 'models')
    check_target(tmp_path / 'models' / 'one')
    check_target(tmp_path / 'models' / 'new')
