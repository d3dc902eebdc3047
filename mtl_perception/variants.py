"""Engines by the heads that somebody listens to: the others are not computed.

The full engine stays open, so that a frame never waits: when what is wanted has been the same for a
while, an engine for just that is opened in the background and takes over between two frames; as
soon as more is wanted the full one goes on. One such subset is kept.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from mtl_perception.decode import Thresholds
from mtl_perception.engines import Options
from mtl_perception.pipeline import Pipeline

log = logging.getLogger(__name__)

SETTLED_S = 2.0
"""How long the same tasks must be wanted before an engine is opened for them."""
CLOSE_S = 5.0
"""How long `close` waits for an engine that is being opened."""

OpenSubset = Callable[[Sequence[str]], Pipeline]


def opener(full: Pipeline, device: str, build: bool, cameras: int = 1) -> OpenSubset:
    """Opens what `full` is, for some outputs only; with `build`, builds what the cache lacks."""

    def open_subset(outputs: Sequence[str]) -> Pipeline:
        options = Options(tuple(outputs), device, full.info.precision)
        return Pipeline.of(full.bundle, full.info.name, options, build, full.thresholds, cameras)

    return open_subset


@dataclass(frozen=True)
class _Subset:
    tasks: frozenset[str]
    pipeline: Pipeline


class Variants:
    """The pipelines of one model. `want` and `close` are the node's, `pipeline` is the worker's."""

    def __init__(
        self,
        full: Pipeline,
        open_subset: OpenSubset,
        settled_s: float = SETTLED_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start with the full pipeline, which is closed with this object."""
        self.full = full
        self._open_subset = open_subset
        self._settled_s = settled_s
        self._clock = clock
        self._all = frozenset(task.name for task in full.tasks)
        self._wanted = self._all
        self._since_s = clock()
        self._refused: set[frozenset[str]] = set()
        self._opening: threading.Thread | None = None
        self._lock = threading.Lock()
        self._subset: _Subset | None = None
        self._retired: list[Pipeline] = []
        self._closed = False

    @property
    def thresholds(self) -> Thresholds:
        """Thresholds of every variant; assigned ones count from the next frame on."""
        return self.full.thresholds

    @thresholds.setter
    def thresholds(self, thresholds: Thresholds) -> None:
        with self._lock:
            self.full.thresholds = thresholds
            if self._subset is not None:
                self._subset.pipeline.thresholds = thresholds

    @property
    def subset(self) -> frozenset[str]:
        """Tasks of the engine that is open beside the full one; empty when there is none."""
        subset = self._subset
        return subset.tasks if subset is not None else frozenset()

    @property
    def is_opening(self) -> bool:
        """Whether an engine is being opened at the moment."""
        return self._opening is not None and self._opening.is_alive()

    def want(self, tasks: Collection[str] | None) -> None:
        """Say, now and then, which tasks are wanted (None: all, empty: nobody listens)."""
        wanted = self._all if tasks is None else frozenset(tasks)
        now_s = self._clock()
        if wanted != self._wanted:
            self._wanted, self._since_s = wanted, now_s
        if (
            now_s - self._since_s < self._settled_s
            or wanted in (self._all, frozenset(), self.subset)
            or wanted in self._refused
            or self.is_opening
        ):
            return
        self._opening = threading.Thread(
            target=self._open, args=(wanted,), name='engine variant', daemon=True
        )
        self._opening.start()

    def pipeline(self, tasks: Collection[str] | None) -> Pipeline:
        """The pipeline for a frame of which these tasks are wanted; never waits for an engine."""
        with self._lock:
            retired, self._retired = self._retired, []
            subset = self._subset
        for old in retired:  # here, where no frame is in work
            old.close()
        if subset is not None and tasks is not None and subset.tasks.issuperset(tasks):
            return subset.pipeline
        return self.full

    def close(self) -> None:
        """Free every engine; to be called when no frame is in work."""
        with self._lock:
            self._closed = True
            pipelines = [*self._retired, self.full]
            if self._subset is not None:
                pipelines.append(self._subset.pipeline)
            self._retired, self._subset = [], None
        if self._opening is not None:
            self._opening.join(CLOSE_S)
        for pipeline in pipelines:
            pipeline.close()

    def _open(self, tasks: frozenset[str]) -> None:
        """Open an engine for `tasks`, run it once, and put it in place of the present subset."""
        manifest = self.full.bundle.manifest
        outputs = [spec.name for spec in manifest.outputs if spec.task in tasks]
        names = ', '.join(sorted(tasks))
        pipeline = None
        try:
            pipeline = self._open_subset(outputs)
            pipeline.run_empty()
        except Exception as error:  # whatever a runtime throws: the full engine is still there
            self._refused.add(tasks)
            if pipeline is not None:
                pipeline.close()
            log.info('wanted: %s; all heads are computed, since: %s', names, error)
            return
        with self._lock:
            closed = self._closed
            if not closed:
                if self._subset is not None:
                    self._retired.append(self._subset.pipeline)
                pipeline.thresholds = self.full.thresholds
                self._subset = _Subset(tasks, pipeline)
        if closed:
            pipeline.close()
        else:
            log.info('only these heads are computed from now on: %s', names)
