# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Bags: what is written is read back, ground truth joins by stamp, damage is one clear sentence."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from drive_bags import SECOND, START, TRUTH, header, image_cdr, jpeg, make_bag, picture
from rosbags.rosbag2 import CompressionMode, StoragePlugin, Writer
from rosbags.rosbag2.enums import CompressionFormat

from mtl_evaluation.bags import bag_file
from mtl_evaluation.bags.bag import DriveBag
from mtl_evaluation.bags.bag_file import by_stamp, open_bag, read_messages
from mtl_evaluation.bags.bag_writer import DriveWriter, EncodedImage, MessageWriter
from mtl_evaluation.messages.cdr import (
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
    alone = START + 1_000_000_000
    with DriveWriter(tmp_path / 'bag') as writer:
        writer.write_frame(START, EncodedImage(picture()), Truth())
        writer.write('/camera/image_raw', IMAGE, START + 1, image_cdr(START))
        writer.write('/ground_truth/drivable', IMAGE, alone, image_cdr(alone))

    with DriveBag(tmp_path / 'bag') as bag:
        assert len(list(bag.frames())) == 1
        assert bag.repeated.first == [f'/camera/image_raw at {START}']
        assert bag.unmatched_truth.first == [f'/ground_truth/drivable at {alone}']


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
            if storage == 'mcap' and length > 100:
                continue  # read as far as it goes, see below
            with pytest.raises(BagError, match='truncated or damaged'):
                read_all(path)


def notes_of(path):
    with DriveBag(path) as bag:
        return ' '.join(bag.info.notes)


def test_messages_in_the_log_of_a_database_are_read(tmp_path):
    """A recorder that crashed leaves the last ones in `.db3-wal`."""
    make_bag(tmp_path / 'bag', 'sqlite3', compress=False)
    file = tmp_path / 'bag' / 'bag.db3'
    code = f"""
import os, sqlite3
connection = sqlite3.connect({str(file)!r})
connection.execute('PRAGMA journal_mode=WAL')
connection.execute('PRAGMA wal_autocheckpoint=0')
rows = connection.execute('SELECT topic_id, timestamp, data FROM messages').fetchall()
for topic, time, data in rows:
    later = data[:4] + (int.from_bytes(data[4:8], 'little') + 60).to_bytes(4, 'little') + data[8:]
    connection.execute('INSERT INTO messages(topic_id, timestamp, data) VALUES (?, ?, ?)',
                       (topic, time + 60 * 10**9, later))
connection.commit()
os._exit(9)
"""
    subprocess.run([sys.executable, '-c', code], check=False)
    before = file.read_bytes()

    assert len(read_all(file)) == 40
    assert 'bag.db3-wal are read as well' in notes_of(file)
    assert file.read_bytes() == before
    assert Path(f'{file}-wal').stat().st_size


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('name', ['a#b', 'a?b', 'a%20b', 'fahrt_\udce4'])
def test_a_path_may_hold_anything(tmp_path, storage, name):
    folder = make_bag(tmp_path / 'bag', storage, compress=False).rename(tmp_path / name)

    assert len(read_all(folder)) == 20
    assert len(read_all(next(path for path in folder.iterdir() if path.suffix != '.yaml'))) == 20


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('profiles', ['', '- history: 9', [], [{'reliability': 'new'}]])
def test_qos_profiles_are_nothing_that_reading_depends_on(tmp_path, storage, profiles):
    folder = make_bag(tmp_path / 'bag', storage)

    def edit(information):
        for topic in information['topics_with_message_count']:
            topic['topic_metadata']['offered_qos_profiles'] = profiles

    change_metadata(folder, edit)

    assert len(read_all(folder)) == 20


def change_metadata(folder, edit):
    path = folder / 'metadata.yaml'
    metadata = yaml.safe_load(path.read_text())
    edit(metadata['rosbag2_bagfile_information'])
    path.write_text(yaml.safe_dump(metadata))


def test_a_newer_metadata_version_is_read_as_far_as_it_is_known(tmp_path):
    folder = make_bag(tmp_path / 'bag')
    change_metadata(folder, lambda data: data.update(version=10, something={'new': 1}))

    assert len(read_all(folder)) == 20
    assert 'version 10, newer than 9' in notes_of(folder)


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_the_parts_of_a_split_bag_that_are_there_are_read(tmp_path, storage):
    folder = split_bag(tmp_path / 'bag', storage)
    first, second = sorted(path for path in folder.iterdir() if path.suffix != '.yaml')
    with DriveBag(folder) as bag:
        assert (bag.frames_total, bag.info.notes) == (40, ())

    second.unlink()

    assert len(read_all(folder)) == 20
    assert (
        f"1 of 2 files of the bag are missing and their messages left out: ['{second.name}']"
        in (notes_of(folder))
    )
    first.unlink()
    with pytest.raises(BagError, match='none of its files is there'):
        read_all(folder)


def split_bag(path, storage):
    """Two bags as one of two files."""
    make_bag(path, storage, compress=False)
    other = make_bag(path.with_name('other'), storage, compress=False)
    file = next(item for item in other.iterdir() if item.suffix != '.yaml')
    file.rename(path / f'z{file.suffix}')

    def edit(data):
        data['relative_file_paths'].append(f'z{file.suffix}')
        for topic in data['topics_with_message_count']:
            topic['message_count'] *= 2

    change_metadata(path, edit)
    return path


def test_an_mcap_file_that_breaks_off_is_read_up_to_there(tmp_path):
    """As a crashed recorder leaves it: no index, no footer, the last chunk not whole."""
    with DriveWriter(tmp_path / 'bag', compress=False) as writer:
        for index in range(20):
            big = np.full((400, 500, 3), index, np.uint8)  # two make a chunk
            writer.write_frame(START + index * SECOND // 10, EncodedImage(big), Truth())
    file = tmp_path / 'bag' / 'bag.mcap'
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])

    assert 8 <= len(read_all(file)) <= 10
    assert 'bag.mcap breaks off' in notes_of(file)
    with pytest.raises(BagError, match='its index promises 20'):
        read_all(tmp_path / 'bag')


