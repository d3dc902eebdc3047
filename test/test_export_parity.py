"""The committed bundle answers alike through torch, ONNX Runtime and OpenVINO in single precision.

On real frames where `../shared/data` is there, on generated scenes everywhere.
"""

from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('torch', reason='training extras are not installed')

from mtl_perception.engines import open_engine
from mtl_perception.pipeline import Bundle, Frame, Pipeline, Result
from mtl_perception.scenes import random_scene
from training.export import load_network
from training.module_engine import ModuleEngine

MODEL = Path(__file__).parents[1] / 'models' / 'hydranet_b0_demo'
SHARED = Path(__file__).parents[2] / 'shared' / 'data'
REAL = (
    'driving_mini/images/100k/val/camvid_0016E5_07959.jpg',
    'driving_mini/images/100k/val/dawn_mist-189.jpg',
    'bdd_samples/images/100k/train/0000f77c-6257be58.jpg',
)

BOX_PX, SCORE, MASK_EQUAL = 0.5, 1e-3, 0.999


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
    names = [output.name for output in bundle.manifest.outputs]
    return Pipeline(bundle, ModuleEngine(load_network(bundle), names))


@pytest.fixture(scope='module', params=['onnxruntime', 'openvino'])
def candidate(request, bundle, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
        pipeline = Pipeline(
            bundle, open_engine(bundle, request.param, precision='fp32', build=True)
        )
        yield pipeline
        pipeline.close()


@pytest.mark.parametrize('kind', ['generated', pytest.param('real', marks=pytest.mark.data)])
def test_engines_equal_torch(reference, candidate, kind):
    for frame in frames(kind):
        expected, found = reference(frame), candidate(frame)
        assert_equal_detections(expected, found)
        for task, mask in expected.masks.items():
            assert (mask == found.masks[task]).mean() >= MASK_EQUAL, task
        for task, vector in expected.probabilities.items():
            np.testing.assert_allclose(found.probabilities[task], vector, atol=SCORE)


def assert_equal_detections(expected: Result, found: Result) -> None:
    """Every detection clear of the threshold has its twin on the other side."""
    ours, theirs = expected.detections['detection'], found.detections['detection']
    threshold = 0.3 + SCORE
    for one, other in ((ours, theirs), (theirs, ours)):
        for box, score, label in zip(one.boxes, one.scores, one.labels, strict=True):
            if score < threshold:
                continue
            near = np.abs(other.boxes - box).max(axis=1, initial=0) <= BOX_PX
            near &= (np.abs(other.scores - score) <= SCORE) & (other.labels == label)
            assert near.any(), (box, score, label)


def test_parity_looks_at_detections(reference):
    """The comparison above would pass on empty lists; it must not be the case here."""
    found = [reference(frame).detections['detection'] for frame in frames('generated')]
    assert sum((one.scores >= 0.3).sum() for one in found) >= 2
