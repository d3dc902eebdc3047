# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Several cameras in one bag: which topics they are, their order, whose ground truth is whose."""

from __future__ import annotations

import numpy as np
import pytest
from drive_bags import SECOND, START, TRUTH, header, image_cdr, picture, stereo_bag
from rosbags.rosbag2 import StoragePlugin, Writer

from mtl_evaluation.bags.bag import DriveBag
from mtl_evaluation.bags.bag_writer import DriveWriter, EncodedImage, MessageWriter
from mtl_evaluation.bags.guarded import GuardedBag
from mtl_evaluation.messages.cdr import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    DETECTIONS,
    IMAGE,
    BagError,
    camera_info_message,
    serialise,
)
from mtl_evaluation.truth.truth import Truth, TruthPlaces
from mtl_perception.geometry import Mount


def test_every_frame_of_every_camera_comes_in_a_fixed_order(tmp_path):
    with DriveBag(stereo_bag(tmp_path / 'bag')) as bag:
        frames = list(bag.frames())
        again = list(bag.frames())
        assert bag.frames_total == len(frames) == 6
        front, rear = bag.cameras

    assert frames == again
    assert [(frame.camera.namespace, frame.index) for frame in frames] == [
        ('/front', 0), ('/front', 1), ('/rear', 0), ('/front', 2), ('/front', 3), ('/rear', 1),
    ]  # fmt: skip
    assert (front.topic, rear.topic) == ('/front/image_raw', '/rear/image_raw/compressed')
    assert (front.encoding, front.size, rear.encoding, rear.size) == (
        'rgb8', (8, 6), 'jpeg', (24, 16),
    )  # fmt: skip
    assert (front.model.fx, front.model.fy, front.model.cx, front.model.cy) == (500, 510, 4, 3)
    assert (front.model.width, front.model.height) == (8, 6)
    assert (rear.model, rear.model_note) == (None, 'no CameraInfo')
    assert [frame.name for frame in frames][:3] == ['f0.png', 'f1.png', '']


def test_each_camera_has_the_truth_of_its_namespace(tmp_path):
    with DriveBag(stereo_bag(tmp_path / 'bag')) as bag:
        truths = {(frame.topic, frame.index): frame.truth() for frame in bag.frames()}
        assert bag.unmatched_truth.count == 0

    assert truths['/front/image_raw', 0].labels == {'weather': 'foggy'}
    assert not truths['/front/image_raw', 0].masks
    assert truths['/rear/image_raw/compressed', 1].masks.keys() == {'drivable'}


def test_topics_choose_cameras(tmp_path):
    stereo_bag(tmp_path / 'bag')
    wanted = ['/rear/image_raw/compressed', '/front/image_raw']

    with DriveBag(tmp_path / 'bag', wanted[:1]) as bag:
        assert [frame.topic for frame in bag.frames()] == wanted[:1] * 2
    with DriveBag(tmp_path / 'bag', wanted) as bag:
        assert [camera.topic for camera in bag.cameras] == sorted(wanted)


def test_a_compressed_copy_is_no_second_camera(tmp_path):
    with MessageWriter(tmp_path / 'bag') as writer:
        writer.write('/camera/image_raw/compressed', COMPRESSED_IMAGE, START, image_cdr(START))
        writer.write('/camera/image_raw', IMAGE, START, image_cdr(START))

    with DriveBag(tmp_path / 'bag') as bag:
        assert bag.image.topic == '/camera/image_raw'


def test_truth_that_may_belong_to_either_camera_is_refused(tmp_path):
    with DriveWriter(tmp_path / 'bag') as writer:
        writer.write_frame(START, EncodedImage(picture()), TRUTH)
        writer.write('/rear/image', IMAGE, START, image_cdr(START))

    with pytest.raises(BagError, match='Choose a camera with --topic, or record it as'):
        DriveBag(tmp_path / 'bag')
    with DriveBag(tmp_path / 'bag', '/camera/image_raw') as bag:
        assert next(bag.frames()).truth()


@pytest.mark.parametrize(
    ('topic', 'message'),
    [
        ('/ground_truth/detections', rf'is {IMAGE}, expected {DETECTIONS}'),
        ('/ground_truth/scene/weather', r'expected vision_msgs/msg/Classification'),
    ],
)
def test_truth_of_the_wrong_type_is_named(tmp_path, topic, message):
    with DriveWriter(tmp_path / 'bag') as writer:
        writer.write_frame(START, EncodedImage(picture()), Truth())
        writer.write(topic, IMAGE, START, image_cdr(START))

    with pytest.raises(BagError, match=f'{topic} {message}' if 'is ' in message else message):
        DriveBag(tmp_path / 'bag')


