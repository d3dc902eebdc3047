# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The whole way of a frame on the tiny bundle, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_bundle import cell_box, write_tiny_bundle

from mtl_perception.bundle import Bundle, BundleError
from mtl_perception.engines import EngineError
from mtl_perception.engines.fake import FakeEngine, Step
from mtl_perception.frame import Frame
from mtl_perception.pipeline import Pipeline, Thresholds

RED, BLUE, GREY = (255, 0, 0), (0, 0, 255), (114, 114, 114)


@pytest.fixture(scope='module')
def pipeline(tiny_bundle):
    with Pipeline.open(tiny_bundle, engine='onnxruntime', build=True) as opened:
        yield opened


def picture(height=128, width=192):
    """Grey; the upper left cell is red, the lower right one blue. 192x128 is twice the input."""
    image = np.full((height, width, 3), GREY, np.uint8)
    image[: height // 2, : width // 4] = RED
    image[height // 2 :, 3 * width // 4 :] = BLUE
    return image


def test_a_frame_gives_boxes_masks_and_probabilities_in_source_pixels(pipeline):
    result = pipeline(Frame(picture()))

    detections = result.detections['detection']
    expected = [2 * np.array(cell_box(k), np.float32) for k in (0, 7)]
    np.testing.assert_allclose(detections.boxes, expected, atol=1e-4)
    np.testing.assert_allclose(detections.scores, [1, 1])
    assert detections.labels.tolist() == [0, 2]
    drivable, semantic = result.masks['drivable'], result.masks['semantic']
    assert drivable.shape == semantic.shape == (128, 192)
    assert drivable[10, 10] == 0 and drivable[120, 180] == 2
    assert semantic[10, 10] == 0 and semantic[120, 180] == 2
    assert set(result.probabilities) == {'weather', 'timeofday'}
    for values in result.probabilities.values():
        assert values.sum() == pytest.approx(1, abs=1e-5)
    assert set(result.timings_ms) == {'letterbox', 'engine', 'decode'}


def test_bright_is_day_and_dark_is_night(pipeline):
    bright = pipeline(Frame(np.full((64, 96, 3), 250, np.uint8)))
    dark = pipeline(Frame(np.full((64, 96, 3), 5, np.uint8)))

    assert bright.probabilities['timeofday'].argmax() == 0
    assert dark.probabilities['timeofday'].argmax() == 1


def test_rgb_and_bgr_give_the_same(pipeline):
    rgb = pipeline(Frame(picture(100, 200)))
    bgr = pipeline(Frame(np.ascontiguousarray(picture(100, 200)[..., ::-1]), 'bgr'))

    np.testing.assert_array_equal(
        rgb.detections['detection'].boxes, bgr.detections['detection'].boxes
    )
    np.testing.assert_array_equal(
        rgb.detections['detection'].labels, bgr.detections['detection'].labels
    )
    np.testing.assert_array_equal(rgb.masks['semantic'], bgr.masks['semantic'])


def test_the_padding_has_the_bundles_colour_in_both_orders(tmp_path):
    colour = (10, 20, 30)
    bundle = Bundle.open(write_tiny_bundle(tmp_path, letterbox_colour=colour))
    seen = []

    class Spy(FakeEngine):
        def run(self, batch):
            seen.append(batch.copy())
            return super().run(batch)

    pipeline = Pipeline(bundle, Spy(bundle))
    for order in ('rgb', 'bgr'):
        pipeline(Frame(np.zeros((64, 64, 3), np.uint8), order))

    for batch in seen:
        assert batch.shape == (1, 64, 96, 3)
        assert (batch[0, :, 0] == colour).all() and (batch[0, :, -1] == colour).all()


def test_only_wanted_tasks_are_decoded(pipeline):
    some = pipeline(Frame(picture()), ['drivable', 'weather'])
    none = pipeline(Frame(picture()), [])

    assert (list(some.detections), list(some.masks), list(some.probabilities)) == (
        [], ['drivable'], ['weather'],
    )  # fmt: skip
    assert not none.detections and not none.masks and not none.probabilities
    assert none.timings_ms['engine'] > 0


def test_an_unknown_task_names_the_nearest(pipeline):
    with pytest.raises(ValueError, match=r"no task 'drivabel', did you mean 'drivable'\?"):
        pipeline(Frame(picture()), ['drivabel'])


def test_results_do_not_change_with_the_next_frame(pipeline):
    first = pipeline(Frame(picture()))
    kept = {name: values.copy() for name, values in first.probabilities.items()}
    mask = first.masks['semantic'].copy()

    pipeline(Frame(np.zeros_like(picture())))

    np.testing.assert_array_equal(first.masks['semantic'], mask)
    for name, values in kept.items():
        np.testing.assert_array_equal(first.probabilities[name], values)


def test_thresholds_count_from_the_next_frame(pipeline):
    before = pipeline.thresholds
    try:
        pipeline.thresholds = Thresholds(max_detections=1)
        assert len(pipeline(Frame(picture())).detections['detection']) == 1
    finally:
        pipeline.thresholds = before
    assert len(pipeline(Frame(picture())).detections['detection']) == 2


def test_sizes_may_change_from_frame_to_frame(pipeline):
    for height, width in [(64, 96), (33, 500), (500, 33), (1, 1), (720, 1280)] * 3:
        masks = pipeline(Frame(np.zeros((height, width, 3), np.uint8))).masks

        assert masks['drivable'].shape == (height, width)


def test_a_class_map_bundle_decodes_to_the_same_classes(tmp_path):
    folder = write_tiny_bundle(tmp_path, class_map=True)
    with Pipeline.open(folder, engine='onnxruntime', build=True) as opened:
        mask = opened(Frame(picture())).masks['drivable']

    assert mask.shape == (128, 192) and mask.dtype == np.uint8
    assert mask[10, 10] == 0 and mask[120, 180] == 2


@pytest.mark.parametrize(
    'pixels',
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32),
     np.zeros((0, 4, 3), np.uint8)],
)  # fmt: skip
def test_a_frame_must_be_uint8_with_three_channels(pixels):
    with pytest.raises(ValueError, match='expected uint8'):
        Frame(pixels)


