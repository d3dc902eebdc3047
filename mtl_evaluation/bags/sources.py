# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Where a drive comes from: images, data sets and videos; `generated.py` has generated ones.

Each source yields frames with what is known about them; `write_drive` makes a bag of any of them.
"""

from __future__ import annotations

import filecmp
import hashlib
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import count, islice
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.bags.bag_writer import DriveWriter, EncodedImage
from mtl_evaluation.truth.labels import FolderLabels
from mtl_evaluation.truth.truth import Truth
from mtl_perception.plain_yaml import PlainYamlError, read_plain_yaml
from mtl_perception.text import quoted

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = (
    '.jpg', '.jpeg', '.jpe', '.png', '.bmp', '.webp', '.tif', '.tiff', '.ppm', '.pgm', '.pnm',
)  # fmt: skip
SIGNATURES = {
    b'\xff\xd8\xff': 'jpeg', b'\x89PNG\r\n\x1a\n': 'png', b'BM': 'bmp', b'RIFF': 'webp',
    b'II*\0': 'tiff', b'MM\0*': 'tiff',
    **{b'P%d' % number: 'pnm' for number in range(1, 7)},
}  # fmt: skip
"""How a file begins that is an image; its name may say something else."""
JPEG_QUALITY = 95
SAME_TIME_S = 1e-3
MAX_METADATA_BYTES = 8 << 20
START_NS = 1_700_000_000_000_000_000
"""Stamp of the first frame of every drive made here; fixed, for equal bags of equal sources."""
CONFIG_KEY = 'mtl_perception.drive'


class SourceError(Exception):
    """Images or a video that cannot become a drive: what, where, found, next step."""


@dataclass(frozen=True)
class SourceFrame:
    """One frame of a source; `time_s` since its start, `name` of the image's file."""

    time_s: float
    image: EncodedImage
    truth: Truth
    camera_matrix: NDArray[np.float64] | None = None
    name: str = ''


class Source(Protocol):
    """A drive that can be written.

    identity: plain data that differs where the content does, as far as can be seen without reading
    it all. config: what a generated drive was made from; None of any other.
    """

    @property
    def kind(self) -> str: ...  # noqa: D102
    @property
    def description(self) -> str: ...  # noqa: D102
    @property
    def frames(self) -> int: ...  # noqa: D102
    @property
    def identity(self) -> dict[str, Any]: ...  # noqa: D102
    @property
    def config(self) -> dict[str, Any] | None: ...  # noqa: D102

    def frames_from(self, start: int) -> Iterator[SourceFrame]:
        """Frames in order, without the first `start` ones."""


class Images:
    """Image files in the order given, with the labels that lie beside them (`labels.py`).

    JPEG and PNG bytes go into the bag as they are.
    """

    kind = 'images'
    config = None

    def __init__(self, paths: Sequence[Path], where: str, rate_hz: float) -> None:
        """Read the labels of those images; `where` says in one line what they are."""
        self.paths, self.no_images = _images_of(paths)
        if not self.paths:
            raise SourceError(
                f'{where}: {len(paths)} files with the name of an image, and none that is one: '
                f'{quoted([path.name for path in paths])}'
            )
        self.names = _names_of(self.paths)
        self.where = where
        self.rate_hz = rate_hz
        self.labels = FolderLabels(self.paths)

    @property
    def frames(self) -> int:
        """Number of images."""
        return len(self.paths)

    @property
    def description(self) -> str:
        """One line about the drive."""
        labels = f'labels from {self.labels.root}' if self.labels.root else 'no labels beside it'
        left_out = f'; no images and left out: {quoted(self.no_images)}' if self.no_images else ''
        return f'{self.frames} images of {self.where} ({labels}){left_out}'

    @property
    def identity(self) -> dict[str, Any]:
        """Rate, and name, size and time of every file."""
        return {'kind': self.kind, 'rate_hz': self.rate_hz, 'files': _digest(self.paths)}

    def frames_from(self, start: int) -> Iterator[SourceFrame]:
        """Read."""
        for index, path in enumerate(self.paths[start:], start):
            try:
                image = _image(path)
            except OSError as error:
                raise SourceError(f'cannot read {path}: {error}') from error
            name = self.names[index]
            truth = self.labels.truth(path.name) if name == path.name else Truth()
            yield SourceFrame(index / self.rate_hz, image, truth, None, name)


