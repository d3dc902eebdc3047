# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Which engine runs a frame: of which heads, for one frame or several, at which input size.

The engine of all heads stays open, so that a frame never waits: once the same tasks have been
requested for a while, an engine for just these is opened in the background and takes over between
two frames; as soon as more is requested, the full one continues. One such subset is kept. Another
input size is opened in the background as well, and takes the place of both.

A batch costs freshness: its first frame is answered when its last one is. So it has to be clearly
faster than the same frames one by one. Both are timed in turns, once per built engine, and the
measurement is stored next to it.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mtl_perception.bundle import Bundle, find_bundle
from mtl_perception.decode import Thresholds
from mtl_perception.engines import (
    ANY,
    ENGINES,
    EngineError,
    Options,
    cache,
    engine_class,
    open_engine,
)
from mtl_perception.engines.base import Engine
from mtl_perception.frame import Frame
from mtl_perception.pipeline import DEFAULT_THRESHOLDS, Inference, Pipeline
from mtl_perception.rate_choice import Measured

log = logging.getLogger(__name__)

SETTLED_S = 2.0
"""How long the same tasks must be requested before an engine is opened for them."""
CLOSE_S = 5.0
"""How long `close` waits for an engine that is being opened."""
GAIN = 0.9
"""Share of the time of single runs that a batch may take: less gain is not worth later answers."""
MIN_PAIRS, MAX_PAIRS, MEASURE_S = 3, 20, 2.0
"""Pairs of runs that are timed: as many as fit into so many seconds."""


@dataclass(frozen=True)
class Batch:
    """A pipeline for several frames per run; from `least` frames on a run of it is faster."""

    pipeline: Pipeline
    least: int

    @property
    def most(self) -> int:
        """Frames per run."""
        return self.pipeline.info.batch


class Variant:
    """The model with all heads or some of them: for single frames, and for several where faster."""

    def __init__(
        self, single: Pipeline, tasks: Collection[str] | None = None, batch: Batch | None = None
    ) -> None:
        """tasks: what its outputs answer, None for all."""
        self.single = single
        every = (task.name for task in single.tasks)
        self.tasks = frozenset(every if tasks is None else tasks)
        self._batch = batch
        self.set_thresholds(single.thresholds)

    @property
    def batch_range(self) -> tuple[int, int]:
        """From how many frames on a batch is faster, and how many it can hold."""
        return (1, 1) if self._batch is None else (self._batch.least, self._batch.most)

    def infer(self, frames: Sequence[Frame]) -> list[Inference | Exception]:
        """Run the frames, together where that is faster; one outcome per frame.

        A batch that fails is given up, which the log says, and its frames are run one by one.
        """
        batch = self._batch
        if batch is not None and batch.least <= len(frames) <= batch.most:
            try:
                return batch.pipeline.infer_batch(frames)
            except Exception as error:  # whatever a runtime throws: the engine for one is there
                log.warning('frames are run one by one from now on: a batch failed: %s', error)
                self._batch = None
                batch.pipeline.close()
        return [self._infer_one(frame) for frame in frames]

    def _infer_one(self, frame: Frame) -> Inference | Exception:
        try:
            return self.single.infer(frame)
        except Exception as error:  # whatever a runtime throws is this frame's outcome
            return error

    def set_thresholds(self, thresholds: Thresholds) -> None:
        """From the next frame on."""
        for pipeline in self._pipelines():
            pipeline.thresholds = thresholds

    def close(self) -> None:
        """Free the engines."""
        for pipeline in self._pipelines():
            pipeline.close()

    def _pipelines(self) -> list[Pipeline]:
        return [self.single, *([self._batch.pipeline] if self._batch is not None else [])]


OpenVariant = Callable[[int, Collection[str] | None], Variant]
"""Opens a variant: of which input size (0 is the chosen one, then smaller), of which tasks."""


