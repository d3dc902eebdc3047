# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""One bag through the pipeline: every frame in order, into the bag's part of a run.

A pure function of bag, model and engine: nothing depends on time, on other bags or on how often it
was interrupted. It runs in this process, in processes beside each other or on a cluster alike
(`fleet.py`).

Four frames are in work at any time, each at a station of its own: read by the bag's process, run by
the engine and decoded from its outputs in a thread each, scored and stored here. Every station
takes the frames in order, so this changes nothing but the time.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mtl_evaluation.bags.bag import DriveFrame
from mtl_evaluation.bags.bag_file import BagInfo
from mtl_evaluation.bags.cameras import Camera
from mtl_evaluation.bags.guarded import GuardedBag
from mtl_evaluation.bags.listing import Listing
from mtl_evaluation.bags.read_options import AS_RECORDED, TOLERANCE_MS, ReadOptions
from mtl_evaluation.bags.truth_join import Join, JoinedBag
from mtl_evaluation.messages.cdr import BagError
from mtl_evaluation.metrics.metrics import Metric
from mtl_evaluation.metrics.temporal import StabilityTracker
from mtl_evaluation.runs.part import FrameRecord, Part, RunError, frame_key
from mtl_evaluation.runs.recording import Watch
from mtl_evaluation.runs.run import part_file
from mtl_evaluation.runs.tracks import CameraTrackers
from mtl_evaluation.scores import Scores
from mtl_evaluation.truth.class_mapping import ClassMapping
from mtl_evaluation.truth.label_files import LabelError
from mtl_evaluation.truth.truth import Truth
from mtl_evaluation.truth.truth_files import TruthFiles
from mtl_perception.camera_model import CameraModel, GeometryError
from mtl_perception.engines import EngineError
from mtl_perception.frame import Frame, Result
from mtl_perception.image_codec import ImageError
from mtl_perception.pipeline import Inference, Pipeline
from mtl_perception.tasks import Task

AHEAD = 2
"""Frames at the engine and at the decoder while one is measured."""

Notify = Callable[[int, int], None]
"""Called with frames done and frames that the bag promises."""

Record = Callable[[GuardedBag | JoinedBag], AbstractContextManager[Watch]]
"""Called with the opened bag: gives what is shown every frame that is answered, after it was
measured; none of before an interruption. See `recording.recorder`."""


@dataclass(frozen=True)
class TruthJoin:
    """Truth that is not in the bag: files, and how frames find their labels in them.

    tasks: what may be labelled beside the package's own tasks.
    """

    paths: tuple[Path, ...]
    join: Join = 'auto'
    tolerance_ms: float = TOLERANCE_MS
    tasks: tuple[Task, ...] = ()


@dataclass(frozen=True)
class BagJob:
    """One bag of a run. name: unique in the run; topics: of the cameras, none: every one.

    truth: in the place of the bag's own. options: what of the bag is read, and how.
    """

    name: str
    path: Path
    topics: tuple[str, ...] = ()
    truth: TruthJoin | None = None
    options: ReadOptions = AS_RECORDED

    @contextmanager
    def open(self, decode_from: int = 0) -> Iterator[GuardedBag | JoinedBag]:
        """The bag with its truth, without the pictures of the frames before one.

        Raises BagError and LabelError.
        """
        with GuardedBag(self.path, self.topics, options=self.options) as bag:
            bag.decode_from = decode_from
            if self.truth is None:
                yield bag
            else:
                files = TruthFiles(self.truth.paths, self.truth.tasks)
                classes = ClassMapping(self.options.classes)
                yield JoinedBag(bag, files, self.truth.join, self.truth.tolerance_ms, classes)


@dataclass
class BagState:
    """How far a bag is; kept in its part of the run.

    source: what the bag says of itself, to know it again. read: frames taken from the bag, of those
    `total` that its index promises. recent: of each camera the number in the bag and the digest of
    its last two answered frames, with which the next one is compared. used_truth: names of the
    labels that frames had, where they are from files. error: why it ended before its end; '' while
    it runs or was stopped.
    """

    source: dict[str, Any] = field(default_factory=dict)
    cameras: list[str] = field(default_factory=list)
    total: int = 0
    read: int = 0
    labelled: int = 0
    recent: dict[str, list[list[Any]]] = field(default_factory=dict)
    undecodable: dict[str, Any] = field(default_factory=lambda: Listing().to_json())
    repeated: dict[str, Any] = field(default_factory=lambda: Listing().to_json())
    unmatched_truth: dict[str, Any] = field(default_factory=lambda: Listing().to_json())
    unmatched_frames: dict[str, Any] = field(default_factory=lambda: Listing().to_json())
    used_truth: list[str] = field(default_factory=list)
    complete: bool = False
    error: str = ''


class Interrupted(Exception):
    """Raised by `Notify` to stop between two frames."""


@dataclass(frozen=True)
class _Asked:
    """A frame of the bag, by its number there, and the answer that is being computed."""

    number: int
    frame: DriveFrame
    answer: Future[tuple[Frame, Result]]
    read_ms: float