class ImageFolder(Images):
    """Images of a folder and those below it, `2.jpg` before `10.jpg`.

    Raises SourceError when there is nothing.
    """

    def __init__(
        self,
        folder: str | Path,
        pattern: str = '*',
        rate_hz: float = 10.0,
        limit: int | None = None,
    ) -> None:
        """List the images; `limit` takes the first so many."""
        self.folder = Path(folder).expanduser()
        if not self.folder.is_dir():
            found = 'a file' if self.folder.exists() else 'nothing'
            raise SourceError(
                f'--images {self.folder}: expected a folder of images, found {found}. '
                f'For a video use --video.'
            )
        files = [
            path
            for path in self.folder.rglob('*')
            if not any(part.startswith('.') for part in path.relative_to(self.folder).parts)
            and path.is_file()
        ]
        images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
        images.sort(key=lambda path: natural_order(path.relative_to(self.folder).as_posix()))
        paths = [path for path in images if fnmatch(path.name, pattern)][:limit]
        if not paths:
            there = f'{len(images)} images, none matching {pattern!r}' if images else 'none'
            raise SourceError(
                f'--images {self.folder}: expected {", ".join(IMAGE_SUFFIXES)} files, '
                f'found {there}{f" among {len(files)} files" if files else ""}.'
            )
        super().__init__(paths, str(self.folder), rate_hz)
        self.others = len(files) - len(images)

    @property
    def description(self) -> str:
        """One line about the drive."""
        others = f'; {self.others} other files are left out' if self.others else ''
        return f'{super().description}{others}'


class DatasetSplit(Images):
    """A split of a data set in the BDD100K layout, `images/*/SPLIT/`, by image name.

    An image that lies in several of these folders is taken once. Raises SourceError when there is
    nothing.
    """

    kind = 'dataset'

    def __init__(
        self,
        root: str | Path,
        split: str,
        pattern: str = '*',
        rate_hz: float = 10.0,
        limit: int | None = None,
    ) -> None:
        """List the images; `limit` takes the first so many."""
        root = Path(root).expanduser()
        images: dict[str, Path] = {}
        for folder in sorted(root.glob(f'images/*/{split}')):
            images |= _by_name(folder)
        paths = [images[name] for name in sorted(images) if fnmatch(name, pattern)][:limit]
        if not paths:
            there = sorted({path.name for path in root.glob('images/*/*') if path.is_dir()})
            found = f'{len(images)} images, none matching {pattern!r}' if images else 'none'
            hint = 'Give the folder that holds images/ and labels/, or a plain one with --images'
            if there:
                hint = f'--split may be {", ".join(there)}'
            raise SourceError(
                f'--dataset {root}: expected images under images/*/{split}/, found {found}. {hint}.'
            )
        super().__init__(paths, f'{root}, {split}', rate_hz)


