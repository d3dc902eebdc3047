# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What is kept of a replay to look at later: overlay video, a bag with the answers, Rerun.

overlay.mp4      a video a camera (`overlay_<camera>.mp4` where there are several)
answers/         a rosbag2 folder (mcap), see `answers.py`
recording.rrd    for the Rerun viewer, where `rerun-sdk` is installed
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mtl_evaluation import kinds
from mtl_evaluation.bags.answers import AnswerBag, as_jpeg
from mtl_evaluation.bags.bag import DriveFrame
from mtl_evaluation.bags.bag_file import BagInfo
from mtl_evaluation.bags.cameras import Camera
from mtl_evaluation.pictures.frames import (
    as_labelled,
    placed,
    rgb_of,
    shown,
    truth_as_result,
)
from mtl_evaluation.pictures.video import Video
from mtl_evaluation.truth.truth import Truth
from mtl_perception import kinds as vehicle
from mtl_perception import overlay
from mtl_perception.annotations import annotate
from mtl_perception.frame import Frame, Result
from mtl_perception.kinds.detection import box_text
from mtl_perception.tasks import UNLABELLED, Task

log = logging.getLogger(__name__)

Image = NDArray[np.uint8]
Watch = Callable[[DriveFrame, Frame, Result, Truth], None]
"""Shown every frame that is answered."""


class RecordingError(Exception):
    """A recording that cannot be made: what is missing, next command."""


class Bag(Protocol):
    """What is asked of a bag before its frames come: `GuardedBag` and the like."""

    @property
    def info(self) -> BagInfo: ...  # noqa: D102
    @property
    def cameras(self) -> Sequence[Camera]: ...  # noqa: D102


@dataclass(frozen=True)
class Recordings:
    """Which recordings to make."""

    video: bool = False
    bag: bool = False
    rerun: bool = False

    def __bool__(self) -> bool:
        """Whether any is requested."""
        return self.video or self.bag or self.rerun

    def check(self) -> None:
        """Raise RecordingError where something requested cannot be made here."""
        if self.rerun:
            _rerun()


def recorder(
    requested: Recordings, folder: Path, tasks: Sequence[Task]
) -> Callable[[Bag], AbstractContextManager[Watch]]:
    """Records a bag into `folder`: called with the opened bag it gives what is shown its frames.

    Raises, in the course of that, BagError and OSError when files cannot be written. A recording
    that is left by an exception is removed, but for the video.
    """

    @contextmanager
    def record(bag: Bag) -> Iterator[Watch]:
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            yield _Recorder(requested, folder, tasks, bag, stack)

    return record


class _Recorder:
    def __init__(
        self, requested: Recordings, folder: Path, tasks: Sequence[Task], bag: Bag, stack: ExitStack
    ) -> None:
        self._tasks = tuple(tasks)
        self._names = {camera.topic: camera.namespace.strip('/') for camera in bag.cameras}
        self._videos: dict[str, Video] = {}
        self._bag: AnswerBag | None = None
        self._rerun: _Rerun | None = None
        self._start_ns: int | None = None
        several = len(bag.cameras) > 1
        if requested.video:
            for camera in bag.cameras:
                name = self._names[camera.topic].replace('/', '_')
                path = folder / (f'overlay_{name}.mp4' if several else 'overlay.mp4')
                path.unlink(missing_ok=True)
                video = Video(path, _rate_hz(bag.info, camera), camera.frames)
                self._videos[camera.topic] = stack.enter_context(video)
        if requested.bag:
            cameras = list(self._names.values())
            self._bag = stack.enter_context(AnswerBag(folder / 'answers', tasks, cameras))
        if requested.rerun:
            self._rerun = stack.enter_context(_Rerun(folder / 'recording.rrd', tasks))

    def __call__(self, frame: DriveFrame, image: Frame, result: Result, truth: Truth) -> None:
        if self._start_ns is None:
            self._start_ns = frame.stamp_ns
            if frame.index:
                log.warning(
                    'the recordings begin at frame %d of %s: this run was interrupted before. '
                    'Replay with --fresh to record all of it', frame.index, frame.topic,
                )  # fmt: skip
        rgb = rgb_of(image)
        seconds = (frame.stamp_ns - self._start_ns) / 1e9
        status = f'{seconds:7.2f} s  frame {frame.index}'
        answer = placed(shown(result), self._tasks, frame.camera.model, truth, rgb)
        painted = overlay.draw(rgb, answer, self._tasks, status=status)
        camera = self._names[frame.topic]
        if frame.topic in self._videos:
            self._videos[frame.topic].add(painted)
        if self._bag is not None:
            shapes = annotate(answer, self._tasks, len(rgb))
            self._bag.add(frame.stamp_ns, rgb, result, truth, painted, shapes, frame.name, camera)
        if self._rerun is not None:
            self._rerun.add(frame.stamp_ns, rgb, result, truth, camera)


