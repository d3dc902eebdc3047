# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Crafted bags: each is one clear sentence, none takes the process down, memory or time with it."""

from __future__ import annotations

import sqlite3
import struct
import subprocess
import sys
from binascii import crc32
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from drive_bags import START, header, image_cdr, make_bag, picture
from rosbags.rosbag2 import CompressionMode, StoragePlugin, Writer
from rosbags.rosbag2.enums import CompressionFormat

from mtl_evaluation.bags import bag_file
from mtl_evaluation.bags.bag import DriveBag
from mtl_evaluation.bags.bag_writer import DriveWriter, EncodedImage, MessageWriter
from mtl_evaluation.bags.guarded import GuardedBag, Limits
from mtl_evaluation.messages.cdr import (
    CLASSIFICATION,
    DETECTIONS,
    IMAGE,
    BagError,
    serialise,
    typestore,
)
from mtl_evaluation.truth.truth import Truth
from mtl_perception.image_codec import ImageError

CHUNK, FOOTER, STATISTICS, CHUNK_INDEX, MESSAGE = 0x06, 0x02, 0x0B, 0x08, 0x05


def read_all(path) -> list[Truth]:
    with DriveBag(path) as bag:
        for frame in bag.frames():
            frame.image()
        return [frame.truth() for frame in bag.frames()]


def one_sentence(path, match: str) -> None:
    with pytest.raises(BagError, match=match) as raised:
        read_all(path)
    assert str(path) in str(raised.value)
    assert 'Traceback' not in str(raised.value)


def records(data: bytes, start: int, end: int):
    """Opcode, place of the content and its length of every mcap record."""
    while start < end:
        length = struct.unpack_from('<Q', data, start + 1)[0]
        yield data[start], start + 9, length
        start += 9 + length


def place_of(data: bytes, opcode: int) -> int:
    """Where the content of the first record of a kind begins."""
    return next(at for code, at, _ in records(data, 8, len(data) - 8) if code == opcode)


def patch(file: Path, opcode: int, offset: int, content: bytes) -> None:
    """Overwrite bytes of the first record of a kind."""
    data = bytearray(file.read_bytes())
    at = place_of(bytes(data), opcode) + offset
    data[at : at + len(content)] = content
    file.write_bytes(data)


def plain_bag(tmp_path) -> Path:
    make_bag(tmp_path / 'bag', compress=False)
    return tmp_path / 'bag' / 'bag.mcap'


def test_chunk_checksums_are_checked(tmp_path):
    file = plain_bag(tmp_path)
    data = file.read_bytes()
    at = place_of(data, CHUNK)
    size = struct.unpack_from('<Q', data, at + 16)[0]
    start = at + 28 + 4 + 8
    right = crc32(data[start : start + size])

    patch(file, CHUNK, 24, struct.pack('<I', right))
    assert len(read_all(file)) == 20
    patch(file, CHUNK, 24, struct.pack('<I', right ^ 1))
    one_sentence(file, 'Chunk checksum mismatch')


@pytest.mark.parametrize(
    ('opcode', 'offset', 'content'),
    [
        (CHUNK_INDEX, 16, struct.pack('<Q', 3)),  # an index that points into the file's magic
        (CHUNK_INDEX, 16, struct.pack('<Q', 1 << 62)),
        (CHUNK_INDEX, 32, struct.pack('<I', 0xFFFFFFFF)),  # message index of 4 GiB
        (STATISTICS, 48, struct.pack('<Q', 7)),  # messages of the first topic
        (FOOTER, 0, struct.pack('<Q', 9)),
    ],
)
def test_an_index_that_lies(tmp_path, opcode, offset, content):
    file = plain_bag(tmp_path)
    patch(file, opcode, offset, content)

    one_sentence(file, 'truncated or damaged|has no camera images')


def test_counts_that_lie(tmp_path):
    for storage in ('mcap', 'sqlite3'):
        folder = make_bag(tmp_path / storage, storage)
        path = folder / 'metadata.yaml'
        metadata = yaml.safe_load(path.read_text())
        for topic in metadata['rosbag2_bagfile_information']['topics_with_message_count']:
            topic['message_count'] += 1
        path.write_text(yaml.safe_dump(metadata))

        one_sentence(folder, 'its index promises 21')