def _by_name(folder: Path) -> dict[str, Path]:
    """Images below a folder by name; raises SourceError for two different ones of one name."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob('*')):
        if path.suffix.lower() not in IMAGE_SUFFIXES or not path.is_file():
            continue
        other = found.setdefault(path.name, path)
        if other != path and not filecmp.cmp(path, other, shallow=False):
            raise SourceError(
                f'--dataset: {path} and {other} have the same name, by which labels find their '
                f'image: expected each name once. Rename one, or give each folder by --images'
            )
    return found


class Video:
    """Frames of a video file at its own times; nothing is known about them."""

    kind = 'video'
    config = None

    def __init__(
        self, path: str | Path, limit: int | None = None, default_rate_hz: float = 10.0
    ) -> None:
        """Open it once to see that it can be read; raises SourceError."""
        self.path = Path(path).expanduser()
        if not self.path.is_file():
            raise SourceError(f'--video {self.path}: there is no such file')
        capture = self._capture()
        readable, _ = capture.read()
        rate_hz = capture.get(cv2.CAP_PROP_FPS)
        frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        capture.release()
        if not readable:
            raise SourceError(
                f'--video {self.path}: OpenCV reads no frame of it. Convert it first: '
                f'`ffmpeg -i {self.path} -c:v libx264 -pix_fmt yuv420p converted.mp4`'
            )
        if not 0.1 <= rate_hz <= 1000:
            log.warning('%s names no frame rate; taking %g Hz', self.path, default_rate_hz)
            rate_hz = default_rate_hz
        self.rate_hz = float(rate_hz)
        self.limit = limit
        self.frames = min(frames, limit) if limit else frames

    @property
    def description(self) -> str:
        """One line about the drive."""
        return f'video {self.path} at {self.rate_hz:g} Hz (no labels)'

    @property
    def identity(self) -> dict[str, Any]:
        """Name, size and time of the file, and how many frames are taken of it."""
        return {'kind': self.kind, 'limit': self.limit, 'files': _digest([self.path])}

    def frames_from(self, start: int) -> Iterator[SourceFrame]:
        """Decode, and encode as JPEG. A phone's or a screen's rate varies: stamps follow it."""
        capture = self._capture()
        varies = False
        first_s = time_s = 0.0
        try:
            for index in islice(count(), self.limit):
                if not capture.grab():
                    return
                in_file_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
                first_s = in_file_s if index == 0 else first_s
                even_s, before_s = index / self.rate_hz, time_s
                time_s = in_file_s - first_s
                if abs(time_s - even_s) <= SAME_TIME_S or (index and time_s <= before_s):
                    time_s = max(even_s, before_s + 1e-6) if index else 0.0
                elif not varies:
                    varies = True
                    log.warning(
                        '%s has a variable frame rate (%.3f s at frame %d, %.3f s by its mean '
                        'rate): the stamps are those of the file',
                        self.path, time_s, index, even_s,
                    )  # fmt: skip
                if index < start:
                    continue
                there, frame = capture.retrieve()
                if not there:
                    return
                yield SourceFrame(time_s, as_jpeg(np.asarray(frame, np.uint8)), Truth())
        finally:
            capture.release()

    def _capture(self) -> cv2.VideoCapture:
        try:
            name = str(self.path).encode('utf-8').decode('utf-8')
        except UnicodeEncodeError as error:
            raise SourceError(
                f'--video {quoted(str(self.path))}: OpenCV opens no path that is not UTF-8; '
                f'rename it, or give a link to it'
            ) from error
        return cv2.VideoCapture(name)


def as_jpeg(bgr: NDArray[np.uint8]) -> EncodedImage:
    """Pixels uint8 [H, W, 3] as JPEG."""
    _, jpeg = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return EncodedImage(None, jpeg.tobytes(), 'jpeg', (bgr.shape[1], bgr.shape[0]))


def _digest(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        stat = path.stat()
        digest.update(repr((path.name, stat.st_size, stat.st_mtime_ns)).encode())
    return digest.hexdigest()


def natural_order(name: str) -> list[tuple[int, int | str]]:
    """Sorting key of a file name by which `frame_2` comes before `frame_10`."""
    return [
        (0, int(part)) if part.isdecimal() and len(part) < 19 else (1, part)
        for part in re.split(r'(\d+)', name)
        if part
    ]


def _images_of(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """The files that begin as an image does, and the names of the others."""
    images, others = [], []
    for path in paths:
        try:
            there = bool(_kind(path))
        except OSError as error:
            raise SourceError(f'cannot read {path}: {error}') from error
        if there:
            images.append(path)
        else:
            others.append(path.name)
    return images, others


def _kind(path: Path) -> str:
    """What an image file is by its first bytes; empty when it is none."""
    with path.open('rb') as file:
        head = file.read(12)
    return next((kind for start, kind in SIGNATURES.items() if head.startswith(start)), '')


def _names_of(paths: Sequence[Path]) -> list[str]:
    """File names; with the folders that tell them apart where two are equal."""
    common = Path(os.path.commonpath([path.parent for path in paths]))
    counts = Counter(path.name for path in paths)
    return [
        path.name if counts[path.name] == 1 else path.relative_to(common).as_posix()
        for path in paths
    ]


def _image(path: Path) -> EncodedImage:
    """A JPEG or PNG as it is, anything else as PNG; raises OSError and SourceError."""
    kind, data = _kind(path), path.read_bytes()
    if kind in ('jpeg', 'png'):
        return EncodedImage(data=data, format=kind)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise SourceError(f'{path}: this OpenCV cannot decode the {kind} image')
    _, png = cv2.imencode('.png', pixels)
    return EncodedImage(None, png.tobytes(), 'png', (pixels.shape[1], pixels.shape[0]))


def write_drive(source: Source, path: Path, progress: Callable[[int], None]) -> bool:
    """Write a source as a bag, or keep the one at `path` if it is exactly this source.

    `progress` is called with the frames done. Returns whether the bag was there already. Raises
    SourceError, BagError or LabelError; then nothing is left at `path` of a half-written bag.
    """
    config = source.config
    text = json.dumps(config, sort_keys=True) if config is not None else ''
    if text and _config_of(path) == text:
        return True
    path.parent.mkdir(parents=True, exist_ok=True)
    with DriveWriter(path, custom={CONFIG_KEY: text} if text else None) as writer:
        for done, frame in enumerate(source.frames_from(0), start=1):
            stamp_ns = START_NS + round(frame.time_s * 1e9)
            writer.write_frame(stamp_ns, frame.image, frame.truth, frame.camera_matrix, frame.name)
            progress(done)
    return False


def generated_config(path: Path) -> dict[str, Any] | None:
    """The configuration of a generated drive by its bag; None for every other bag."""
    try:
        config = json.loads(_config_of(path) or 'null')
    except ValueError:
        return None
    return config if isinstance(config, dict) else None


def _config_of(path: Path) -> str:
    """The configuration noted in a bag that this module wrote; empty when there is none."""
    try:
        data = read_plain_yaml(path / 'metadata.yaml', MAX_METADATA_BYTES)
        custom = data['rosbag2_bagfile_information'].get('custom_data') or {}
        return str(custom.get(CONFIG_KEY, ''))
    except (OSError, PlainYamlError, KeyError, TypeError, AttributeError):
        return ''
