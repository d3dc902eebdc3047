# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Generated drives: stretches of street that the renderer draws, with truth for every task."""

from __future__ import annotations

import hashlib
import os
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mtl_evaluation.bags.bag_writer import EncodedImage
from mtl_evaluation.bags.sources import SourceError, SourceFrame
from mtl_evaluation.truth.truth import Truth, TruthBoxes, TruthPlaces
from mtl_perception.children import IsolatedSpawn
from mtl_perception.geometry import Mount
from mtl_perception.tasks import DETECTION

if TYPE_CHECKING:
    from mtl_scenes import Drive, DriveConfig

PARALLEL_PIXELS = 20 * 1280 * 720
"""Below this many pixels in all, starting worker processes takes longer than rendering."""


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
        import mtl_scenes

        digest = hashlib.sha256()
        for path in sorted(Path(mtl_scenes.__file__).parent.glob('*.py')):
            digest.update(path.read_bytes())
        return {**asdict(self), 'renderer': digest.hexdigest()}

    @property
    def identity(self) -> dict[str, Any]:
        """As `config`."""
        return self.config

    def configs(self) -> list[DriveConfig]:
        """The renderer's configuration of every stretch."""
        from mtl_scenes import DriveConfig

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

    def frames_from(self, start: int) -> Iterator[SourceFrame]:
        """Render, on all cores where that pays: frame i is a pure function of config and i."""
        jobs = [(config, i) for config in self.configs() for i in range(config.frames)]
        timed = [(index / self.rate_hz, *job) for index, job in enumerate(jobs)][start:]
        workers = min(8, len(os.sched_getaffinity(0)))
        if workers < 2 or len(timed) * self.width * self.height < PARALLEL_PIXELS:
            yield from map(_render, timed)
            return
        with ProcessPoolExecutor(workers, IsolatedSpawn(), _ignore_interrupts) as pool:
            yield from _in_order(pool, timed, 2 * workers)


Job = tuple[float, 'DriveConfig', int]
"""Time of a frame in seconds, the stretch that it belongs to, and its number there."""


def _in_order(pool: ProcessPoolExecutor, jobs: Sequence[Job], ahead: int) -> Iterator[SourceFrame]:
    """As `map` of the pool, but with at most `ahead` frames waiting in memory."""
    waiting: deque[Future[SourceFrame]] = deque()
    try:
        for job in jobs:
            waiting.append(pool.submit(_render, job))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise SourceError('a process that draws frames died, of too little memory?') from error
    finally:
        for future in waiting:
            future.cancel()


def _ignore_interrupts() -> None:
    """A signal may reach the whole process group; whoever collects the frames decides."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@lru_cache(maxsize=2)
def _world(config: DriveConfig) -> Drive:
    from mtl_scenes import Drive

    return Drive(config)


def _render(job: Job) -> SourceFrame:
    time_s, config, index = job
    frame = _world(config)[index]
    boxes = TruthBoxes(
        frame.boxes,
        tuple(DETECTION.classes[label] for label in frame.labels),
        np.zeros(len(frame.boxes), bool),
        # Each stretch is a world of its own.
        tuple(f'{config.seed}-{track}' for track in frame.track_ids.tolist()),
    )
    masks = {'drivable': frame.drivable, 'semantic': frame.semantic}
    camera = _world(config).camera
    mount = Mount.of(camera.height_m, pitch=camera.pitch)
    feet = frame.feet @ mount.matrix.T + np.array(mount.translation)
    truth = Truth(boxes, masks, frame.attributes, TruthPlaces(feet, mount))
    return SourceFrame(time_s, EncodedImage(frame.image), truth, frame.camera_matrix)
