# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The storage files of a bag, read by rosbags, and what rosbags refuses although it can be read.

rosbags opens a `.db3` without its write-ahead log, and not at all where its path holds `#`, `?` or
`%`; an `.mcap` without a footer, as a crashed recorder leaves it, of another profile than `ros2` or
with a channel that is no ROS topic, is refused as a whole. Here each is read as far as it goes, and
`notes` says what was left out. QoS profiles are not read: nothing here needs them, and what a
recorder writes there differs from version to version.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

from rosbags.interfaces import Connection, ConnectionExtRosbag2
from rosbags.rosbag2.errors import ReaderError
from rosbags.rosbag2.storage_mcap import (
    ChunkInfo,
    McapReader,
    Schema,
    read_exact,
    read_sized,
    read_string,
)
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Reader

from mtl_perception.text import quoted

MCAP_MAGIC = b'\x89MCAP0\r\n'
FOOTER_BYTES = 37
HEADER, FOOTER, MESSAGE, CHUNK, DATA_END = 0x01, 0x02, 0x05, 0x06, 0x0F
ROS_SCHEMAS = ('ros2msg', 'ros2idl', 'omgidl')

Storage = McapReader | Sqlite3Reader


def open_storage(path: Path) -> SqliteFile | McapFile:
    """An opened storage file, by its suffix; raises what rosbags and its libraries do."""
    storage: SqliteFile | McapFile = (SqliteFile if path.suffix == '.db3' else McapFile)(path)
    storage.open()
    return storage


class SqliteFile(Sqlite3Reader):
    """A `.db3` with what its write-ahead log adds.

    The log is merged into a copy in TMPDIR: the bag itself is not written to.
    """

    def __init__(self, path: Path) -> None:
        """Nothing is opened yet."""
        super().__init__(_as_uri(path))
        self.notes: list[str] = []
        self._file = path
        self._scratch: TemporaryDirectory[str] | None = None

    def open(self) -> None:
        """Open it."""
        log = self._file.with_name(f'{self._file.name}-wal')
        if log.is_file() and log.stat().st_size:
            self._scratch = TemporaryDirectory(prefix='mtl-perception-')
            copy = Path(self._scratch.name) / 'copy.db3'
            shutil.copyfile(self._file, copy)
            shutil.copyfile(log, f'{copy}-wal')
            connection = sqlite3.connect(copy)
            try:
                connection.execute('PRAGMA journal_mode=DELETE').fetchall()
            finally:
                connection.close()
            self.path = _as_uri(copy)
            self.notes.append(
                f'{self._file.name} was not closed by its recorder: the messages in {log.name} '
                f'are read as well'
            )
        super().open()

    def close(self) -> None:
        """Close it, and remove the copy."""
        try:
            super().close()
        finally:
            if self._scratch is not None:
                self._scratch.cleanup()


def _as_uri(path: Path) -> Path:
    """The path as rosbags pastes it into a URI."""
    return Path(quote(os.fsencode(path.absolute())))


