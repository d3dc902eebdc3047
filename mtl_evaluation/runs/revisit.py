# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Frames of a finished run looked at again: the picture from its bag, the answer from its model.

Only the bags that hold the frames are read, each once and as far as its last one; the model answers
only those frames.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from mtl_evaluation.bags.bag import DriveFrame
from mtl_evaluation.bags.read_options import TOLERANCE_MS, ReadOptions
from mtl_evaluation.messages.cdr import BagError
from mtl_evaluation.pictures.frames import Seen, rgb_of
from mtl_evaluation.runs.bag_replay import BagJob, TruthJoin, answers_digest
from mtl_evaluation.runs.fleet import EngineSettings
from mtl_evaluation.runs.run import FrameRecord, Run
from mtl_evaluation.truth.label_files import LabelError
from mtl_perception.bundle import BundleError, find_bundle
from mtl_perception.engines import EngineError
from mtl_perception.image_codec import ImageError
from mtl_perception.pipeline import Pipeline

log = logging.getLogger(__name__)

Pictures = Callable[[FrameRecord], Seen | None]
"""Shows a frame again, None when it cannot. Called once per frame, in the order of the run, so that
what it reads can stream; only for the frames of the galleries."""


@contextmanager
def revisiting(run: Run, pipeline: Pipeline | None = None) -> Iterator[Pictures]:
    """Gives what shows a frame of the run by its record, None where it cannot be had.

    To be called in the order of the run. pipeline: of the run's model, where it is still open. The
    log says why frames are missing.
    """
    with ExitStack() as stack:
        try:
            opened = stack.enter_context(_model(run, pipeline))
        except (BundleError, EngineError) as error:
            log.info('no pictures of %s: %s', run.path, error)
            yield lambda record: None
            return
        visit = stack.enter_context(_Visit(run, opened))
        yield visit


def jobs_of(run: Run) -> list[BagJob]:
    """The bags of a run with their truth, as they were replayed; none of a run over data sets."""
    identity = run.summary.get('identity', {})
    truth = None
    if identity.get('truth'):
        paths = tuple(Path(path) for path in identity['truth'])
        join, tolerance = identity['truth_join'], identity['truth_tolerance_ms']
        truth = TruthJoin(paths, join, tolerance, run.tasks)
    options = ReadOptions(
        tuple(identity.get('ignored_topics', ())),
        identity.get('truth_tolerance_ms', TOLERANCE_MS),
        identity.get('classes', {}),
    )
    return [
        BagJob(bag['name'], Path(bag['path']), tuple(identity.get('topics', ())), truth, options)
        for bag in run.summary.get('bags', [])
        if bag.get('path')
    ]


@contextmanager
def _model(run: Run, pipeline: Pipeline | None) -> Iterator[Pipeline]:
    if pipeline is not None:
        yield pipeline
        return
    model: Mapping[str, Any] = run.summary.get('model') or {}
    where = find_bundle(model.get('path') or model.get('name') or '')
    # The device is noted as its maker calls it, which no engine takes as a name.
    settings = EngineSettings(
        str(where), model.get('engine') or 'auto', precision=model.get('precision') or 'auto'
    )
    with settings.open() as opened:
        if opened.bundle.hash != model.get('bundle_hash'):
            raise BundleError(f'{where} is another model than the one that was run')
        yield opened


class _Visit:
    def __init__(self, run: Run, pipeline: Pipeline) -> None:
        self._jobs = {job.name: job for job in jobs_of(run)}
        self._pipeline = pipeline
        self._bag = ''
        self._frames: Iterator[DriveFrame] = iter(())
        self._open = ExitStack()

    def __enter__(self) -> _Visit:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def __call__(self, record: FrameRecord) -> Seen | None:
        try:
            return self._seen(record)
        except (BagError, LabelError, EngineError, ImageError) as error:
            log.info('no picture of %s: %s', record.key, error)
            return None

    def _seen(self, record: FrameRecord) -> Seen | None:
        if record.bag not in self._jobs:
            return None
        if record.bag != self._bag:
            self._open.close()
            self._bag, self._frames = record.bag, iter(())
            bag = self._open.enter_context(self._jobs[record.bag].open())
            self._frames = bag.frames()
        for frame in self._frames:
            if (frame.topic, frame.index) == (record.camera, record.index):
                image = frame.image()
                result = self._pipeline(image)
                if answers_digest(frame.stamp_ns, result) != record.digest:
                    # Another number of threads is enough for other last digits.
                    log.info('%s is not answered bit for bit as in the run', record.key)
                return Seen(rgb_of(image), result, frame.truth())
        return None
