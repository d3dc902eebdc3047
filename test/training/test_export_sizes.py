# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""An exported graph takes any multiple of 32, and answers at each as torch does."""

import pytest

torch = pytest.importorskip('torch', reason='training extras are not installed')
pytest.importorskip('timm', reason='training extras are not installed')
onnxruntime = pytest.importorskip('onnxruntime')

import numpy as np  # noqa: E402

from mtl_perception.bundle import InputSpec  # noqa: E402
from mtl_perception.tasks import DETECTION, DRIVABLE, WEATHER  # noqa: E402
from training.config import NetworkConfig  # noqa: E402
from training.export import save_onnx  # noqa: E402
from training.networks.base import DeployedNetwork, output_specs  # noqa: E402
from training.networks.build import build_network  # noqa: E402

TASKS = [DETECTION, DRIVABLE, WEATHER]


def network(trunk: str):
    torch.manual_seed(0)
    return build_network(NetworkConfig(trunk=trunk, neck_channels=16), TASKS).eval()


@pytest.mark.slow
@pytest.mark.parametrize('trunk', ['resnet10t', 'pvt_v2_b0', 'tf_efficientnet_lite0'])
def test_other_sizes_are_answered_as_by_torch(tmp_path, trunk):
    made = network(trunk)
    path = tmp_path / 'model.onnx'

    spec = save_onnx(made, InputSpec(128, 160), path)

    assert spec.size_step == 32
    session = onnxruntime.InferenceSession(str(path))
    names = [output.name for output in session.get_outputs()]
    for height, width in ((128, 160), (192, 320), (256, 128)):
        image = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)
        with torch.no_grad():
            expected = DeployedNetwork(made)(torch.from_numpy(image))
        found = dict(zip(names, session.run(None, {'image': image}), strict=True))
        for output in output_specs(made, height, width):
            assert found[output.name].shape == (1, *output.shape)
        np.testing.assert_allclose(found['drivable'], expected['drivable'].numpy(), atol=1e-3)
        np.testing.assert_allclose(found['scores'], expected['scores'].numpy(), atol=1e-4)


def test_a_network_that_needs_its_size_is_exported_for_it_and_says_so(
    tmp_path, monkeypatch, caplog
):
    plain = torch.export.export

    def refuses_sizes(module, arguments, *, dynamic_shapes, **options):
        if len(dynamic_shapes['image']) > 1:
            raise ValueError('Constraints violated (rows)!\nmore')
        return plain(module, arguments, dynamic_shapes=dynamic_shapes, **options)

    monkeypatch.setattr(torch.export, 'export', refuses_sizes)
    spec = save_onnx(network('resnet10t'), InputSpec(128, 160), tmp_path / 'model.onnx')
    assert spec.size_step == 0
    assert 'the graph is fixed to 128x160' in caplog.text
    assert 'Constraints violated (rows)!' in caplog.text
