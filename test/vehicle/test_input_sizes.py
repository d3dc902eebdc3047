# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""One bundle, many input sizes: engines of each, answers in source pixels, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import write_tiny_bundle

from mtl_perception.bundle import Bundle, BundleError
from mtl_perception.cli import main
from mtl_perception.engines import EngineError, Options, engine_class, open_engine
from mtl_perception.engines.fake import FakeEngine
from mtl_perception.frame import Frame
from mtl_perception.pipeline import Pipeline


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp('any_size'), 128, 192, any_size=True)


def quarters() -> Frame:
    """The upper left eighth is red, the lower right one blue; 512x768."""
    pixels = np.full((512, 768, 3), 114, np.uint8)
    pixels[:256, :192] = (255, 0, 0)
    pixels[256:, 576:] = (0, 0, 255)
    return Frame(pixels)


@pytest.mark.parametrize('engine', ['onnxruntime', 'openvino'])
def test_every_size_answers_in_source_pixels(folder: Path, engine: str) -> None:
    bundle = Bundle.open(folder)
    for height, width in ((128, 192), (256, 384), (160, 192)):
        resized = bundle.at_size(height, width)
        with Pipeline(resized, open_engine(resized, engine, build=True)) as pipeline:
            result = pipeline(quarters())
        boxes = result.detections['detection'].boxes
        boxes = boxes[boxes[:, 0].argsort()]
        # The margin of 2 input pixels becomes as many source pixels as the letterbox shrinks by.
        np.testing.assert_allclose(boxes[0], (0, 0, 192, 256), atol=16)
        np.testing.assert_allclose(boxes[1], (576, 256, 768, 512), atol=16)
        assert result.masks['semantic'].shape == (512, 768)
        assert result.masks['semantic'][10, 10] == 0
        assert result.masks['drivable'][500, 700] == 2


def test_the_hash_is_of_the_bundle_and_the_engine_of_the_size(folder: Path) -> None:
    bundle = Bundle.open(folder)
    resized = bundle.at_size(256, 384)
    assert resized.hash == bundle.hash
    assert resized.is_resized and not resized.at_size(128, 192).is_resized
    plans = [engine_class('onnxruntime').plan(each, Options()) for each in (bundle, resized)]
    assert plans[0].key.digest != plans[1].key.digest
    assert '--size 256x384' in plans[1].command()
    assert '--size' not in plans[0].command()


def test_maps_follow_the_size_and_counts_do_not(folder: Path) -> None:
    engine = FakeEngine(Bundle.open(folder).at_size(256, 320))
    outputs = engine.run(np.zeros((1, 256, 320, 3), np.uint8))
    assert outputs['semantic'].shape == (1, 19, 64, 80)
    assert outputs['boxes'].shape == (1, 8, 4)


def test_a_graph_of_one_size_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fixed = write_tiny_bundle(tmp_path / 'fixed')
    with pytest.raises(BundleError, match='has a graph for 64x96 only, asked for was 128x192'):
        Bundle.open(fixed).at_size(128, 192)
    assert main(['compile', str(fixed), '--size', '128x192']) == 1
    assert 'Export it again' in capsys.readouterr().err


@pytest.mark.parametrize('size', [(130, 192), (128, 200), (96, 192)])
def test_a_size_that_the_graph_cannot_take_is_refused(folder: Path, size: tuple[int, int]) -> None:
    with pytest.raises(BundleError, match='both sides must be multiples of 32, at least 128'):
        Bundle.open(folder).at_size(*size)


def test_old_manifests_keep_their_hash_and_take_no_new_key(tiny_bundle: Path) -> None:
    assert 'size_step' not in (tiny_bundle / 'manifest.yaml').read_text()
    assert Bundle.open(tiny_bundle).manifest.input.size_step == 0


def test_an_engine_of_an_exported_program_names_the_others(folder: Path) -> None:
    bundle = Bundle.open(folder)
    with_program = Bundle(
        bundle.path,
        bundle.manifest.__class__(
            **{**vars(bundle.manifest), 'files': {**bundle.manifest.files, 'model.pt2': '0' * 64}}
        ),
    )
    with pytest.raises(EngineError, match='asked for was 256x384'):
        engine_class('torch_export').check_file(with_program.at_size(256, 384))
