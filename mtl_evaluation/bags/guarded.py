# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""A bag that is parsed, and its images decoded, in a child process with limits.

Whatever a hostile or damaged bag does to its parser (endless loop, decompression bomb, crash inside
a C library) ends that process and becomes one BagError here; frames that were read before stay
valid. The child also works while this process infers: reading costs little more than waiting.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.bags import wire
from mtl_evaluation.bags.bag import BagFrame, DriveFrame
from mtl_evaluation.bags.bag_file import BagInfo
from mtl_evaluation.bags.cameras import Camera, CameraBag
from mtl_evaluation.bags.listing import Listing
from mtl_evaluation.bags.read_options import AS_RECORDED, ReadOptions
from mtl_evaluation.messages.cdr import BagError
from mtl_evaluation.truth.truth import Truth, TruthBoxes, TruthPlaces
from mtl_perception.camera_model import CameraModel
from mtl_perception.children import module_command
from mtl_perception.frame import Frame
from mtl_perception.geometry import Mount
from mtl_perception.image_codec import ImageError

log = logging.getLogger(__name__)

PARSER = 'mtl_evaluation.bags.parser_process'
SCAN_BYTES_PER_S = 20e6
"""Slower than a disk: a big bag may take longer to open, or to come to the next frame."""


@dataclass(frozen=True)
class Limits:
    """What the parser may use.

    memory_bytes: address space. stall_s: seconds without a frame (and one more for every
    `SCAN_BYTES_PER_S` of the bag). unpacked_bytes: of temporary files, where files of the bag are
    compressed as a whole; they lie in TMPDIR.
    """

    memory_bytes: int = 4 << 30
    stall_s: float = 60.0
    unpacked_bytes: int = 256 << 30


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class DecodedFrame(DriveFrame):
    """A frame that was decoded in the child process; its arrays are its own."""

    content: Frame | ImageError
    labels: Truth | BagError

    def image(self) -> Frame:
        """The picture; raises ImageError."""
        if isinstance(self.content, ImageError):
            raise self.content
        return self.content

    def truth(self) -> Truth:
        """The ground truth; raises BagError."""
        if isinstance(self.labels, BagError):
            raise self.labels
        return self.labels


class GuardedBag(CameraBag):
    """As `DriveBag`, which runs in the child process; use as a context manager.

    info, cameras, repeated, unmatched_truth, frames and stamps are those of `DriveBag`; the two
    listings are there once `frames` has ended, or has raised.
    """

    def __init__(
        self,
        path: str | Path,
        topics: str | Sequence[str] | None = None,
        limits: Limits = DEFAULT_LIMITS,
        options: ReadOptions = AS_RECORDED,
    ) -> None:
        """Start the child, which opens the bag; raises BagError as `DriveBag` does."""
        self.path = Path(path).expanduser()
        self.repeated = Listing()
        self.unmatched_truth = Listing()
        self.decode_from = 0
        """Frames before this one, in the order of `frames`, come without picture and truth."""
        self._topics = [topics] if isinstance(topics, str) else list(topics or ())
        self._limits = limits
        self._options = options
        self._stall_s = limits.stall_s + _size(self.path) / SCAN_BYTES_PER_S
        self._child: _Child | None = self._start()

    def __enter__(self) -> GuardedBag:
        """The bag itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the child process."""
        self.close()

    def close(self) -> None:
        """End the child process and remove what it left."""
        if self._child is not None:
            self._child.close()
            self._child = None

    @property
    def process_id(self) -> int | None:
        """Of the child, None where there is none at the moment."""
        return None if self._child is None else self._child.process_id

    def frames(self, truth: bool = True) -> Iterator[DecodedFrame]:
        """Every frame as `DriveBag.frames` yields them, decoded; raises BagError."""
        for header, arrays in self._ask('frames', truth):
            parts = iter(arrays)
            camera = self.cameras[header['camera']]
            if header['model'] is not None:
                camera = _with_model(camera, *header['model'])
            yield DecodedFrame(
                header['index'], header['stamp_ns'], camera,
                header['name'], _unpack_image(header['image'], parts),
                _unpack_truth(header['truth'], parts),
            )  # fmt: skip

    def raw_frames(self) -> Iterator[BagFrame]:
        """Every frame with its serialised image and without truth, for playing it to a node."""
        for header, arrays in self._ask('raw', False):
            yield BagFrame(
                header['index'], header['stamp_ns'], self.cameras[header['camera']],
                header['name'], arrays[0].tobytes(), {},
            )  # fmt: skip

    def stamps(self) -> list[int]:
        """Stamps of all frames in order."""
        return [int(stamp) for _, arrays in self._ask('stamps', False) for stamp in arrays[0]]

    def _start(self) -> _Child:
        child = _Child(self.path, self._topics, self._limits, self._options)
        try:
            header, _ = self._next(child, 'while it was opened')
        except BaseException:
            child.close()
            raise
        info = BagInfo(**_tuples(header['info']))
        if not hasattr(self, 'info'):  # a second child opens the same bag
            for note in info.notes:
                log.warning('%s: %s', self.path, note)
        self.info = info
        self.cameras = tuple(_camera(data) for data in header['cameras'])
        return child

    def _ask(self, what: str, truth: bool) -> Iterator[tuple[dict[str, Any], list[NDArray[Any]]]]:
        """Messages that answer a request; the child ends when they are not all taken."""
        child = self._child = self._child or self._start()
        request = {'what': what, 'truth': truth, 'decode_from': self.decode_from}
        with suppress(OSError):  # it died: the first message says so
            child.channel.send(json.dumps(request).encode())
        self.repeated, self.unmatched_truth = Listing(), Listing()
        complete, count = False, 0
        try:
            while True:
                header, arrays = self._next(child, f'after {count} of {self.frames_total} frames')
                if header['kind'] == 'end':
                    break
                with suppress(OSError):
                    child.channel.send(b'+')
                count += 1
                yield header, arrays
            complete = True
        finally:
            if not complete:
                child.close()
                if self._child is child:
                    self._child = None

    def _next(self, child: _Child, when: str) -> tuple[dict[str, Any], list[NDArray[Any]]]:
        """The child's next message; raises BagError with what came instead of one."""
        child.channel.settimeout(self._stall_s)
        try:
            header, arrays = wire.receive(child.channel)
        except TimeoutError as error:
            raise BagError(
                f'{self.path}: its reader made no progress for {self._stall_s:.0f} s {when} and '
                f'was stopped. The bag is damaged, or made to hang readers; copy it again.'
            ) from error
        except (wire.WireError, OSError) as error:
            raise BagError(
                f'{self.path}: its reader {child.cause_of_death()} {when}. The bag is damaged, or '
                f'made to break readers; copy it again.'
            ) from error
        if 'repeated' in header:
            self.repeated = Listing(**header['repeated'])
            self.unmatched_truth = Listing(**header['unmatched_truth'])
        if header['kind'] == 'error':
            raise BagError(header['text'])
        return header, arrays


