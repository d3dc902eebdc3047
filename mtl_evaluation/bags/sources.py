"""Where a drive comes from: images, data sets and videos; `generated.py` has generated ones.

Each source yields frames with what is known about them; `write_drive` makes a bag of any of them.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from mtl_evaluation.bags.bag_writer import DriveWriter, EncodedImage
from mtl_evaluation.truth.labels import FolderLabels
from mtl_evaluation.truth.truth import Truth

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png')
JPEG_QUALITY = 95
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
        self.paths = list(paths)
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
        return f'{self.frames} images of {self.where} ({labels})'

    @property
    def identity(self) -> dict[str, Any]:
        """Rate, and name, size and time of every file."""
        return {'kind': self.kind, 'rate_hz': self.rate_hz, 'files': _digest(self.paths)}

    def frames_from(self, start: int) -> Iterator[SourceFrame]:
        """Read."""
        for index, path in enumerate(self.paths[start:], start):
            kind = 'png' if path.suffix.lower() == '.png' else 'jpeg'
            try:
                image = EncodedImage(data=path.read_bytes(), format=kind)
            except OSError as error:
                raise SourceError(f'cannot read {path}: {error}') from error
            truth = self.labels.truth(path.name)
            yield SourceFrame(index / self.rate_hz, image, truth, None, path.name)


class ImageFolder(Images):
    """Images of one folder in name order. Raises SourceError when there is nothing."""

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
        images = sorted(p for p in self.folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        paths = [path for path in images if fnmatch(path.name, pattern)][:limit]
        if not paths:
            there = f'{len(images)} images, none matching {pattern!r}' if images else 'none'
            raise SourceError(
                f'--images {self.folder}: expected {", ".join(IMAGE_SUFFIXES)} files, '
                f'found {there}. Folders below it are not searched.'
            )
        super().__init__(paths, str(self.folder), rate_hz)


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
        images = {
            path.name: path
            for folder in sorted(root.glob(f'images/*/{split}'))
            for path in folder.rglob('*')
            if path.suffix.lower() in IMAGE_SUFFIXES
        }
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


class Video:
    """Frames of a video file at its own rate; nothing is known about them."""

    kind = 'video'
    config = None

    def __init__(
        self, path: str | Path, limit: int | None = None, default_rate_hz: float = 10.0
    ) -> None:
        """Open it once to see that it can be read; raises SourceError."""
        self.path = Path(path).expanduser()
        if not self.path.is_file():
            raise SourceError(f'--video {self.path}: there is no such file')
        capture = cv2.VideoCapture(str(self.path))
        readable, _ = capture.read()
        rate_hz = capture.get(cv2.CAP_PROP_FPS)
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
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
        self.frames = min(count, limit) if limit else count

    @property
    def description(self) -> str:
        """One line about the drive."""
        return f'video {self.path} at {self.rate_hz:g} Hz (no labels)'

    @property
    def identity(self) -> dict[str, Any]:
        """Name, size and time of the file, and how many frames are taken of it."""
        return {'kind': self.kind, 'limit': self.limit, 'files': _digest([self.path])}

    def frames_from(self, start: int) -> Iterator[SourceFrame]:
        """Decode, and encode as JPEG."""
        capture = cv2.VideoCapture(str(self.path))
        try:
            for _ in range(start):
                capture.grab()
            frames = islice(_read(capture), None if self.limit is None else self.limit - start)
            for index, frame in enumerate(frames, start):
                yield SourceFrame(index / self.rate_hz, as_jpeg(frame), Truth())
        finally:
            capture.release()


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


def _read(capture: cv2.VideoCapture) -> Iterator[NDArray[np.uint8]]:
    while True:
        there, frame = capture.read()
        if not there:
            return
        yield np.asarray(frame, np.uint8)


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
        data = yaml.safe_load((path / 'metadata.yaml').read_text('utf-8'))
        custom = data['rosbag2_bagfile_information'].get('custom_data') or {}
        return str(custom.get(CONFIG_KEY, ''))
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return ''