def replay_bag(
    job: BagJob,
    run: Path,
    pipeline: Pipeline,
    notify: Notify | None = None,
    record: Record | None = None,
) -> None:
    """Go on with a bag until its end; everything that came of it is in its part of the run.

    A bag that cannot be read, or whose truth does not fit the model, ends with its sentence in
    `BagState.error`; what was measured before is kept. Raises Interrupted when `notify` does, and
    RunError when the run cannot be written, was begun with another bag or gives other answers now.
    OSError when a recording cannot be written.
    """
    part = Part(part_file(run, job.name), job.name, pipeline.tasks, write=True)
    try:
        state = BagState(**part.state)
        if state.complete:
            return
        state.error = ''
        try:
            needed = [number for frames in state.recent.values() for number, _ in frames]
            with (
                job.open(min(needed, default=0)) as bag,
                record(bag) if record else nullcontext() as watch,
            ):
                _Replay(job, bag, part, state, pipeline, watch).go(notify)
        except (BagError, LabelError, EngineError) as error:
            state.error = str(error)
        except Interrupted:
            part.state = asdict(state)
            part.commit()
            raise
        # After any other exception the last commit stands: it is between two frames.
        part.state = asdict(state)
        part.commit()
    finally:
        part.close()


def bag_state(run: Path, name: str) -> BagState:
    """How far a bag of a run is; raises RunError."""
    file = part_file(run, name)
    if not file.is_file() or not file.stat().st_size:
        return BagState()
    part = Part(file, name, ())
    try:
        return BagState(**part.state)
    finally:
        part.close()


def check_bag(job: BagJob, run: Path) -> None:
    """Raise RunError where a bag is not the one that the run has; BagError if it is none."""
    with GuardedBag(job.path, job.topics, options=job.options) as bag:
        _source(job, bag.info, part_file(run, job.name), bag_state(run, job.name))


def _source(job: BagJob, info: BagInfo, file: Path, state: BagState) -> dict[str, Any]:
    """What the bag says of itself; raises RunError where its part was begun with another."""
    source = asdict(info)
    # As it comes back from the file.
    source = {key: list(v) if isinstance(v, tuple) else v for key, v in source.items()}
    source['topics'] = [list(topic) for topic in source['topics']]
    if state.source and state.source != source:
        raise RunError(
            f'{job.path} is not the bag that {file} was begun with. Give another folder for the '
            f'run, or delete that file'
        )
    return source