def test_other_things_under_ground_truth_are_left_alone(tmp_path):
    header_cdr = serialise(header(START))
    with DriveWriter(tmp_path / 'bag') as writer:
        writer.write_frame(START, EncodedImage(picture()), Truth())
        writer.write('/ground_truth/pose', 'std_msgs/msg/Header', START, header_cdr)

    with DriveBag(tmp_path / 'bag') as bag:
        assert not next(bag.frames()).truth()


def test_a_message_definition_that_is_not_ours_is_refused(tmp_path):
    writer = Writer(tmp_path / 'bag', version=9, storage_plugin=StoragePlugin.MCAP)
    with writer:
        connection = writer.add_connection(
            '/camera/image_raw', IMAGE, msgdef='uint8 x', rihs01='RIHS01_' + '0' * 64
        )
        writer.write(connection, START, image_cdr(START))

    with pytest.raises(BagError, match=r'/camera/image_raw was recorded with another definition'):
        DriveBag(tmp_path / 'bag')


def write_infos(path, *cameras, topic='/front/image_raw'):
    """A frame for each (model, distortion, fx), a second apart: an image and its CameraInfo."""
    with MessageWriter(path) as writer:
        for index, (model, distortion, fx) in enumerate(cameras):
            stamp = START + index * SECOND
            matrix = np.array([[fx, 0, 4], [0, 510, 3], [0, 0, 1.0]])
            info = camera_info_message(header(stamp), 8, 6, matrix, model, distortion)
            writer.write('/front/camera_info', CAMERA_INFO, stamp, serialise(info))
            writer.write(topic, IMAGE, stamp, image_cdr(stamp))
    return path


PLUMB_BOB = (-0.257, 0.044, 0.0, 0.0, -0.115)


@pytest.mark.parametrize('kind', [DriveBag, GuardedBag])
def test_a_camera_is_known_with_its_distortion_and_as_it_was_at_the_frame(tmp_path, kind):
    path = write_infos(
        tmp_path / 'bag', ('plumb_bob', PLUMB_BOB, 500.0), ('plumb_bob', PLUMB_BOB, 500.0),
        ('plumb_bob', PLUMB_BOB, 700.0), ('double_sphere', (0.1,), 700.0),
    )  # fmt: skip

    with kind(path) as bag:
        first = bag.image.model
        cameras = [frame.camera for frame in bag.frames()]

    assert (first.model, first.distortion, first.fx) == ('plumb_bob', PLUMB_BOB, 500.0)
    assert [camera.model and camera.model.fx for camera in cameras] == [500.0, 500.0, 700.0, None]
    assert "unknown distortion model 'double_sphere'" in cameras[3].model_note


def test_rectified_topics_have_no_distortion(tmp_path):
    path = write_infos(tmp_path / 'bag', ('plumb_bob', PLUMB_BOB, 500.0), topic='/front/image_rect')

    with DriveBag(path) as bag:
        model = bag.image.model

    assert (model.model, model.distortion, model.fx) == ('pinhole', (), 500.0)


@pytest.mark.parametrize('kind', [DriveBag, GuardedBag])
def test_true_places_come_back(tmp_path, kind):
    feet = np.array([[12.0, -1.5, 0.0], [np.nan, np.nan, np.nan]])
    places = TruthPlaces(feet, Mount.of(1.4, 0.01, 0.05))
    with DriveWriter(tmp_path / 'bag') as writer:
        truth = Truth(TRUTH.boxes, TRUTH.masks, TRUTH.labels, places)
        writer.write_frame(START, EncodedImage(picture()), truth)
        writer.write_frame(START + SECOND, EncodedImage(picture()), TRUTH)

    with kind(tmp_path / 'bag') as bag:
        placed, plain = (frame.truth() for frame in bag.frames())

    np.testing.assert_allclose(placed.places.feet, feet, rtol=1e-6)
    np.testing.assert_allclose(placed.places.mount.matrix, places.mount.matrix, atol=1e-12)
    assert placed.places.mount.translation == (0.0, 0.0, 1.4)
    assert plain.places is None


def test_places_that_are_not_one_for_each_box_are_refused(tmp_path):
    places = TruthPlaces(np.zeros((1, 3)), Mount.of(1.4))
    with DriveWriter(tmp_path / 'bag') as writer:
        truth = Truth(TRUTH.boxes, places=places)
        writer.write_frame(START, EncodedImage(picture()), truth)

    with DriveBag(tmp_path / 'bag') as bag, pytest.raises(BagError, match='2 true boxes and 1 obj'):
        next(iter(bag.frames())).truth()