def test_a_frame_must_name_its_order():
    with pytest.raises(ValueError, match="'rgb' or 'bgr'"):
        Frame(np.zeros((4, 4, 3), np.uint8), 'yuv')


def test_no_engine_names_the_command_that_builds_it(tmp_path):
    folder = write_tiny_bundle(tmp_path, width=160)

    with pytest.raises(EngineError) as caught:
        Pipeline.open(folder, engine='openvino')

    command = f'mtl-perception compile {folder} --engine openvino --precision fp32'
    assert str(caught.value).endswith(command)


def test_building_is_logged(tmp_path, caplog):
    folder = write_tiny_bundle(tmp_path, width=192)

    with caplog.at_level('INFO'):
        Pipeline.open(folder, engine='onnxruntime', build=True).close()

    assert 'building engine onnxruntime fp32' in caplog.text and 'built /' in caplog.text


def test_a_task_without_its_outputs_is_refused(tiny_bundle):
    from dataclasses import replace

    bundle = Bundle.open(tiny_bundle)
    outputs = tuple(spec for spec in bundle.manifest.outputs if spec.name != 'scores')
    manifest = replace(bundle.manifest, outputs=outputs)

    with pytest.raises(BundleError, match=r"needs outputs \['boxes', 'labels', 'scores'\]"):
        Pipeline(replace(bundle, manifest=manifest), FakeEngine(bundle))


def test_an_engine_that_fails_once_works_again(tiny_bundle):
    bundle = Bundle.open(tiny_bundle)
    engine = FakeEngine(bundle, [Step(error=EngineError('out of memory')), Step(latency_s=0.02)])
    pipeline = Pipeline(bundle, engine)

    with pytest.raises(EngineError, match='out of memory'):
        pipeline(Frame(picture()))
    result = pipeline(Frame(picture()))

    assert result.timings_ms['engine'] >= 20
    assert len(result.detections['detection']) == 0


def test_close_may_be_called_twice(tiny_bundle):
    opened = Pipeline.open(tiny_bundle, engine='onnxruntime', build=True)
    opened.close()
    opened.close()

    with pytest.raises(EngineError, match='after close'):
        opened(Frame(picture()))
