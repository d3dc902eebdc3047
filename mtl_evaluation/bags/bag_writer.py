# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Writing bags, drives above all; `bag.py` describes their topics and reads them back."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionMode, StoragePlugin, Writer
from rosbags.rosbag2.enums import CompressionFormat

from mtl_evaluation.bags.truth_messages import truth_messages
from mtl_evaluation.messages.cdr import (
    CAMERA,
    COMPRESSED_IMAGE,
    IMAGE,
    TRUTH,
    BagError,
    camera_info_message,
    header_of,
    image_message,
    label_info_message,
    serialise,
    typestore,
)
from mtl_evaluation.truth.truth import Truth
from mtl_perception.tasks import TASKS

if TYPE_CHECKING:
    from typing_extensions import Self

Storage = Literal['mcap', 'sqlite3']

LATCHED = Qos(
    QosHistory.KEEP_LAST, 1, QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL,
    QosTime(0, 0), QosTime(0, 0), QosLiveliness.SYSTEM_DEFAULT, QosTime(0, 0), False,
)  # fmt: skip


@dataclass(frozen=True)
class EncodedImage:
    """An image as it goes into a bag: either rgb8 pixels [H, W, 3] or JPEG/PNG bytes.

    size: width and height, where they are known or follow from the pixels; else (0, 0).
    """

    pixels: NDArray[np.uint8] | None = None
    data: bytes = b''
    format: str = ''
    size: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        """Take the size of the pixels."""
        if self.pixels is not None:
            object.__setattr__(self, 'size', (self.pixels.shape[1], self.pixels.shape[0]))


class MessageWriter:
    """A bag being written; appears under its name only once it is complete.

    Use as a context manager: an exception inside removes what was written. mcap chunks (or, with
    sqlite3, messages) are zstd-compressed unless `compress` is False.
    """

    def __init__(
        self,
        path: str | Path,
        storage: Storage = 'mcap',
        compress: bool = True,
        custom: Mapping[str, str] | None = None,
    ) -> None:
        """Start a bag that will replace whatever bag is at `path`; raises BagError."""
        self.path = Path(path)
        # A folder around it, not another name: rosbags names the file inside after the bag.
        self._scratch = self.path.with_name(f'.{self.path.name}.partial')
        self._partial = self._scratch / self.path.name
        self._connections: dict[str, Connection] = {}
        plugin = StoragePlugin.MCAP if storage == 'mcap' else StoragePlugin.SQLITE3
        try:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._writer = Writer(self._partial, version=9, storage_plugin=plugin)
            if compress:
                mode = CompressionMode.STORAGE if storage == 'mcap' else CompressionMode.MESSAGE
                self._writer.set_compression(mode, CompressionFormat.ZSTD)
            for key, value in (custom or {}).items():
                self._writer.set_custom_data(key, value)
            self._writer.open()
        except OSError as error:
            raise BagError(f'cannot write a bag to {self.path}: {error}') from error

    def __enter__(self) -> Self:
        """The writer itself."""
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Finish the bag, or remove what there is of it after an exception."""
        if kind is not None:
            with suppress(OSError, sqlite3.Error):  # it is what may have brought us here
                self._writer.abort()
            shutil.rmtree(self._scratch, ignore_errors=True)
            return
        try:
            self._writer.close()
            if self.path.is_dir():
                shutil.rmtree(self.path)
            self._partial.rename(self.path)
            self._scratch.rmdir()
        except (OSError, sqlite3.Error) as error:
            shutil.rmtree(self._scratch, ignore_errors=True)
            raise BagError(f'cannot finish the bag {self.path}: {error}') from error

    def set_custom(self, key: str, value: str) -> None:
        """Note something in the bag's metadata.yaml under `custom_data`."""
        self._writer.set_custom_data(key, value)

    def write(
        self, topic: str, msgtype: str, log_ns: int, cdr: bytes, latched: bool = False
    ) -> None:
        """Append one serialised message; raises BagError when the disk refuses it."""
        try:
            connection = self._connections.get(topic)
            if connection is None:
                connection = self._connections[topic] = self._writer.add_connection(
                    topic,
                    msgtype,
                    typestore=typestore(),
                    offered_qos_profiles=[LATCHED] if latched else [],
                )
            self._writer.write(connection, log_ns, cdr)
        except (OSError, sqlite3.Error) as error:
            raise BagError(f'cannot write to the bag {self.path}: {error}') from error


class DriveWriter(MessageWriter):
    """A drive being written: frames with what is known about them.

    cameras: names of its cameras. Each is a namespace, which also holds its ground truth where
    there are several.
    """

    def __init__(
        self,
        path: str | Path,
        storage: Storage = 'mcap',
        compress: bool = True,
        custom: Mapping[str, str] | None = None,
        cameras: Sequence[str] = (CAMERA,),
    ) -> None:
        """Start a bag as `MessageWriter` does; raises BagError."""
        super().__init__(path, storage, compress, custom)
        self._truth = {name: f'/{name}{TRUTH}' if len(cameras) > 1 else TRUTH for name in cameras}

    def write_frame(
        self,
        stamp_ns: int,
        image: EncodedImage,
        truth: Truth,
        camera_matrix: NDArray[np.float64] | None = None,
        name: str = '',
        camera: str = CAMERA,
    ) -> None:
        """Append one frame, its truth first, so that a player that stops early has both.

        name: of the image's file. camera_matrix: [3, 3] in pixels.
        """
        header = header_of(stamp_ns, camera)
        types = typestore().types
        for topic, message in truth_messages(header, truth, self._truth[camera]):
            is_mask = message.__msgtype__ == IMAGE and message.encoding == 'mono8'
            if is_mask and topic not in self._connections:
                self._write_label_info(topic, header)
            self._put(topic, stamp_ns, message)
        if name:
            self._put(f'/{camera}/image_name', stamp_ns, header_of(stamp_ns, name))
        topic = f'/{camera}/image_raw'
        if image.pixels is not None:
            self._put(topic, stamp_ns, image_message(header, image.pixels, 'rgb8'))
        else:
            data = np.frombuffer(image.data, np.uint8)
            message = types[COMPRESSED_IMAGE](header, image.format, data)
            self._put(f'{topic}/compressed', stamp_ns, message)
        if camera_matrix is not None:
            width, height = image.size
            info = camera_info_message(header, width, height, camera_matrix)
            self._put(f'/{camera}/camera_info', stamp_ns, info)

    def _put(self, topic: str, stamp_ns: int, message: Any, latched: bool = False) -> None:
        self.write(topic, message.__msgtype__, stamp_ns, serialise(message), latched)

    def _write_label_info(self, topic: str, header: Any) -> None:
        task = TASKS.get(topic.rpartition('/')[2])
        if task is None:
            return
        stamp_ns = header.stamp.sec * 1_000_000_000 + header.stamp.nanosec
        info = label_info_message(header, task.classes)
        self._put(f'{topic}/label_info', stamp_ns, info, latched=True)
