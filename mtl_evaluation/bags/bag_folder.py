# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""A bag as a whole: its storage files, their topics taken together, and what metadata.yaml adds.

What the storage files hold counts. metadata.yaml says which files there are, how they are
compressed, how many messages were recorded and by which definitions; where it and the files differ,
what can be read is read, and `notes` says what was left out.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from rosbags.interfaces import (
    Connection,
    ConnectionExtRosbag2,
    MessageDefinition,
    MessageDefinitionFormat,
)
from rosbags.rosbag2.errors import ReaderError

from mtl_evaluation.bags.storages import McapFile, SqliteFile, open_storage
from mtl_perception.text import quoted

try:
    from compression import zstd  # Python 3.14
except ImportError:
    from backports import zstd

ROOT = 'rosbag2_bagfile_information'
NEWEST_VERSION = 9
SUFFIXES = ('.mcap', '.db3')
COMPRESSED_SUFFIX = '.zstd'


@dataclass(frozen=True)
class Metadata:
    """The part of metadata.yaml that is used; plain defaults for a single file.

    files: names of the storage files. mode: what is compressed, `file` or `message`. counts and
    digests: by topic and type.
    """

    files: tuple[str, ...] = ()
    mode: str = ''
    format: str = ''
    counts: Mapping[tuple[str, str], int] | None = None
    digests: Mapping[tuple[str, str], str] | None = None
    custom: Mapping[str, str] | None = None
    version: int = NEWEST_VERSION


