"""Bags: what is written is read back, ground truth joins by stamp, damage is one clear sentence."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mtl_perception.image_codec import ImageError
from mtl_perception.replay.bag import DriveBag, by_stamp, open_bag, read_messages
from mtl_perception.replay.bag_writer import DriveWriter, EncodedImage, MessageWriter
from mtl_perception.replay.cdr import (
    COMPRESSED_IMAGE,
    IMAGE,
    LABEL_INFO,
    BagError,
    deserialise,
    serialise,
    stamp_of,
    typestore,
    with_stamp,
)
from mtl_perception.replay.truth import Truth, TruthBoxes

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND

TRUTH = Truth(
    TruthBoxes(
        np.array([[1, 2, 11, 22], [5.5, 6.5, 9.25, 12]], np.float32),
        ('car', 'traffic light'),
        np.array([False, True]),
    ),
    {'drivable': np.array([[0, 1], [2, 255]], np.uint8)},
    {'weather': 'foggy', 'timeofday': 'night'},
)


def picture(value: int = 0, height: int = 6, width: int = 8) -> np.ndarray:
    return np.full((height, width, 3), (value, 10, 200), np.uint8)


def jpeg(height: int = 16, width: int = 24) -> bytes:
    return cv2.imencode('.jpg', picture(90, height, width))[1].tobytes()


def header(stamp_ns: int):
    types = typestore().types
    time = types['builtin_interfaces/msg/Time'](*divmod(stamp_ns, SECOND))
    return types['std_msgs/msg/Header'](time, 'camera')


def image_cdr(stamp_ns: int) -> bytes:
    data = picture().reshape(-1)
    return serialise(typestore().types[IMAGE](header(stamp_ns), 6, 8, 'rgb8', 0, 24, data))


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('compress', [True, False])
def test_frames_and_truth_survive_the_bag(tmp_path, storage, compress):
    with DriveWriter(tmp_path / 'bag', storage, compress) as writer:
        for index in range(3):
            truth = TRUTH if index == 1 else Truth()
            matrix = np.diag([500.0, 500.0, 1.0])
            writer.write_frame(
                START + index * SECOND // 10, EncodedImage(picture(index)), truth, matrix
            )

    with DriveBag(tmp_path / 'bag') as bag:
        frames = list(bag.frames())
        assert bag.frames_total == 3
        assert bag.stamps() == [frame.stamp_ns for frame in frames]

    assert [frame.stamp_ns - START for frame in frames] == [0, SECOND // 10, SECOND // 5]
    assert [int(frame.image().pixels[0, 0, 0]) for frame in frames] == [0, 1, 2]
    assert not frames[0].truth()
    truth = frames[1].truth()
    np.testing.assert_array_equal(truth.boxes.boxes, TRUTH.boxes.boxes)
    assert truth.boxes.classes == ('car', 'traffic light')
    assert truth.boxes.ignore.tolist() == [False, True]
    np.testing.assert_array_equal(truth.masks['drivable'], TRUTH.masks['drivable'])
    assert truth.labels == TRUTH.labels


def test_labelled_but_empty_is_not_unlabelled(tmp_path):
    with DriveWriter(tmp_path / 'bag') as writer:
        writer.write_frame(START, EncodedImage(picture()), Truth(TruthBoxes.none()))

    with DriveBag(tmp_path / 'bag') as bag:
        truth = next(bag.frames()).truth()

    assert truth
    assert truth.boxes is not None
    assert truth.boxes.boxes.shape == (0, 4)


def test_compressed_images_keep_their_bytes_and_sizes_may_differ(tmp_path):
    pictures = [jpeg(16, 24), jpeg(32, 16)]
    with DriveWriter(tmp_path / 'bag') as writer:
        for index, data in enumerate(pictures):
            writer.write_frame(START + index, EncodedImage(data=data, format='jpeg'), Truth())

    with DriveBag(tmp_path / 'bag') as bag:
        frames = list(bag.frames())

    assert [deserialise(f.cdr, COMPRESSED_IMAGE).data.tobytes() for f in frames] == pictures
    assert [frame.image().pixels.shape for frame in frames] == [(16, 24, 3), (32, 16, 3)]


def test_broken_picture_in_a_sound_bag_is_an_image_error(tmp_path):
    with DriveWriter(tmp_path / 'bag') as writer:
        writer.write_frame(START, EncodedImage(data=b'\xff\xd8 no', format='jpeg'), Truth())

    with DriveBag(tmp_path / 'bag') as bag, pytest.raises(ImageError):
        next(bag.frames()).image()


def test_masks_carry_their_class_table_and_another_one_is_refused(tmp_path):
    types = typestore().types
    with DriveWriter(tmp_path / 'bag') as writer:
        writer.write_frame(START, EncodedImage(picture()), TRUTH)
    with DriveBag(tmp_path / 'bag') as bag:
        assert '/ground_truth/drivable/label_info' in [c.topic for c in bag.connections]

    with DriveWriter(tmp_path / 'other') as writer:
        names = [types['vision_msgs/msg/VisionClass'](0, 'road')]
        info = types[LABEL_INFO](header(START), names, 0.0)
        topic = '/ground_truth/drivable/label_info'
        writer.write(topic, LABEL_INFO, START, serialise(info))
        writer.write_frame(START, EncodedImage(picture()), Truth())
    with pytest.raises(BagError, match=r"label_info names classes \['road'\]"):
        DriveBag(tmp_path / 'other')


def test_stamp_can_be_read_and_replaced_without_decoding():
    cdr = image_cdr(START + 7)

    moved = with_stamp(cdr, 5 * SECOND + 9)

    assert stamp_of(cdr) == START + 7
    assert stamp_of(moved) == 5 * SECOND + 9
    assert len(moved) == len(cdr)
    before, after = deserialise(cdr, IMAGE), deserialise(moved, IMAGE)
    np.testing.assert_array_equal(before.data, after.data)
    assert after.header.frame_id == 'camera'


def test_messages_of_one_stamp_come_together_in_stamp_order():
    def message(topic: str, log_ms: int, stamp_ms: int):
        return topic, START + log_ms * 1_000_000, image_cdr(START + stamp_ms * 1_000_000)

    groups = list(
        by_stamp(
            [
                message('image', 0, 0),
                message('image', 100, 100),
                message('truth', 130, 0),  # late, but within the window
                message('image', 200, 100),  # a second image with the same stamp
                message('truth', 5000, 300),  # belongs to no image
            ]
        )
    )

    assert [(stamp - START) // 1_000_000 for stamp, _, _ in groups] == [0, 100, 300]
    assert [sorted(group) for _, group, _ in groups] == [['image', 'truth'], ['image'], ['truth']]
    assert [repeated for _, _, repeated in groups] == [[], ['image'], []]


def test_what_cannot_be_joined_is_counted(tmp_path):
    with DriveWriter(tmp_path / 'bag') as writer:
        writer.write_frame(START, EncodedImage(picture()), Truth())
        writer.write('/camera/image_raw', IMAGE, START + 1, image_cdr(START))
        writer.write('/ground_truth/drivable', IMAGE, START + 2, image_cdr(START + 2))

    with DriveBag(tmp_path / 'bag') as bag:
        assert len(list(bag.frames())) == 1
        assert (bag.repeated_stamps, bag.unmatched_truth) == (1, 1)


def test_stamps_of_zero_fall_back_to_log_time(tmp_path):
    with MessageWriter(tmp_path / 'bag') as writer:
        for index in range(2):
            writer.write('/front/image', IMAGE, START + index, image_cdr(0))

    with DriveBag(tmp_path / 'bag') as bag:
        assert bag.image.topic == '/front/image'
        assert bag.stamps() == [START, START + 1]


def test_reading_streams_instead_of_holding_the_bag(tmp_path):
    with DriveWriter(tmp_path / 'bag') as writer:
        for index in range(50):
            writer.write_frame(START + index * SECOND, EncodedImage(picture()), Truth())
    read = 0

    with DriveBag(tmp_path / 'bag') as bag:

        def counted():
            nonlocal read
            for item in read_messages(bag.path, bag._reader, [bag.image]):
                read += 1
                yield item

        next(by_stamp(counted()))

    assert read <= 3  # the window is a second, so is the distance between frames


def test_an_unfinished_bag_leaves_nothing_under_its_name(tmp_path):
    with pytest.raises(RuntimeError), DriveWriter(tmp_path / 'bag') as writer:
        writer.write_frame(START, EncodedImage(picture()), Truth())
        raise RuntimeError

    assert list(tmp_path.iterdir()) == []


def make_bag(path, storage='mcap', compress=True):
    with DriveWriter(path, storage, compress) as writer:
        for index in range(20):
            writer.write_frame(START + index * SECOND // 10, EncodedImage(picture(index)), TRUTH)
    return path


def read_all(path):
    with DriveBag(path) as bag:
        return [frame.truth() for frame in bag.frames()]


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_truncated_bags_say_so(tmp_path, storage):
    folder = make_bag(tmp_path / 'bag', storage, compress=storage == 'mcap')
    file = next(p for p in folder.iterdir() if p.suffix in ('.mcap', '.db3'))
    whole = file.read_bytes()

    for length in (0, 5, 100, len(whole) // 2, len(whole) - 5000):
        file.write_bytes(whole[:length])
        for path in (folder, file):
            with pytest.raises(BagError, match='truncated or damaged'):
                read_all(path)


def test_a_single_bag_file_is_a_bag_too(tmp_path):
    folder = make_bag(tmp_path / 'bag')

    assert len(read_all(folder / 'bag.mcap')) == 20


def test_the_file_of_a_bag_with_compressed_messages_is_not_enough(tmp_path):
    folder = make_bag(tmp_path / 'bag', 'sqlite3')

    assert len(read_all(folder)) == 20
    with pytest.raises(BagError, match='Open the folder of the bag instead'):
        read_all(next(folder.glob('*.db3')))


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda path: None, 'nothing is there'),
        (lambda path: path.mkdir(), 'a folder without metadata.yaml'),
        (lambda path: path.write_text('x'), 'expected a folder with metadata.yaml or'),
    ],
)
def test_not_a_bag(tmp_path, make, message):
    make(tmp_path / 'thing')

    with pytest.raises(BagError, match=message):
        open_bag(tmp_path / 'thing')


def test_metadata_that_is_not_one(tmp_path):
    (tmp_path / 'metadata.yaml').write_text('hello: world')

    with pytest.raises(BagError, match='truncated or damaged'):
        open_bag(tmp_path)


def test_no_camera_names_what_is_there(tmp_path):
    with MessageWriter(tmp_path / 'bag') as writer:
        writer.write('/ground_truth/drivable', IMAGE, START, image_cdr(START))

    with pytest.raises(BagError, match=r'no camera images; it holds /ground_truth/drivable'):
        DriveBag(tmp_path / 'bag')


def test_several_cameras_must_be_chosen_from(tmp_path):
    with MessageWriter(tmp_path / 'bag') as writer:
        for topic in ('/left/image', '/right/image'):
            writer.write(topic, IMAGE, START, image_cdr(START))

    with pytest.raises(BagError, match=r'several image topics: /left/image, /right/image'):
        DriveBag(tmp_path / 'bag')
    with pytest.raises(BagError, match='no image topic /top'):
        DriveBag(tmp_path / 'bag', '/top')
    with DriveBag(tmp_path / 'bag', '/right/image') as bag:
        assert bag.image.topic == '/right/image'


def test_malformed_truth_names_its_topic(tmp_path):
    with DriveWriter(tmp_path / 'bag') as writer:
        writer.write_frame(START, EncodedImage(picture()), Truth())
        writer.write('/ground_truth/drivable', IMAGE, START, image_cdr(START))

    with (
        DriveBag(tmp_path / 'bag') as bag,
        pytest.raises(BagError, match='/ground_truth/drivable: expected a mono8 class mask'),
    ):
        next(bag.frames()).truth()