class _Replay:
    def __init__(
        self,
        job: BagJob,
        bag: GuardedBag | JoinedBag,
        part: Part,
        state: BagState,
        pipeline: Pipeline,
        watch: Watch | None,
    ) -> None:
        self._job = job
        self._bag = bag
        self._part = part
        self._state = state
        self._pipeline = pipeline
        self._watch = watch
        self._undecodable = Listing(state.undecodable['count'], state.undecodable['first'])
        self._trackers = {camera.topic: StabilityTracker(pipeline.tasks) for camera in bag.cameras}
        self._tracks = {camera.topic: CameraTrackers(pipeline.tasks) for camera in bag.cameras}
        for record in part.records():
            self._tracks[record.camera].resume(record.stamp_ns, record.tracks, record.size)
        state.source = _source(job, bag.info, part.path, state)
        state.cameras = [camera.topic for camera in bag.cameras]
        state.total = bag.frames_total

    def go(self, notify: Notify | None) -> None:
        state = self._state
        store_ms = 0.0
        with ThreadPoolExecutor(1, 'engine') as engine, ThreadPoolExecutor(1, 'decode') as decoder:
            for asked in self._ahead(engine, decoder):
                record = self._record(asked, store_ms)
                began = time.perf_counter()
                state.read = asked.number + 1
                if record is not None:
                    state.labelled += bool(record.pieces)
                    recent = state.recent.get(record.camera, [])
                    state.recent[record.camera] = [*recent[-1:], [asked.number, record.digest]]
                    self._part.add(record)
                if self._part.commit_due():
                    self._part.state = asdict(state)
                    self._part.commit()
                store_ms = (time.perf_counter() - began) * 1e3
                if notify is not None:
                    notify(state.read, state.total)
        state.repeated = self._bag.repeated.to_json()
        state.unmatched_truth = self._bag.unmatched_truth.to_json()
        if isinstance(self._bag, JoinedBag):
            state.unmatched_frames = self._bag.unmatched_frames.to_json()
            state.used_truth = sorted(self._bag.used_truth)
        state.complete = True

    def _ahead(self, engine: Executor, decoder: Executor) -> Iterator[_Asked]:
        """What `_ask` yields, each when the stations before have their next frames."""
        waiting: list[_Asked] = []
        try:
            for asked in self._ask(engine, decoder):
                waiting.append(asked)
                if len(waiting) > AHEAD:
                    yield waiting.pop(0)
        except BagError:
            yield from waiting  # read before the bag broke off
            raise
        yield from waiting

    def _ask(self, engine: Executor, decoder: Executor) -> Iterator[_Asked]:
        """Hand on every frame that was not answered yet, as it comes from the bag."""
        done = self._state.read
        known = {n: digest for frames in self._state.recent.values() for n, digest in frames}
        began = time.perf_counter()
        for number, frame in enumerate(self._bag.frames()):
            if number in known:
                self._again(frame, known[number])
            elif number >= done:
                read_ms = (time.perf_counter() - began) * 1e3
                answer = decoder.submit(self._answer, engine.submit(self._run, frame))
                yield _Asked(number, frame, answer, read_ms)
            began = time.perf_counter()

    def _run(self, frame: DriveFrame) -> tuple[Frame, Inference]:
        image = frame.image()
        return image, self._pipeline.infer(image)

    def _answer(self, running: Future[tuple[Frame, Inference]]) -> tuple[Frame, Result]:
        image, inference = running.result()
        return image, inference.decode()

    def _record(self, asked: _Asked, store_ms: float) -> FrameRecord | None:
        """Measure one frame; None when its image cannot be decoded."""
        frame = asked.frame
        began = time.perf_counter()
        try:
            image, result = asked.answer.result()
        except ImageError as error:
            self._undecodable.add(f'{frame.topic} frame {frame.index}: {error}')
            self._state.undecodable = self._undecodable.to_json()
            return None
        answered = time.perf_counter()
        truth = frame.truth()
        height, width = image.pixels.shape[:2]
        with self._truth_fits(frame):
            pieces = self._pieces(frame, result, truth, (width, height))
            scored = time.perf_counter()
            trackers = self._tracks[frame.topic]
            tracks = trackers.update(frame.stamp_ns, result, truth, (width, height))
        tracked = time.perf_counter()
        tracker = self._trackers[frame.topic]
        stability = tracker.update(frame.index, frame.stamp_ns, result, truth)
        compared = time.perf_counter()
        digest = answers_digest(frame.stamp_ns, result)
        hashed = time.perf_counter()
        timings = {
            'read': asked.read_ms,
            **result.timings_ms,
            'wait': (answered - began) * 1e3,
            'score': (scored - answered) * 1e3,
            'track': (tracked - scored) * 1e3,
            'stability': (compared - tracked) * 1e3,
            'hash': (hashed - compared) * 1e3,
            'store': store_ms,
        }
        if self._watch is not None:
            self._watch(frame, image, result, truth)
            timings['record'] = (time.perf_counter() - hashed) * 1e3
        return FrameRecord(
            self._job.name, frame.topic, frame.index, frame.stamp_ns, frame.name, (width, height),
            digest, dict(truth.labels), timings, pieces, stability,
            _camera_model(frame.camera, width, height), tracks, truth.places,
        )  # fmt: skip

    @contextmanager
    def _truth_fits(self, frame: DriveFrame) -> Iterator[None]:
        """Truth that does not fit the model is the bag's fault."""
        try:
            yield
        except ValueError as error:
            raise BagError(
                f'{self._bag.path}: {frame.topic} frame {frame.index}: {error}'
            ) from error

    def _pieces(
        self, frame: DriveFrame, result: Result, truth: Truth, size: tuple[int, int]
    ) -> dict[str, Metric]:
        scores = Scores(self._pipeline.tasks)
        scores.update(frame_key(self._job.name, frame.topic, frame.index), result, truth, size)
        return {name: metric for name, metric in scores.metrics.items() if metric.frames}

    def _again(self, frame: DriveFrame, digest: str) -> None:
        """Answer a frame again that was answered before the run was interrupted."""
        result = self._pipeline(frame.image())
        if answers_digest(frame.stamp_ns, result) != digest:
            raise RunError(
                f'{frame.topic} frame {frame.index} of {self._bag.path} is answered otherwise than '
                f'before the run was interrupted: bag, engine or machine have changed. Begin again '
                f'with --fresh'
            )
        self._trackers[frame.topic].update(frame.index, frame.stamp_ns, result, frame.truth())


def answers_digest(stamp_ns: int, result: Result) -> str:
    """Sha256 (hex) of everything that was answered about a frame: equal bytes, equal answers."""
    digest = hashlib.sha256()
    for part in _bytes_of(stamp_ns, result):
        digest.update(part)
    return digest.hexdigest()


def _bytes_of(stamp_ns: int, result: Result) -> Iterator[Any]:
    yield stamp_ns.to_bytes(8, 'little', signed=True)
    for _, found in sorted(result.detections.items()):
        for array in (found.boxes, found.scores, found.labels):
            yield np.ascontiguousarray(array).data
    for arrays in (result.masks, result.probabilities, result.maps):
        for _, values in sorted(arrays.items()):
            yield np.ascontiguousarray(values).data
    for _, value in sorted(result.others.items()):
        yield repr(value).encode()


def _camera_model(camera: Camera, width: int, height: int) -> CameraModel | str:
    """The camera's model for images of this size, or why there is none."""
    try:
        return camera.model_note if camera.model is None else camera.model.for_image(width, height)
    except GeometryError as error:
        return str(error)
