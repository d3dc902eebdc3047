"""Several cameras in one bag: which topics they are, their order, whose ground truth is whose."""

from __future__ import annotations

import pytest
from drive_bags import START, TRUTH, header, image_cdr, picture, stereo_bag
from rosbags.rosbag2 import StoragePlugin, Writer

from mtl_evaluation.bags.bag import DriveBag
from mtl_evaluation.bags.bag_writer import DriveWriter, EncodedImage, MessageWriter
from mtl_evaluation.bags.cdr import COMPRESSED_IMAGE, DETECTIONS, IMAGE, BagError, serialise
from mtl_evaluation.truth.truth import Truth


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
    assert rear.model is None
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
