# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""A bag that grows by whole files, so that its making can be stopped and gone on with.

    OUT.partial/metadata.yaml, OUT_0.mcap, OUT_1.mcap, ...

While it is made it is a bag already, of the frames so far, with the name `OUT.partial`; its
`custom_data` says how many there are and of what source. Finished it is renamed to OUT: a rosbag2
bag split over files, as `ros2 bag record --max-bag-size` makes them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from mtl_evaluation.bags.bag_writer import DriveWriter, Storage
from mtl_evaluation.messages.cdr import BagError

SOURCE_KEY = 'mtl_perception.source'
DONE_KEY = 'mtl_perception.partial'
ROOT = 'rosbag2_bagfile_information'


class PartialBag:
    """The growing bag of one source.

    done: frames that were written, of every camera; kept: those in whole files.
    """

    def __init__(
        self,
        path: Path,
        source: Mapping[str, Any],
        storage: Storage,
        compress: bool,
        cameras: Sequence[str],
        custom: Mapping[str, str],
    ) -> None:
        """Begin, or go on where the same source was stopped; `source` is plain data.

        Raises BagError when there is something at `path`, or when what is partial there is of
        another source.
        """
        self.path = path
        self.folder = path.with_name(f'{path.name}.partial')
        self._storage, self._compress, self._cameras = storage, compress, cameras
        text = json.dumps([source, storage, compress, list(cameras)], sort_keys=True)
        self._custom = {**custom, SOURCE_KEY: hashlib.sha256(text.encode()).hexdigest()}
        self._metadata: dict[str, Any] | None = None
        self.done = self.kept = 0
        if path.exists():
            raise BagError(f'{path} is there already. Choose another name, or remove it')
        try:
            if self.folder.exists():
                self._go_on()
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BagError(f'cannot write a bag to {path}: {error}') from error

    @contextmanager
    def part(self) -> Iterator[DriveWriter]:
        """Write the next file, counting `done`; an exception drops what the file holds."""
        number = 0 if self._metadata is None else len(self._metadata['relative_file_paths'])
        folder = self.folder / f'{self.path.name}_{number}'
        shutil.rmtree(folder, ignore_errors=True)
        with DriveWriter(
            folder, self._storage, self._compress, self._custom, self._cameras
        ) as writer:
            yield writer
        try:
            metadata = yaml.safe_load((folder / 'metadata.yaml').read_text('utf-8'))[ROOT]
            for name in metadata['relative_file_paths']:
                (folder / name).replace(self.folder / name)
            merged = metadata if self._metadata is None else _merged(self._metadata, metadata)
            self._write(merged, {**self._custom, DONE_KEY: str(self.done)})
            self.kept = self.done
            shutil.rmtree(folder)
        except OSError as error:
            raise BagError(f'cannot write to the bag {self.folder}: {error}') from error

    def finish(self) -> None:
        """Give the bag its name; raises BagError."""
        assert self._metadata is not None
        try:
            self._write(self._metadata, self._custom)
            self.folder.rename(self.path)
        except OSError as error:
            raise BagError(f'cannot finish the bag {self.path}: {error}') from error

    def _go_on(self) -> None:
        try:
            text = (self.folder / 'metadata.yaml').read_text('utf-8')
            metadata = yaml.safe_load(text)[ROOT]
            custom = metadata['custom_data']
            source, self.done = custom[SOURCE_KEY], int(custom[DONE_KEY])
        except FileNotFoundError:
            return  # stopped before its first file was whole
        except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
            raise BagError(f'{self.folder} is no bag of this command: {error!r}. Remove it') from (
                error
            )
        if source != self._custom[SOURCE_KEY]:
            raise BagError(
                f'{self.folder} is part of another bag (other images, or other options). Remove it '
                f'or choose another name'
            )
        self._metadata = metadata
        self.kept = self.done

    def _write(self, metadata: dict[str, Any], custom: Mapping[str, str]) -> None:
        metadata['custom_data'] = dict(custom)
        self._metadata = metadata
        scratch = self.folder / '.metadata.yaml'
        with scratch.open('w', encoding='utf-8') as file:
            yaml.safe_dump({ROOT: metadata}, file)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(self.folder / 'metadata.yaml')


def _merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Metadata of two bags of the same topics that follow each other in time."""
    start, end = (
        choose(of(item) for item in (first, second))
        for choose, of in ((min, _start_of), (max, _end_of))
    )
    topics = {item['topic_metadata']['name']: dict(item) for item in first[TOPICS]}
    for item in second[TOPICS]:
        name = item['topic_metadata']['name']
        count = topics[name]['message_count'] if name in topics else 0
        topics[name] = {**item, 'message_count': count + item['message_count']}
    return {
        **first,
        'starting_time': {'nanoseconds_since_epoch': start},
        'duration': {'nanoseconds': end - start},
        'message_count': first['message_count'] + second['message_count'],
        TOPICS: list(topics.values()),
        'relative_file_paths': [*first['relative_file_paths'], *second['relative_file_paths']],
        'files': [*first['files'], *second['files']],
    }


TOPICS = 'topics_with_message_count'


def _start_of(metadata: Mapping[str, Any]) -> int:
    return int(metadata['starting_time']['nanoseconds_since_epoch'])


def _end_of(metadata: Mapping[str, Any]) -> int:
    return _start_of(metadata) + int(metadata['duration']['nanoseconds'])
