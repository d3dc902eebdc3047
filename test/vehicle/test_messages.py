# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Result -> ROS messages."""

from __future__ import annotations

import sys

import cv2
import numpy as np
import pytest

pytest.importorskip('vision_msgs.msg', reason='needs vision_msgs (make test builds it)')

from std_msgs.msg import Header

from mtl_perception.frame import Detections, Tracks
from mtl_perception.node import messages
from mtl_perception.tasks import DEPTH, DETECTION, DRIVABLE, NORMALS, SEMANTIC, WEATHER

pytestmark = pytest.mark.ros


@pytest.fixture
def header() -> Header:
    header = Header(frame_id='front_optical')
    header.stamp.sec, header.stamp.nanosec = 12, 345
    return header


def detections(*rows: tuple[float, ...]) -> Detections:
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


def test_detection_is_class_name_centre_and_size(header: Header) -> None:
    message = messages.answer_message(header, detections((10, 20, 30, 60, 0.75, 2)), DETECTION)
    (found,) = message.detections
    assert message.header == found.header == header
    assert found.results[0].hypothesis.class_id == 'car'
    assert found.results[0].hypothesis.score == pytest.approx(0.75)
    assert (found.bbox.center.position.x, found.bbox.center.position.y) == (20, 40)
    assert (found.bbox.size_x, found.bbox.size_y, found.bbox.center.theta) == (20, 40, 0)
    assert found.id == ''


def test_no_detections_is_an_empty_array_with_its_header(header: Header) -> None:
    message = messages.answer_message(header, detections(), DETECTION)
    assert message.header == header
    assert message.detections == []


def test_fractional_edges_survive(header: Header) -> None:
    message = messages.answer_message(header, detections((0.5, 1.25, 3, 4, 1, 0)), DETECTION)
    box = message.detections[0].bbox
    assert box.center.position.x - box.size_x / 2 == 0.5
    assert box.center.position.y - box.size_y / 2 == 1.25


@pytest.mark.parametrize('contiguous', [True, False])
def test_mask_is_mono8_with_step_of_its_width(header: Header, contiguous: bool) -> None:
    mask = np.random.default_rng(3).integers(0, 256, (6, 18), np.uint8)
    mask = np.ascontiguousarray(mask[:, ::2]) if contiguous else mask[:, ::2]
    message = messages.mask_message(header, mask)
    assert (message.height, message.width, message.step) == (6, 9, 9)
    assert (message.encoding, message.header) == ('mono8', header)
    np.testing.assert_array_equal(np.frombuffer(message.data, np.uint8).reshape(6, 9), mask)


@pytest.mark.parametrize(('shape', 'encoding'), [((6, 9), '32FC1'), ((6, 9, 3), '32FC3')])
def test_maps_are_floats_of_source_pixels(header: Header, shape, encoding: str) -> None:
    values = np.random.default_rng(3).random(shape, np.float32)
    message = messages.answer_message(header, values, DEPTH if len(shape) == 2 else NORMALS)
    assert (message.height, message.width, message.encoding) == (6, 9, encoding)
    assert message.step == 9 * values[0, 0].nbytes
    assert message.is_bigendian == (sys.byteorder == 'big')
    assert message.header == header
    np.testing.assert_array_equal(np.frombuffer(message.data, np.float32).reshape(shape), values)


@pytest.mark.parametrize('task', [DRIVABLE, SEMANTIC])
def test_label_info_names_every_class_but_unlabelled(header: Header, task) -> None:
    message = messages.label_info_message(header, task)
    found = [(entry.class_id, entry.class_name) for entry in message.class_map]
    assert found == list(enumerate(task.classes))


def test_classification_is_sorted_and_complete(header: Header) -> None:
    probabilities = np.array([0.1, 0.0, 0.6, 0.1, 0.2, 0.0], np.float32)
    message = messages.answer_message(header, probabilities, WEATHER)
    names = [result.class_id for result in message.results]
    assert names == ['clear', 'partly cloudy', 'rainy', 'overcast', 'snowy', 'foggy']
    assert message.results[0].score == pytest.approx(0.6)
    assert message.header == header


def test_overlay_is_bgr_and_jpeg(header: Header) -> None:
    rgb = np.zeros((16, 24, 3), np.uint8)
    rgb[..., 0] = 250
    message = messages.overlay_message(header, rgb)
    assert (message.encoding, message.step, message.header) == ('bgr8', 72, header)
    assert np.frombuffer(message.data, np.uint8)[:3].tolist() == [0, 0, 250]
    jpeg = messages.compressed_overlay_message(header, rgb)
    decoded = cv2.imdecode(np.frombuffer(jpeg.data, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_allclose(decoded[8, 12], [0, 0, 250], atol=6)
    assert 'jpeg' in jpeg.format


def test_a_track_is_a_detection_with_its_number_as_id(header: Header) -> None:
    found = detections((10, 20, 30, 60, 0.75, 2), (50, 20, 90, 60, 0.5, 0))
    tracks = Tracks(found.boxes, found.scores, found.labels, np.array([7, 12]), np.array([0, 1]))

    message = messages.tracks_message(header, tracks, DETECTION)

    plain = messages.answer_message(header, found, DETECTION)
    assert [item.id for item in message.detections] == ['7', '12']
    for track, detection in zip(message.detections, plain.detections, strict=True):
        assert (track.header, track.bbox, track.results) == (
            header, detection.bbox, detection.results,
        )  # fmt: skip