@pytest.mark.parametrize('profile', [b'', b'abcd'])
def test_an_mcap_file_of_another_profile_is_read(tmp_path, profile):
    file = make_bag(tmp_path / 'bag') / 'bag.mcap'
    data = file.read_bytes()
    header = len(b'\x89MCAP0\r\n')
    assert data[header + 9 :].startswith(b'\4\0\0\0ros2')
    (length,) = struct.unpack_from('<Q', data, header + 1)
    record = struct.pack('<BQI', 1, length - 4 + len(profile), len(profile)) + profile
    data = data[:header] + record + data[header + 9 + 8 :]
    # Other writers keep no summary: then nothing points at places that have moved.
    file.write_bytes(data if profile else data[:-37])

    assert len(read_all(file)) == 20
    assert f'of profile {profile.decode()!r}' in notes_of(file)


def test_an_mcap_file_of_ros_1_is_named(tmp_path):
    file = make_bag(tmp_path / 'bag') / 'bag.mcap'
    file.write_bytes(file.read_bytes().replace(b'\4\0\0\0ros2', b'\4\0\0\0ros1', 1))

    with pytest.raises(BagError, match=r'ROS 1.*rosbags-convert'):
        read_all(file)


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


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('drive.bag', r'a bag of ROS 1.*rosbags-convert'),
        ('drive.db3.zstd', r'a compressed file of a bag.*unzstd .*drive.db3'),
        ('drive.mcap.zst', 'a compressed file of a bag'),
        ('drive.tar.gz', 'unpack it first'),
        ('drive.mp4', 'For a video use --video'),
    ],
)
def test_a_file_is_called_what_it_is(tmp_path, name, message):
    (tmp_path / name).write_bytes(b'x')

    with pytest.raises(BagError, match=message) as caught:
        open_bag(tmp_path / name)
    assert ('video' in str(caught.value)) == name.endswith('mp4')


def test_the_files_of_a_folder_without_metadata_are_named(tmp_path):
    folder = make_bag(tmp_path / 'bag')
    (folder / 'metadata.yaml').unlink()

    with pytest.raises(BagError, match=r'no metadata.yaml.*Give a file in it, .*bag/bag\.mcap'):
        open_bag(folder)


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
