"""Where a drive comes from: generated, a folder of images, a video, or a bag that is there already.

Each source yields frames with what is known about them; `write_drive` makes a bag of any of them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from functools import lru_cache
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from mtl_perception.replay.bag_writer import DriveWriter, EncodedImage
from mtl_perception.replay.labels import FolderLabels
from mtl_perception.replay.truth import Truth, TruthBoxes
from mtl_perception.tasks import DETECTION

if TYPE_CHECKING:
    from mtl_perception.scenes import Drive, DriveConfig

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png')
JPEG_QUALITY = 95
START_NS = 1_700_000_000_000_000_000
"""Stamp of the first frame of every drive made here; fixed, for equal bags of equal sources."""
CONFIG_KEY = 'mtl_perception.drive'
PARALLEL_PIXELS = 20 * 1280 * 720
"""Below this many pixels in all, starting worker processes takes longer than rendering."""


class SourceError(Exception):
    """Images or a video that cannot become a drive: what, where, found, next step."""


@dataclass(frozen=True)
class SourceFrame:
    """One frame of a source; `time_s` since its start."""

    time_s: float
    image: EncodedImage
    truth: Truth
    camera_matrix: NDArray[np.float64] | None = None


class Source(Protocol):
    """A drive that can be written. `config` identifies its content; None: never reuse a bag."""

    @property
    def kind(self) -> str: ...  # noqa: D102
    @property
    def description(self) -> str: ...  # noqa: D102
    @property
    def frames(self) -> int: ...  # noqa: D102
    @property
    def config(self) -> dict[str, Any] | None: ...  # noqa: D102

    def __iter__(self) -> Iterator[SourceFrame]: ...


@dataclass(frozen=True)
class Segment:
    """Conditions of one stretch of the generated drive."""

    weather: str
    scene: str
    timeofday: str


SEGMENTS = (
    Segment('clear', 'city street', 'daytime'),
    Segment('rainy', 'residential', 'dawn/dusk'),
    Segment('clear', 'highway', 'night'),
    Segment('foggy', 'city street', 'daytime'),
)


@dataclass(frozen=True)
class GeneratedDrive:
    """Stretches of a generated street, one after the other, each in conditions of its own.

    Exact truth for every task. seconds is the length of all stretches together.
    """

    seed: int = 0
    width: int = 1280
    height: int = 720
    seconds: float = 16.0
    rate_hz: float = 10.0
    segments: tuple[Segment, ...] = SEGMENTS
    kind = 'generated'

    @property
    def frames(self) -> int:
        """Frames of all stretches."""
        return max(1, round(self.seconds * self.rate_hz))

    @property
    def description(self) -> str:
        """One line about the drive."""
        conditions = '; '.join(f'{s.weather} {s.timeofday}, {s.scene}' for s in self.segments)
        return f'generated drive, seed {self.seed}, {self.width}x{self.height} ({conditions})'

    @property
    def config(self) -> dict[str, Any]:
        """Everything that the pixels depend on, the renderer's own code included."""
        import mtl_perception.scenes as scenes

        digest = hashlib.sha256()
        for path in sorted(Path(scenes.__file__).parent.glob('*.py')):
            digest.update(path.read_bytes())
        return {**asdict(self), 'renderer': digest.hexdigest()}

    def configs(self) -> list[DriveConfig]:
        """The renderer's configuration of every stretch."""
        from mtl_perception.scenes import DriveConfig

        count = len(self.segments)
        lengths = [self.frames * (i + 1) // count - self.frames * i // count for i in range(count)]
        return [
            DriveConfig(
                seed=self.seed + index, width=self.width, height=self.height, frames=length,
                rate_hz=self.rate_hz, weather=segment.weather, scene=segment.scene,
                timeofday=segment.timeofday,
            )
            for index, (segment, length) in enumerate(zip(self.segments, lengths, strict=True))
            if length
        ]  # fmt: skip

    def __iter__(self) -> Iterator[SourceFrame]:
        """Render, on all cores where that pays: frame i is a pure function of config and i."""
        jobs = [(config, i) for config in self.configs() for i in range(config.frames)]
        times = (index / self.rate_hz for index in range(len(jobs)))
        workers = min(8, len(os.sched_getaffinity(0)))
        if workers < 2 or len(jobs) * self.width * self.height < PARALLEL_PIXELS:
            yield from map(_render, times, jobs)
            return
        # Not fork: this process may hold threads of OpenCV and of an engine.
        with ProcessPoolExecutor(workers, mp_context=get_context('spawn')) as pool:
            yield from _in_order(pool, times, jobs, 2 * workers)


def _in_order(
    pool: ProcessPoolExecutor,
    times: Iterable[float],
    jobs: Iterable[tuple[DriveConfig, int]],
    ahead: int,
) -> Iterator[SourceFrame]:
    """As `map` of the pool, but with at most `ahead` frames waiting in memory."""
    waiting: deque[Future[SourceFrame]] = deque()
    for time_s, job in zip(times, jobs, strict=True):
        waiting.append(pool.submit(_render, time_s, job))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@lru_cache(maxsize=2)
def _world(config: DriveConfig) -> Drive:
    from mtl_perception.scenes import Drive

    return Drive(config)


def _render(time_s: float, job: tuple[DriveConfig, int]) -> SourceFrame:
    config, index = job
    frame = _world(config)[index]
    boxes = TruthBoxes(
        frame.boxes,
        tuple(DETECTION.classes[label] for label in frame.labels),
        np.zeros(len(frame.boxes), bool),
    )
    masks = {'drivable': frame.drivable, 'semantic': frame.semantic}
    truth = Truth(boxes, masks, frame.attributes)
    return SourceFrame(time_s, EncodedImage(frame.image), truth, frame.camera_matrix)


class ImageFolder:
    """Images of one folder in name order, with the labels that lie beside it (`labels.py`).

    JPEG and PNG bytes go into the bag as they are. Raises SourceError when there is nothing.
    """

    kind = 'images'
    config = None

    def __init__(
        self,
        folder: str | Path,
        pattern: str = '*',
        rate_hz: float = 10.0,
        limit: int | None = None,
    ) -> None:
        """List the images; `limit` takes the first so many."""
        self.folder = Path(folder).expanduser()
        self.rate_hz = rate_hz
        if not self.folder.is_dir():
            found = 'a file' if self.folder.exists() else 'nothing'
            raise SourceError(
                f'--images {self.folder}: expected a folder of images, found {found}. '
                f'For a video use --video, for a bag --bag.'
            )
        images = sorted(p for p in self.folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        self.paths = [path for path in images if fnmatch(path.name, pattern)][:limit]
        if not self.paths:
            there = f'{len(images)} images, none matching {pattern!r}' if images else 'none'
            raise SourceError(
                f'--images {self.folder}: expected {", ".join(IMAGE_SUFFIXES)} files, '
                f'found {there}. Folders below it are not searched.'
            )
        self.labels = FolderLabels(self.folder)

    @property
    def frames(self) -> int:
        """Images that match."""
        return len(self.paths)

    @property
    def description(self) -> str:
        """One line about the drive."""
        labels = f'labels from {self.labels.root}' if self.labels.root else 'no labels beside it'
        return f'{self.frames} images of {self.folder} ({labels})'

    def __iter__(self) -> Iterator[SourceFrame]:
        """Read."""
        for index, path in enumerate(self.paths):
            kind = 'png' if path.suffix.lower() == '.png' else 'jpeg'
            image = EncodedImage(data=path.read_bytes(), format=kind)
            yield SourceFrame(index / self.rate_hz, image, self.labels.truth(path.name))


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

    def __iter__(self) -> Iterator[SourceFrame]:
        """Decode, and encode as JPEG."""
        capture = cv2.VideoCapture(str(self.path))
        try:
            for index, frame in enumerate(islice(_read(capture), self.limit)):
                _, jpeg = cv2.imencode('.jpg', frame, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
                image = EncodedImage(data=jpeg.tobytes(), format='jpeg')
                yield SourceFrame(index / self.rate_hz, image, Truth())
        finally:
            capture.release()


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
        for done, frame in enumerate(source, start=1):
            stamp_ns = START_NS + round(frame.time_s * 1e9)
            writer.write_frame(stamp_ns, frame.image, frame.truth, frame.camera_matrix)
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