@pytest.mark.parametrize('length', [2 << 30, 1 << 62, (1 << 64) - 1])
def test_a_message_record_of_gigabytes(tmp_path, length):
    file = plain_bag(tmp_path)
    data = bytearray(file.read_bytes())
    chunk = place_of(bytes(data), CHUNK)
    size = struct.unpack_from('<Q', data, chunk + 16)[0]
    start = chunk + 28 + 4 + 8
    inner = bytes(data)
    message = next(at for code, at, _ in records(inner, start, start + size) if code == MESSAGE)
    struct.pack_into('<Q', data, message - 8, length)
    file.write_bytes(data)

    one_sentence(file, 'truncated or damaged')


def test_a_message_that_is_too_large_for_any_camera(tmp_path, monkeypatch):
    monkeypatch.setattr(bag_file, 'MAX_MESSAGE_BYTES', 100)

    one_sentence(plain_bag(tmp_path), r'a message of \d+ bytes on /.*, expected 12 to 100')


SQL = {
    'no such table': ('DROP TABLE messages', 'missing tables'),
    'no such column': ('ALTER TABLE messages RENAME COLUMN data TO content', 'no such column'),
    'text for bytes': ("UPDATE messages SET data = 'hello'", 'is str at'),
    'a number for bytes': ('UPDATE messages SET data = 7', 'is int at'),
    'words for times': ("UPDATE messages SET timestamp = 'now'", 'damaged'),
    'a word for a time': (
        "UPDATE messages SET timestamp = 'now' WHERE id = 30",
        "at 'now', expected|damaged",
    ),
    'a number for a topic': ("UPDATE topics SET name = x'00ff'", 'is no str|damaged'),
    'a message of three bytes': ("UPDATE messages SET data = x'000100'", 'a message of 3 bytes'),
    'an unknown encoding': ("UPDATE message_definitions SET encoding = 'x'", 'damaged'),
    'an empty schema table': ('DELETE FROM schema', 'damaged|index promises|has no'),
}


@pytest.mark.parametrize(('statement', 'message'), SQL.values(), ids=SQL)
def test_sqlite_files_with_another_schema(tmp_path, statement, message):
    make_bag(tmp_path / 'bag', 'sqlite3', compress=False)
    file = tmp_path / 'bag' / 'bag.db3'
    with sqlite3.connect(file) as connection:
        connection.execute(statement)
    connection.close()

    if statement.startswith('DELETE FROM schema'):
        assert len(read_all(file)) == 20  # older bags have none
    else:
        one_sentence(file, message)


METADATA = {
    'not yaml': '{',
    'a list': '- 1',
    'nothing but a version': 'rosbag2_bagfile_information: {version: 99}',
    'bomb': 'a: &a [x, x]\n'
    + '\n'.join(f'{b}: &{b} [{", ".join([f"*{a}"] * 9)}]' for a, b in pairwise('abcdefghi')),
}


@pytest.mark.parametrize('text', METADATA.values(), ids=METADATA)
def test_metadata_that_is_none(tmp_path, text):
    folder = make_bag(tmp_path / 'bag')
    (folder / 'metadata.yaml').write_text(text)

    one_sentence(folder, 'truncated or damaged')


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('topics_with_message_count', 7),
        ('relative_file_paths', ['../../../../etc/passwd']),
        ('relative_file_paths', [7]),
        ('custom_data', [1, 2]),
        ('version', 'nine'),
        ('compression_mode', 'file'),
        ('compression_mode', 'message'),
    ],
)
def test_metadata_with_anything_in_it(tmp_path, key, value):
    folder = make_bag(tmp_path / 'bag', compress=False)
    path = folder / 'metadata.yaml'
    metadata = yaml.safe_load(path.read_text())
    metadata['rosbag2_bagfile_information'][key] = value
    path.write_text(yaml.safe_dump(metadata))

    one_sentence(folder, 'truncated or damaged')


def detections_cdr(count: int) -> bytes:
    """A Detection2DArray that says it holds so many, and ends there."""
    cdr = serialise(typestore().types[DETECTIONS](header(START), []))
    return cdr[:-4] + struct.pack('<I', count)


