# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The committed bundle answers alike through torch, ONNX Runtime and OpenVINO in single precision.

On real frames where `../shared/data` is there, on generated scenes everywhere.
"""

from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('torch', reason='training extras are not installed')

from mtl_perception.bundle import Bundle
from mtl_perception.engines import Options, open_engine
from mtl_perception.frame import Frame
from mtl_perception.pipeline import Pipeline
from mtl_scenes import random_scene
from training import parity

MODEL = Path(__file__).parents[2] / 'models' / 'hydranet_lite0'
SHARED = Path(__file__).parents[3] / 'shared' / 'data'
REAL = (
    'driving_mini/images/100k/val/camvid_0016E5_07959.jpg',
    'driving_mini/images/100k/val/dawn_mist-189.jpg',
    'bdd_samples/images/100k/train/0000f77c-6257be58.jpg',
)


def frames(kind: str) -> list[Frame]:
    if kind == 'generated':
        return [Frame(random_scene(seed, 1280, 720).image) for seed in (3, 4)]
    if not SHARED.is_dir():
        pytest.skip('../shared/data is not there')
    return [Frame(cv2.imread(str(SHARED / name)), 'bgr') for name in REAL]


@pytest.fixture(scope='module')
def bundle():
    return Bundle.open(MODEL)


@pytest.fixture(scope='module')
def reference(bundle):
    return parity.reference(bundle)


@pytest.fixture(scope='module', params=['onnxruntime', 'openvino'])
def candidate(request, bundle, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
        engine = open_engine(bundle, request.param, Options(precision='fp32'), build=True)
        pipeline = Pipeline(bundle, engine)
        yield pipeline
        pipeline.close()


@pytest.mark.parametrize('kind', ['generated', pytest.param('real', marks=pytest.mark.data)])
def test_engines_equal_torch(reference, candidate, kind):
    found = parity.compare(reference, candidate, frames(kind))
    assert found.holds, found
    assert found.detections >= 2, 'nothing was compared'


def test_differences_are_seen(reference):
    """An engine that sees the image shifted by 8 pixels must not pass."""

    class Shifted:
        info = reference.engine.info
        input = None

        def run(self, batch):
            return reference.engine.run(np.roll(batch, 8, axis=2))

    found = parity.compare(
        reference, Pipeline(reference.bundle, Shifted()), frames('generated')[:1]
    )
    assert not found.holds