class BagReader:
    """An opened bag: a folder with metadata.yaml, or one storage file.

    connections: one for each topic and type, with the messages that are there (or were promised).
    paths: of the storage files that are read. notes: what was left out, in sentences.
    """

    def __init__(self, path: Path) -> None:
        """Open it; raises whatever rosbags and its libraries raise on damage."""
        self.path = path
        self.notes: list[str] = []
        self._scratch: TemporaryDirectory[str] | None = None
        self.storages: list[SqliteFile | McapFile] = []
        self.metadata = Metadata()
        self.paths = [path]
        try:
            if path.is_dir():
                self.metadata = _metadata(path / 'metadata.yaml')
                self.paths, missing = self._files()
                opened = self._unpacked() if self.metadata.mode == 'file' else self.paths
            else:
                missing, opened = [], [path]
            for file in opened:
                self.storages.append(open_storage(file))
                self.notes += self.storages[-1].notes
            self.connections = self._connections(whole=not missing)
        except BaseException:
            self.close()
            raise

    @property
    def start_ns(self) -> int:
        """Log time of the first message, 0 where there is none."""
        times = [item.metadata.start_time for item in self._filled]
        return min(times, default=0)

    @property
    def end_ns(self) -> int:
        """Log time behind the last message."""
        return max((item.metadata.end_time for item in self._filled), default=0)

    @property
    def _filled(self) -> list[SqliteFile | McapFile]:
        return [item for item in self.storages if item.metadata.message_count]

    def messages(
        self, connections: Collection[Connection]
    ) -> Iterator[tuple[Connection, int, Any]]:
        """Connection, log time and content of the messages of connections, in log order by file."""
        wanted = {(item.topic, item.msgtype): item for item in connections}
        for storage in self.storages:
            ours = {
                item.id: wanted[item.topic, item.msgtype]
                for item in storage.connections
                if (item.topic, item.msgtype) in wanted
            }
            chosen = [item for item in storage.connections if item.id in ours]
            for item, log_ns, data in storage.messages(chosen) if chosen else ():
                if self.metadata.mode == 'message':
                    data = zstd.decompress(data)
                yield ours[item.id], log_ns, data

    def close(self) -> None:
        """Close the files and remove what was unpacked."""
        for storage in self.storages:
            with suppress(Exception):
                storage.close()
        self.storages = []
        if self._scratch is not None:
            self._scratch.cleanup()

    def _files(self) -> tuple[list[Path], list[str]]:
        """Storage files that are there, and the names of those that are not."""
        there = [self.path / name for name in self.metadata.files]
        found = [path for path in there if path.is_file()]
        missing = [path.name for path in there if not path.is_file()]
        if not found:
            raise ReaderError(f'none of its files is there: {quoted(missing)}')
        if missing:
            self.notes.append(
                f'{len(missing)} of {len(there)} files of the bag are missing and their messages '
                f'left out: {quoted(missing)}'
            )
        listed = set(self.metadata.files)
        others = sorted(
            item.name
            for item in self.path.iterdir()
            if item.suffix in SUFFIXES and item.name not in listed and item.is_file()
            and f'{item.name}{COMPRESSED_SUFFIX}' not in listed
        )  # fmt: skip
        if others:
            self.notes.append(
                f'not listed in metadata.yaml and left out: {quoted(others)}; '
                f'`ros2 bag reindex` lists them'
            )
        if self.metadata.version > NEWEST_VERSION:
            self.notes.append(
                f'metadata.yaml is of version {self.metadata.version}, newer than '
                f'{NEWEST_VERSION}: read as far as it is known'
            )
        return found, missing

    def _unpacked(self) -> list[Path]:
        """The files, decompressed into TMPDIR."""
        self._scratch = TemporaryDirectory(prefix='mtl-perception-')
        made = []
        for path in self.paths:
            target = Path(self._scratch.name, path.stem)
            with zstd.open(path, 'rb') as source, target.open('wb') as out:
                shutil.copyfileobj(source, out)
            made.append(target)
        return made

    def _connections(self, whole: bool) -> list[Connection]:
        """One for each topic and type. whole: the files are all there, so that promises hold."""
        found: dict[tuple[str, str], Connection] = {}
        for storage in self.storages:
            for item in storage.connections:
                key = item.topic, item.msgtype
                before = found.get(key)
                count = item.msgcount + (before.msgcount if before else 0)
                found[key] = (before or item)._replace(msgcount=count)
        promised, digests = self.metadata.counts or {}, self.metadata.digests or {}
        ext = ConnectionExtRosbag2('cdr', [])
        nothing = MessageDefinition(MessageDefinitionFormat.NONE, '')
        for key, count in promised.items() if whole else ():
            if count:  # of which no file knows anything: that is damage, and said when it is read
                found.setdefault(key, Connection(0, *key, nothing, '', 0, ext, self))
        for number, (key, item) in enumerate(found.items()):
            count = max(item.msgcount, promised.get(key, 0)) if whole else item.msgcount
            digest = digests.get(key) or item.digest
            found[key] = item._replace(id=number + 1, msgcount=count, digest=digest)
        return list(found.values())


def _metadata(path: Path) -> Metadata:
    """metadata.yaml, as far as it is needed; raises ReaderError."""
    loader: Any = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)
    try:
        data = yaml.load(path.read_bytes(), loader)[ROOT]
        version = int(data['version'])
        # rosbag2 wrote paths with the folder's own name in them up to version 3.
        files = tuple(Path(name).name for name in data['relative_file_paths'])
        topics = data['topics_with_message_count']
        counts: dict[tuple[str, str], int] = {}
        digests: dict[tuple[str, str], str] = {}
        for item in topics:
            topic = item['topic_metadata']
            key = str(topic['name']), str(topic['type'])
            if topic.get('serialization_format', 'cdr') != 'cdr':
                continue
            counts[key] = counts.get(key, 0) + int(item['message_count'])
            digests[key] = str(topic.get('type_description_hash') or '')
        mode = str(data.get('compression_mode') or '').lower()
        format = str(data.get('compression_format') or '')
        custom = {str(key): str(value) for key, value in (data.get('custom_data') or {}).items()}
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ReaderError(f'metadata.yaml cannot be read: {error!r}') from error
    mode = '' if mode == 'none' else mode
    if mode and format != 'zstd':
        raise ReaderError(f'compression format {quoted(format)}; only zstd can be read')
    return Metadata(files, mode, format, counts, digests, custom, version)
