# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Bag files as they lie on disk: opening, their messages, and what to say when they are damaged.

rosbag2 sqlite3 and mcap through rosbags: folders (split over several files too) and single files;
uncompressed, with zstd or lz4 chunks (mcap), or with messages or files compressed by rosbag2.
A bag of unknown origin is opened in a child process with limits, see `guarded.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rosbags.interfaces import Connection

from mtl_evaluation.bags.bag_folder import SUFFIXES, BagReader
from mtl_evaluation.bags.storages import McapFile
from mtl_evaluation.messages.cdr import BagError, stamp_of
from mtl_perception.text import one_line, quoted

WINDOW_NS = 1_000_000_000
"""Messages of one stamp are looked for within this much recorded time of the first of them."""

WINDOW_BYTES = 512 << 20
"""And while no more than this waits: a recorder whose clock stands still must not fill memory."""

VIDEO_SUFFIXES = ('.mp4', '.avi', '.mkv', '.mov', '.webm', '.m4v', '.mpg', '.mpeg', '.ts')
HEADER_BYTES = 12
"""Every message that is read here begins with a std_msgs/Header."""
MAX_MESSAGE_BYTES = 256 << 20
ZSTD_MAGIC = b'\x28\xb5\x2f\xfd'


@dataclass(frozen=True)
class BagInfo:
    """What a bag says about itself.

    storage: `mcap` or `sqlite3`. compression: '', or what is compressed how, as `zstd chunks` (of
    an mcap file, by its first one), `zstd messages` or `zstd files`. files: names and `bytes` of
    the storage files. Times in ns of the recorder's clock, both 0 in an empty bag. topics: name,
    type and number of messages. custom: `custom_data` of metadata.yaml. notes: what of it is not
    read, and why.
    """

    storage: str
    compression: str
    files: tuple[str, ...]
    bytes: int
    start_ns: int
    end_ns: int
    topics: tuple[tuple[str, str, int], ...]
    custom: dict[str, str]
    notes: tuple[str, ...] = ()


def open_bag(path: Path) -> BagReader:
    """An opened bag; raises BagError naming what the path is instead."""
    if refusal := _no_bag(path):
        raise BagError(refusal)
    try:
        reader = BagReader(path)
        _check_types(reader)
    # rosbags, sqlite and zstd each raise classes of their own on damaged files.
    except Exception as error:
        raise BagError(damaged(path, error)) from error
    return reader


def _no_bag(path: Path) -> str:
    """What the path is, where it cannot be a bag; empty where it can."""
    expected = 'expected a folder with metadata.yaml or a .mcap or .db3 file'
    if not path.exists():
        return (
            f'no bag at {path}: nothing is there. Give the folder that `ros2 bag record` made, '
            f'or a .mcap or .db3 file.'
        )
    if path.is_dir():
        if (path / 'metadata.yaml').is_file():
            return ''
        files = sorted(item.name for item in path.iterdir() if item.suffix in SUFFIXES)
        if files:
            return (
                f'{path} has no metadata.yaml, as after a crashed recording. Give a file in it, '
                f'{path / files[0]}{f" (of {len(files)})" if files[1:] else ""}, which is read as '
                f'far as it goes; `ros2 bag reindex {path}` writes a new metadata.yaml.'
            )
        return (
            f'{path} is not a bag: a folder without metadata.yaml. For a folder of pictures use '
            f'--images.'
        )
    if path.suffix in SUFFIXES:
        return ''
    if path.suffix == '.bag':
        return (
            f'{path} is a bag of ROS 1. Make one of ROS 2 of it: '
            f'`rosbags-convert --src {path} --dst {path.with_suffix("")}`.'
        )
    if path.suffix in ('.zstd', '.zst', '.lz4', '.gz'):
        inner = path.with_suffix('')
        if inner.suffix in SUFFIXES:
            return (
                f'{path} is a compressed file of a bag: give its folder, if metadata.yaml is '
                f'there, or unpack it with `unzstd {path}` and give {inner.name}.'
            )
        return f'{path} is a compressed file, {expected}: unpack it first.'
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return f'{path} is not a bag: {expected}. For a video use --video.'
    return f'{path} is not a bag: {expected}.'


def bag_info(path: Path, reader: BagReader) -> BagInfo:
    """What an opened bag says about itself, without reading messages."""
    first = next(iter(reader.storages), None)
    mode = reader.metadata.mode
    compression = f'{reader.metadata.format} {mode}s' if mode else ''
    if not mode and isinstance(first, McapFile) and first.chunks and first.chunks[0].compression:
        compression = f'{first.chunks[0].compression} chunks'
    return BagInfo(
        'mcap' if isinstance(first, McapFile) else 'sqlite3',
        compression,
        tuple(sorted(item.name for item in reader.paths)),
        sum(item.stat().st_size for item in reader.paths),
        reader.start_ns,
        reader.end_ns,
        tuple(sorted((item.topic, item.msgtype, item.msgcount) for item in reader.connections)),
        dict(reader.metadata.custom or {}),
        tuple(reader.notes),
    )


def read_messages(
    path: Path, reader: BagReader, connections: Iterable[Connection]
) -> Iterator[tuple[str, int, bytes]]:
    """Topic, log time and CDR bytes in log order; raises BagError on damage."""
    wanted = list(connections)
    if not wanted:
        return
    try:
        for connection, log_ns, cdr in reader.messages(wanted):
            if not isinstance(cdr, bytes) or not isinstance(log_ns, int):
                raise BagError(
                    f'{path}: a message on {connection.topic} is {type(cdr).__name__} at '
                    f'{log_ns!r}, expected bytes at a time in ns'
                )
            if not HEADER_BYTES <= len(cdr) <= MAX_MESSAGE_BYTES:
                raise BagError(
                    f'{path}: a message of {len(cdr)} bytes on {connection.topic}, expected '
                    f'{HEADER_BYTES} to {MAX_MESSAGE_BYTES}; the recording is damaged'
                )
            if cdr[:4] == ZSTD_MAGIC:
                raise BagError(
                    f'{path}: the messages are compressed one by one, which only metadata.yaml '
                    f'says. Open the folder of the bag instead of the file in it.'
                )
            yield connection.topic, log_ns, cdr
    except (BagError, GeneratorExit):
        raise
    except Exception as error:
        raise BagError(damaged(path, error)) from error


def by_stamp(
    messages: Iterable[tuple[str, int, bytes]], payload: bool = True
) -> Iterator[tuple[int, dict[str, bytes], list[str]]]:
    """Bring messages of one header stamp together: stamp, CDR by topic, topics that repeated.

    Stamps come in order as far as WINDOW_NS reaches. A header stamp of 0 (drivers that set none) is
    replaced by the log time. Without `payload` the bytes are dropped at once. A BagError of
    `messages` comes after what was read before it.
    """
    waiting: Waiting = {}
    size = 0
    damage: BagError | None = None
    try:
        for topic, log_ns, cdr in messages:
            stamp = stamp_of(cdr) or log_ns
            _, group, repeated = waiting.setdefault(stamp, (log_ns, {}, []))
            if topic in group:
                repeated.append(topic)
            else:
                group[topic] = cdr if payload else b''
                size += len(group[topic])
            # The head of the dictionary is the group that has waited longest. Log times rise, but
            # for a clock that was set back between two files of a bag.
            while waiting and (
                abs(log_ns - next(iter(waiting.values()))[0]) > WINDOW_NS or size > WINDOW_BYTES
            ):
                done = _first(waiting)
                size -= sum(map(len, done[1].values()))
                yield done
    except BagError as error:
        damage = error
    while waiting:
        yield _first(waiting)
    if damage is not None:
        raise damage


Waiting = dict[int, tuple[int, dict[str, bytes], list[str]]]
"""By stamp: log time of its first message, CDR by topic, topics that repeated."""


def _first(waiting: Waiting) -> tuple[int, dict[str, bytes], list[str]]:
    stamp = min(waiting)
    _, group, repeated = waiting.pop(stamp)
    return stamp, group, repeated


def _check_types(reader: BagReader) -> None:
    """Raise TypeError where names and counts are not; names are written to terminals."""
    for item in reader.connections:
        for value, kind in ((item.topic, str), (item.msgtype, str), (item.msgcount, int)):
            if not isinstance(value, kind):
                raise TypeError(
                    f'topic {quoted(item.topic)}: {quoted(value)} is no {kind.__name__}'
                )
            if isinstance(value, str) and not value.isprintable():
                raise TypeError(f'topic {quoted(item.topic)}: {quoted(value)} is no name')


MOST_WORDS = 300
"""Characters of a library's message that are repeated: it may quote what it found."""


def damaged(path: Path, error: Exception) -> str:
    """The sentence about a bag in which the reader came across something impossible."""
    found = one_line(str(error), MOST_WORDS).rstrip('.') or type(error).__name__
    if isinstance(error, MemoryError):
        found = 'it asks for more memory than its reader may use, as a decompression bomb does'
    return (
        f'{path} is truncated or damaged: {found}. Copy it again, or save what is left with '
        f'`mcap recover` (.mcap) or `ros2 bag reindex` (folder).'
    )