class EnginePool:
    """The engines of one model. `request` and `close` are the node's, `infer` is the worker's."""

    def __init__(
        self,
        full: Variant,
        open_variant: OpenVariant,
        settled_s: float = SETTLED_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start with the variant of all heads at size 0, which is closed with this object."""
        self.size = 0
        self._full = full
        self._open_variant = open_variant
        self._settled_s = settled_s
        self._clock = clock
        self._requested = full.tasks
        self._since_s = clock()
        self._refused: set[tuple[int, frozenset[str]]] = set()
        self._opening: threading.Thread | None = None
        self._lock = threading.Lock()
        self._subset: Variant | None = None
        self._retired: list[Variant] = []
        self._latest = full
        self._thresholds = full.single.thresholds
        self._closed = False

    @classmethod
    def open(
        cls,
        model: str | Path,
        engine: str = 'auto',
        options: Options = ANY,
        build: bool = False,
        thresholds: Thresholds = DEFAULT_THRESHOLDS,
        cameras: int = 1,
        steps: Sequence[Measured] = (),
    ) -> EnginePool:
        """Open a bundle and the engine built for it; with `build`, build what the cache lacks.

        cameras: frames that may wait at once. steps: the input sizes of `Choice.steps`, in place of
        `engine` and `options`. Raises BundleError and EngineError.
        """
        bundle = Bundle.open(find_bundle(model))
        if steps:
            engine, options = steps[0].engine, steps[0].options

        def opening(size: int, tasks: Collection[str] | None) -> Variant:
            found = bundle.at_size(steps[size].height, steps[size].width) if steps else bundle
            return open_variant(found, engine, options, build, thresholds, cameras, tasks)

        full = opening(0, None)
        info = full.single.info
        engine, options = info.name, replace(options, precision=info.precision)
        return cls(full, opening)

    @property
    def full(self) -> Pipeline:
        """The pipeline of all heads."""
        return self._full.single

    @property
    def thresholds(self) -> Thresholds:
        """Thresholds of every engine; assigned ones count from the next frame on."""
        return self._thresholds

    @thresholds.setter
    def thresholds(self, thresholds: Thresholds) -> None:
        with self._lock:
            self._thresholds = thresholds
            for variant in (self._full, self._subset):
                if variant is not None:
                    variant.set_thresholds(thresholds)

    @property
    def batch_range(self) -> tuple[int, int]:
        """How many frames the engine of the latest frame runs at once where that is faster."""
        return self._latest.batch_range

    @property
    def subset(self) -> frozenset[str]:
        """Tasks of the engine that is open beside the full one; empty when there is none."""
        subset = self._subset
        return subset.tasks if subset is not None else frozenset()

    @property
    def is_opening(self) -> bool:
        """Whether an engine is being opened at the moment."""
        return self._opening is not None and self._opening.is_alive()

    def resize(self, size: int) -> None:
        """Open the engine of another input size in the background, to take over when it is there.

        Does nothing while an engine is being opened, and for a size that could not be opened.
        """
        every = self._full.tasks
        if size == self.size or self.is_opening or (size, every) in self._refused:
            return
        self._start_opening(size, None)

    def request(self, tasks: Collection[str] | None) -> None:
        """Say, now and then, which tasks are subscribed to (None: all)."""
        requested = frozenset(self._full.tasks if tasks is None else tasks)
        now_s = self._clock()
        if requested != self._requested:
            self._requested, self._since_s = requested, now_s
        if (
            now_s - self._since_s < self._settled_s
            or requested in (self._full.tasks, frozenset(), self.subset)
            or (self.size, requested) in self._refused
            or self.is_opening
        ):
            return
        self._start_opening(self.size, requested)

    def infer(
        self, frames: Sequence[Frame], tasks: Collection[str] | None = None
    ) -> list[Inference | Exception]:
        """Run frames of which these tasks are requested (None: all); one outcome per frame.

        Never waits for an engine to be opened.
        """
        self._latest = self._choose(tasks)
        return self._latest.infer(frames)

    def close(self) -> None:
        """Free every engine; to be called when no frame is in work."""
        with self._lock:
            self._closed = True
            variants = [*self._retired, self._full]
            if self._subset is not None:
                variants.append(self._subset)
            self._retired, self._subset = [], None
        if self._opening is not None:
            self._opening.join(CLOSE_S)
        for variant in variants:
            variant.close()

    def _choose(self, tasks: Collection[str] | None) -> Variant:
        with self._lock:
            retired, self._retired = self._retired, []
            subset = self._subset
        for old in retired:  # here, where no frame is in work
            old.close()
        if subset is not None and tasks is not None and subset.tasks.issuperset(tasks):
            return subset
        return self._full

    def _start_opening(self, size: int, tasks: frozenset[str] | None) -> None:
        self._opening = threading.Thread(
            target=self._open, args=(size, tasks), name='engine opener', daemon=True
        )
        self._opening.start()

    def _open(self, size: int, tasks: frozenset[str] | None) -> None:
        """Open engines for `tasks` (None: all) and run one once, then let them take over."""
        names = 'all heads' if tasks is None else ', '.join(sorted(tasks))
        variant = None
        try:
            variant = self._open_variant(size, tasks)
            variant.single.run_empty()
        except Exception as error:  # whatever a runtime throws: the present engine is still there
            self._refused.add((size, self._full.tasks if tasks is None else tasks))
            if variant is not None:
                variant.close()
            if tasks is None:
                log.warning('the input size stays as it is, since: %s', error)
            else:
                log.info('subscribed: %s; all heads are computed, since: %s', names, error)
            return
        with self._lock:
            closed = self._closed
            if not closed:
                variant.set_thresholds(self._thresholds)
                self._retire(self._subset)
                if tasks is None:
                    self._retire(self._full)
                    self._full, self._subset, self.size = variant, None, size
                else:
                    self._subset = variant
        spec = variant.single.bundle.manifest.input
        if closed:
            variant.close()
        elif tasks is None:
            log.info('the input is %dx%d from now on', spec.height, spec.width)
        else:
            log.info('only these heads are computed from now on: %s', names)

    def _retire(self, variant: Variant | None) -> None:
        """Have it closed before the next frame, when none is in work."""
        if variant is not None:
            self._retired.append(variant)


def open_variant(
    bundle: Bundle,
    engine: str,
    options: Options,
    build: bool,
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
    cameras: int = 1,
    tasks: Collection[str] | None = None,
) -> Variant:
    """Open the engine of all heads or of some tasks only, and one for batches where it is faster.

    cameras: frames that may wait at once. Raises EngineError.
    """
    if tasks is not None:
        outputs = tuple(spec.name for spec in bundle.manifest.outputs if spec.task in tasks)
        options = replace(options, outputs=outputs)
    single = open_engine(bundle, engine, options, build)
    batch = None
    if cameras > 1:
        batch = open_batch(bundle, single, replace(options, batch=cameras), build)
    return Variant(Pipeline(bundle, single, thresholds), tasks, batch)


def open_batch(bundle: Bundle, single: Engine, options: Options, build: bool) -> Batch | None:
    """What `single` is, for `options.batch` frames per run; None, and the log says why, where not.

    Not when such an engine is not built (with `build`, it is), and not when it is not faster.
    """
    name, count = single.info.name, options.batch
    options = replace(options, precision=single.info.precision)
    engine: Engine | None = None
    try:
        engine = open_engine(bundle, name, options, build)
        share = relative_time(bundle, single, engine, options)
    except EngineError as error:
        log.info('%d cameras are answered one by one, since: %s', count, error)
        if engine is not None:
            engine.close()
        return None
    least = max(2, math.ceil(share * count / GAIN))
    if least > count:
        engine.close()
        log.info(
            '%d cameras are answered one by one: a batch of %d takes %.2f of the time of single '
            'runs, and pays below %g', count, count, share, GAIN,
        )  # fmt: skip
        return None
    log.info(
        'batches of %d take %.2f of the time of single runs: from %d waiting cameras on their '
        'frames are run together', count, share, least,
    )  # fmt: skip
    return Batch(Pipeline(bundle, engine), least)


def relative_time(bundle: Bundle, single: Engine, batch: Engine, options: Options) -> float:
    """Time of a run of `batch` by that of as many of `single`; measured once per built engine.

    Raises EngineError when one fails.
    """
    name = single.info.name
    if name not in ENGINES:  # nothing is built, so there is no place to keep it
        return measure(bundle, single, batch)
    key = engine_class(name).plan(bundle, options).key
    known = cache.batch_time(key).get('relative_time')
    if isinstance(known, float):
        return known
    share = round(measure(bundle, single, batch), 4)
    try:
        cache.keep(key, cache.BATCH_FILE, {'relative_time': share})
    except EngineError as error:
        log.info('measured again next time: %s', error)
    return share


def measure(bundle: Bundle, single: Engine, batch: Engine) -> float:
    """The median over pairs of one run of `batch` and as many of `single`, on an empty picture."""
    spec, count = bundle.manifest.input, batch.info.batch
    frames = np.zeros((count, spec.height, spec.width, 3), np.uint8)
    single.run(frames[:1])
    batch.run(frames)
    shares: list[float] = []
    begun_s = time.perf_counter()
    while len(shares) < MIN_PAIRS or (
        len(shares) < MAX_PAIRS and time.perf_counter() - begun_s < MEASURE_S
    ):
        started_s = time.perf_counter()
        batch.run(frames)
        batched_s = time.perf_counter()
        for _ in range(count):
            single.run(frames[:1])
        shares.append((batched_s - started_s) / (time.perf_counter() - batched_s))
    return float(np.median(shares))