@pytest.mark.parametrize('count', [1, 1 << 31, (1 << 32) - 1])
def test_truth_with_lying_lengths(tmp_path, count):
    with DriveWriter(tmp_path / 'bag') as writer:
        writer.write_frame(START, EncodedImage(picture()), Truth())
        writer.write('/ground_truth/detections', DETECTIONS, START, detections_cdr(count))

    with pytest.raises(BagError, match=r'/ground_truth/detections: .* cannot be decoded'):
        read_all(tmp_path / 'bag')


@pytest.mark.parametrize('length', [0, 1000, (1 << 31) + 5, (1 << 32) - 1])
def test_images_with_lying_lengths(tmp_path, length):
    cdr = image_cdr(START)
    at = len(cdr) - 6 * 24 - 4
    with MessageWriter(tmp_path / 'bag') as writer:
        cdr = cdr[:at] + struct.pack('<I', length) + cdr[at + 4 :]
        writer.write('/camera/image', IMAGE, START, cdr)

    with (
        DriveBag(tmp_path / 'bag') as bag,
        pytest.raises(ImageError, match=r'cannot be decoded|0 bytes'),
    ):
        next(bag.frames()).image()


def test_bytes_of_another_type_than_the_topic_says(tmp_path):
    cdr = serialise(typestore().types[CLASSIFICATION](header(START), []))
    with MessageWriter(tmp_path / 'bag') as writer:
        writer.write('/camera/image', IMAGE, START, cdr)

    with DriveBag(tmp_path / 'bag') as bag, pytest.raises(ImageError):
        next(bag.frames()).image()


def zeros_by_zstd(size: int) -> bytes:
    """A zstd frame (RFC 8878) of so many zeros: 4 bytes for every 128 KiB."""
    block = 128 << 10
    count = size // block
    blocks = [struct.pack('<I', (block << 3) | 2)[:3] + b'\0'] * (count - 1)
    last = struct.pack('<I', (block << 3) | 2 | 1)[:3] + b'\0'
    return b'\x28\xb5\x2f\xfd\x00\x58' + b''.join(blocks) + last


def test_a_message_that_unpacks_to_gigabytes(tmp_path):
    writer = Writer(tmp_path / 'bag', version=9, storage_plugin=StoragePlugin.SQLITE3)
    writer.set_compression(CompressionMode.MESSAGE, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection('/camera/image', IMAGE, typestore=typestore())
        writer.write(connection, START, image_cdr(START))
        writer.write(connection, START + 1, image_cdr(START + 1))
    with sqlite3.connect(tmp_path / 'bag' / 'bag.db3') as database:
        bomb = zeros_by_zstd(8 << 30)
        database.execute('UPDATE messages SET data = ? WHERE id = 2', (bomb,))
    database.close()
    assert len(bomb) < 300_000

    with GuardedBag(tmp_path / 'bag', limits=Limits(memory_bytes=1 << 30)) as bag:
        frames = bag.frames()
        with pytest.raises(BagError, match='asks for more memory than its reader may use'):
            list(frames)


def test_a_file_that_unpacks_to_gigabytes(tmp_path):
    writer = Writer(tmp_path / 'bag', version=9, storage_plugin=StoragePlugin.MCAP)
    writer.set_compression(CompressionMode.FILE, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection('/camera/image', IMAGE, typestore=typestore())
        writer.write(connection, START, image_cdr(START))
    (tmp_path / 'bag' / 'bag.mcap.zstd').write_bytes(zeros_by_zstd(1 << 30))

    with pytest.raises(BagError, match='File too large'):
        GuardedBag(tmp_path / 'bag', limits=Limits(unpacked_bytes=10 << 20))


def test_mutated_bags_are_read_or_refused():
    """Nothing but frames, BagError and ImageError; `support/bag_fuzz.py` says what is tried."""
    done = subprocess.run(
        [sys.executable, Path(__file__).parents[1] / 'support' / 'bag_fuzz.py', '80', '1'],
        capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[2],
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert "'error'" in done.stdout
    assert "'read'" in done.stdout