class _Child:
    """The process, its end of the socket, and a folder for its temporary files."""

    def __init__(self, path: Path, topics: list[str], limits: Limits, options: ReadOptions) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix='mtl-perception-'))
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        settings = {
            'socket': theirs.fileno(),
            'path': str(path),
            'topics': topics,
            'options': asdict(options),
            'memory_bytes': limits.memory_bytes,
            'file_bytes': limits.unpacked_bytes,
        }
        environment = {
            **os.environ,
            'TMPDIR': str(self._folder),
            # Thread pools reserve address space, of which there is not that much.
            'OPENBLAS_NUM_THREADS': '1',
            'OMP_NUM_THREADS': '1',
            'MALLOC_ARENA_MAX': '2',
        }
        with theirs, (self._folder / 'stderr').open('wb') as stderr:
            self._process = subprocess.Popen(
                module_command(PARSER, json.dumps(settings)),
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr,
                pass_fds=[theirs.fileno()], env=environment,
            )  # fmt: skip

    @property
    def process_id(self) -> int:
        """As the system has it."""
        return self._process.pid

    def cause_of_death(self) -> str:
        """`died of SIGSEGV`, or `ended with ...` and its last words; waits for its end."""
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            return 'stopped answering'
        if code < 0:
            return f'died of {signal.Signals(-code).name}'
        lines = (self._folder / 'stderr').read_text(errors='replace').strip().splitlines()
        return f'ended with code {code} ({lines[-1] if lines else "no message"})'

    def close(self) -> None:
        """Kill it if it is still there, and remove its files."""
        self.channel.close()
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def _unpack_image(header: Mapping[str, Any], arrays: Iterator[NDArray[Any]]) -> Frame | ImageError:
    if 'error' in header:
        return ImageError(header['error'])
    return Frame(next(arrays), header['order'])


def _unpack_truth(header: Mapping[str, Any], arrays: Iterator[NDArray[Any]]) -> Truth | BagError:
    if 'error' in header:
        return BagError(header['error'])
    boxes = None
    if header['classes'] is not None:
        corners, ignore = next(arrays), next(arrays)
        boxes = TruthBoxes(
            corners, tuple(header['classes']), ignore.astype(bool), tuple(header['ids'])
        )
    places = None
    if (mount := header['mount']) is not None:
        pose = Mount(tuple(mount['rotation']), tuple(mount['translation']))
        places = TruthPlaces(next(arrays).astype(np.float64), pose)
    masks = {name: next(arrays) for name in header['masks']}
    maps = {name: next(arrays) for name in header['maps']}
    return Truth(boxes, masks, header['labels'], places, maps, header['others'])


def _camera(data: Mapping[str, Any]) -> Camera:
    camera = Camera(**{**data, 'size': tuple(data['size']), 'model': None})
    return _with_model(camera, data['model'], data['model_note'])


def _with_model(camera: Camera, model: Mapping[str, Any] | None, note: str) -> Camera:
    return replace(
        camera, model=None if model is None else CameraModel.from_dict(model), model_note=note
    )


def _tuples(info: Mapping[str, Any]) -> dict[str, Any]:
    """JSON knows lists only."""
    topics = tuple((topic, kind, count) for topic, kind, count in info['topics'])
    return {**info, 'files': tuple(info['files']), 'topics': topics, 'notes': tuple(info['notes'])}


def _size(path: Path) -> int:
    """Bytes of the bag's files; 0 where nothing is there."""
    with suppress(OSError):
        files = path.iterdir() if path.is_dir() else [path]
        return sum(file.stat().st_size for file in files if file.is_file())
    return 0