class McapFile(McapReader):
    """An `.mcap`, also one that breaks off or is of another profile."""

    def __init__(self, path: Path) -> None:
        """Nothing is opened yet."""
        super().__init__(path)
        self._name = path.name
        self.schemas = _Schemas()
        self.channels = _Channels()
        self.notes: list[str] = []

    def _open(self) -> None:
        bio = self.bio
        assert bio
        if not (magic := bio.read(len(MCAP_MAGIC))):
            raise ReaderError('the file is empty')
        if magic != MCAP_MAGIC or bio.read(1) != bytes([HEADER]):
            raise ReaderError('it does not begin as an mcap file does')
        profile = read_string(BytesIO(read_sized(bio)))
        if profile == 'ros1':
            raise ReaderError('it is of ROS 1; `rosbags-convert --src X --dst Y` makes a ROS 2 bag')
        self.data_start = bio.tell()
        size = bio.seek(0, os.SEEK_END)
        summary = self._summary_start(size)
        self.data_end = summary if summary else size - FOOTER_BYTES
        if summary is None:
            self._salvage(size)
        elif summary:
            self.read_index()
        if self.statistics is None or not self.schemas:
            self.connections.clear()
            self.chunks.clear()
            self.meta_scan()
            self._find_chunks()
        assert self.statistics is not None
        counts = self.statistics.channel_message_counts
        others = [item for item in self.connections if _encoding(item) != 'cdr']
        if others:
            names = [f'{item.topic} ({_encoding(item)})' for item in others]
            self.notes.append(f'left out, since they are no ROS messages: {quoted(names)}')
        if profile != 'ros2':
            self.notes.append(f'{self._name} is of profile {quoted(profile)}, not ros2')
        self.connections = [
            item._replace(msgcount=counts.get(item.id, 0))
            for item in self.connections
            if _encoding(item) == 'cdr'
        ]
        there = self.statistics.message_count
        first, last = self.statistics.start_time, self.statistics.end_time
        self.metadata = self.metadata._replace(
            duration=last - first + 1 if there else 0,
            start_time=first if there else (1 << 63) - 1,
            end_time=last + 1 if there else 0,
            message_count=there,
        )

    def _summary_start(self, size: int) -> int | None:
        """Where the summary begins, 0 where there is none; None where the file breaks off."""
        assert self.bio
        if size < self.data_start + FOOTER_BYTES:
            return None
        self.bio.seek(size - FOOTER_BYTES)
        footer = self.bio.read(FOOTER_BYTES)
        if footer[-len(MCAP_MAGIC) :] != MCAP_MAGIC or footer[0] != FOOTER:
            return None
        start: int = struct.unpack_from('<Q', footer, 9)[0]
        if start and not self.data_start <= start <= size - FOOTER_BYTES:
            raise ReaderError('its footer points outside the file')
        return start

    def _salvage(self, size: int) -> None:
        """Read up to the last whole record, and say what is lost."""
        end = self.data_start
        for code, start, length in self._records(size):
            if code == DATA_END:
                break
            end = start + length
        self.data_end = end
        if end == self.data_start:
            raise ReaderError('it breaks off before its first whole record')
        self.notes.append(
            f'{self._name} breaks off, as after a crash of the recorder or a copy that was '
            f'stopped: {size - end} bytes behind the last whole record are left out'
        )

    def _find_chunks(self) -> None:
        """Index the chunks, so that messages come in the order of their times."""
        assert self.bio
        for code, start, length in self._records(self.data_end):
            if code == MESSAGE:  # no chunks, or not only
                self.chunks.clear()
                return
            if code != CHUNK:
                continue
            self.bio.seek(start)
            first, last, unpacked, _ = struct.unpack('<QQQI', read_exact(self.bio, 28))
            compression = read_string(self.bio)
            (packed,) = struct.unpack('<Q', read_exact(self.bio, 8))
            every = {item.id: 1 for item in self.connections}
            self.chunks.append(
                ChunkInfo(
                    first, last, start - 9, length + 9, {}, 0, compression, packed, unpacked, every
                )
            )

    def _records(self, end: int) -> Iterator[tuple[int, int, int]]:
        """Opcode, start and length of every record that is whole."""
        assert self.bio
        at = self.data_start
        while at + 9 <= end:
            self.bio.seek(at)
            code, length = struct.unpack('<BQ', read_exact(self.bio, 9))
            if not code or at + 9 + length > end:
                return
            yield code, at + 9, length
            at += 9 + length


def _encoding(connection: Connection) -> str:
    """How its messages are serialised: `cdr`, or what others write into mcap files."""
    assert isinstance(connection.ext, ConnectionExtRosbag2)
    return connection.ext.serialization_format


class _Schemas(dict[int, Schema]):
    """Schemas of which those that are no ROS definition are kept without their text."""

    def __setitem__(self, key: int, value: Schema) -> None:
        known = value.encoding in (*ROS_SCHEMAS, '')
        super().__setitem__(key, value if known else value._replace(encoding='', data=''))


class _Channels(dict[int, Any]):
    """Channels without their metadata, which holds the QoS profiles."""

    def __setitem__(self, key: int, value: Any) -> None:
        super().__setitem__(key, value._replace(metadata=b''))