class _Rerun:
    """A Rerun recording being written."""

    def __init__(self, path: Path, tasks: Sequence[Task]) -> None:
        self._rr = _rerun()
        self._tasks = tuple(tasks)
        self._told: set[str] = set()
        self._stream = self._rr.RecordingStream('mtl_perception')
        self._stream.save(path)

    def __enter__(self) -> _Rerun:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.flush()
        self._stream.disconnect()

    def add(self, stamp_ns: int, image: Image, result: Result, truth: Truth, camera: str) -> None:
        self._stream.set_time('stamp', timestamp=np.datetime64(stamp_ns, 'ns'))
        jpeg = self._rr.EncodedImage(contents=as_jpeg(image), media_type='image/jpeg')
        self._stream.log(camera, jpeg)
        self._log(f'{camera}/answer', shown(result), self._tasks)
        true = truth_as_result(truth, self._tasks)
        self._log(f'{camera}/truth', true, as_labelled(self._tasks))

    def _log(self, place: str, result: Result, tasks: Sequence[Task]) -> None:
        for task in tasks:
            answer = result.answers.get(task.name)
            if answer is None:
                continue
            path, kind = f'{place}/{task.name}', kinds.of(task)
            if kind.named:
                self._tell(path, task)
            labels = _labels(result, task) if kind.has_boxes else []
            self._stream.log(path, kind.rerun(self._rr, answer, task, labels))

    def _tell(self, path: str, task: Task) -> None:
        """Name the classes of an entity, once."""
        if path in self._told:
            return
        self._told.add(path)
        colours: Mapping[int, tuple[int, ...]] = dict(enumerate(task.colours))
        names = [(i, name, colours.get(i)) for i, name in enumerate(task.classes)]
        if vehicle.of(task).is_mask:
            names.append((UNLABELLED, 'unlabelled', (0, 0, 0, 0)))
        self._stream.log(path, self._rr.AnnotationContext(names), static=True)


def _labels(result: Result, task: Task) -> list[str]:
    """What is written at each box, as the overlay has it."""
    found = result.detections[task.name]
    tracks = result.tracks.get(task.name)
    ids = [0] * len(found) if tracks is None else tracks.of_detections(len(found)).tolist()
    return [
        box_text(task.classes[label], score, number)
        for label, score, number in zip(
            found.labels.tolist(), found.scores.tolist(), ids, strict=True
        )
    ]


def _rerun() -> Any:
    try:
        import rerun
    except ImportError as error:
        raise RecordingError(
            f'--rerun needs the Rerun SDK, which is not installed ({error}). '
            f'Run: pip install rerun-sdk'
        ) from error
    return rerun


def _rate_hz(info: BagInfo, camera: Camera) -> float:
    seconds = (info.end_ns - info.start_ns) / 1e9
    if camera.frames < 2 or seconds <= 0:
        return 10.0
    return float(np.clip((camera.frames - 1) / seconds, 1, 120))
