"""Frames of several cameras in one run of the engine, where that is faster on this machine.

A batch costs freshness: its first frame is answered when its last one is. So it has to be clearly
faster than the same frames one by one, and a machine says whether it is: both are timed in turns,
once, and the answer lies beside the built engine.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, replace

import numpy as np

from mtl_perception.bundle import Bundle
from mtl_perception.engines import (
    ENGINES,
    EngineError,
    Options,
    cache,
    engine_class,
    open_engine,
)
from mtl_perception.engines.base import Engine

log = logging.getLogger(__name__)

GAIN = 0.9
"""Share of the time of single runs that a batch may take: less gain is not worth later answers."""
MIN_PAIRS, MAX_PAIRS, MEASURE_S = 3, 20, 2.0
"""Pairs of runs that are timed: as many as fit into so many seconds."""


@dataclass(frozen=True)
class Batch:
    """An engine for several frames a run. least: the frames from which a run of it is faster."""

    engine: Engine
    least: int

    @property
    def most(self) -> int:
        """Frames a run."""
        return self.engine.info.batch


def open_batch(bundle: Bundle, single: Engine, options: Options, build: bool) -> Batch | None:
    """What `single` is, for `options.batch` frames a run; None, and the log says why, where not.

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
    return Batch(engine, least)


def relative_time(bundle: Bundle, single: Engine, batch: Engine, options: Options) -> float:
    """Time of a run of `batch` by that of as many runs of `single`; measured once a built engine.

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
        together_s = time.perf_counter()
        for _ in range(count):
            single.run(frames[:1])
        shares.append((together_s - started_s) / (time.perf_counter() - together_s))
    return float(np.median(shares))
