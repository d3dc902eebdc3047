"""Bags: what is written is read back, ground truth joins by stamp, damage is one clear sentence."""

from __future__ import annotations

import numpy as np
import pytest
from drive_bags import SECOND, START, TRUTH, header, image_cdr, jpeg, make_bag, picture
from rosbags.rosbag2 import CompressionMode, StoragePlugin, Writer
from rosbags.rosbag2.enums import CompressionFormat

from mtl_evaluation.bags import bag_file
from mtl_evaluation.bags.bag import DriveBag
from mtl_evaluation.bags.bag_file import by_stamp, open_bag, read_messages
from mtl_evaluation.bags.bag_writer import DriveWriter, EncodedImage, MessageWriter
from mtl_evaluation.bags.cdr import (
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
from mtl_evaluation.truth.truth import Truth, TruthBoxes
from mtl_perception.image_codec import ImageError


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
        writer.write_frame(START, EncodedImage(picture()), TRUTH)
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
        assert bag.repeated.first == [f'/camera/image_raw at {START}']
        assert bag.unmatched_truth.first == [f'/ground_truth/drivable at {START + 2}']


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
            for item in read_messages(bag.path, bag._reader, bag._connections([bag.image.topic])):
                read += 1
                yield item

        next(by_stamp(counted()))

    assert read <= 3  # the window is a second, so is the distance between frames


def test_an_unfinished_bag_leaves_nothing_under_its_name(tmp_path):
    with pytest.raises(RuntimeError), DriveWriter(tmp_path / 'bag') as writer:
        writer.write_frame(START, EncodedImage(picture()), Truth())
        raise RuntimeError

    assert list(tmp_path.iterdir()) == []


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


def test_where_one_camera_is_needed_several_must_be_chosen_from(tmp_path):
    with MessageWriter(tmp_path / 'bag') as writer:
        for topic in ('/left/image', '/right/image'):
            writer.write(topic, IMAGE, START, image_cdr(START))

    with (
        DriveBag(tmp_path / 'bag') as bag,
        pytest.raises(BagError, match=r'several image topics: /left/image, /right/image'),
    ):
        print(bag.image)
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


@pytest.mark.parametrize(
    ('plugin', 'mode'),
    [
        *((StoragePlugin.MCAP, mode) for mode in CompressionMode),
        (StoragePlugin.SQLITE3, CompressionMode.NONE),
        (StoragePlugin.SQLITE3, CompressionMode.FILE),
        (StoragePlugin.SQLITE3, CompressionMode.MESSAGE),
    ],
)
def test_every_storage_and_compression_reads_the_same(tmp_path, plugin, mode):
    writer = Writer(tmp_path / 'bag', version=9, storage_plugin=plugin)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection('/camera/image_raw', IMAGE, typestore=typestore())
        for index in range(5):
            writer.write(connection, START + index, image_cdr(START + index))

    with DriveBag(tmp_path / 'bag') as bag:
        frames = list(bag.frames())
        found = bag.info

    assert [frame.cdr for frame in frames] == [image_cdr(START + index) for index in range(5)]
    assert found.storage == plugin.name.lower()
    assert (
        found.compression
        == {
            CompressionMode.NONE: '',
            CompressionMode.FILE: 'zstd files',
            CompressionMode.MESSAGE: 'zstd messages',
            CompressionMode.STORAGE: 'zstd chunks',
        }[mode]
    )
    assert found.topics == (('/camera/image_raw', IMAGE, 5),)
    assert (found.start_ns, found.bytes > 0) == (START, True)


def test_one_image_that_cannot_be_decoded_does_not_end_the_bag(tmp_path):
    cdr = image_cdr(START + 1)
    with DriveWriter(tmp_path / 'bag') as writer:
        writer.write_frame(START, EncodedImage(picture()), Truth())
        writer.write('/camera/image_raw', IMAGE, START + 1, cdr[:30] + b'\xff' * 8 + cdr[38:])
        writer.write_frame(START + 2, EncodedImage(picture()), Truth())

    with DriveBag(tmp_path / 'bag') as bag:
        frames = list(bag.frames())

    frames[0].image()
    with pytest.raises(ImageError, match='cannot be decoded'):
        frames[1].image()
    frames[2].image()


def test_a_clock_that_stands_still_does_not_collect_the_bag(monkeypatch):
    monkeypatch.setattr(bag_file, 'WINDOW_BYTES', 1000)
    read = 0

    def messages():
        nonlocal read
        for index in range(100):
            read += 1
            yield 'image', START, image_cdr(START + index)

    groups = by_stamp(messages())

    assert next(groups)[0] == START
    assert read < 10
    assert [stamp - START for stamp, _, _ in groups] == list(range(1, 100))
