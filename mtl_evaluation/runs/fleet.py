# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Many bags at once: a process each on this machine, or a task each on a Ray cluster.

Every bag is the same pure function (`bag_replay.replay_bag`) into a file of its own, so who ran it,
and how many ran beside it, changes nothing: the run is the sum of its files. Whatever happens to
one worker ends one bag. On a cluster the bags, the model and the run's folder must have the same
paths on every machine (shared storage), and this package must be installed there.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from mtl_evaluation import progress
from mtl_evaluation.child_process import die_with_parent
from mtl_evaluation.messages.cdr import BagError
from mtl_evaluation.metrics.metrics import THRESHOLDS
from mtl_evaluation.runs.bag_replay import (
    BagJob,
    Interrupted,
    Notify,
    bag_state,
    check_bag,
    replay_bag,
)
from mtl_evaluation.runs.part import RunError
from mtl_evaluation.runs.recording import RecordingError, Recordings, recorder
from mtl_evaluation.runs.run import part_file
from mtl_perception import process
from mtl_perception.bundle import Bundle, BundleError
from mtl_perception.children import IsolatedSpawn
from mtl_perception.engines import EngineError, Options, open_engine
from mtl_perception.engines.base import cores
from mtl_perception.pipeline import Pipeline

POLL_S = 0.5
NO_RECORDINGS = Recordings()


class FleetError(Exception):
    """Workers that cannot be had: what is missing, next command."""


@dataclass(frozen=True)
class EngineSettings:
    """The model and what runs it.

    threads 0: all cores of this process. build: build the engine where a machine has none.
    """

    model: str
    engine: str = 'auto'
    device: str = 'auto'
    precision: str = 'auto'
    threads: int = 0
    build: bool = False

    def open(self) -> Pipeline:
        """The pipeline at the thresholds that accuracy is measured with."""
        process.tune_allocator()
        bundle = Bundle.open(self.model)
        options = Options(None, self.device, self.precision, threads=self.threads)
        engine = open_engine(bundle, self.engine, options, self.build)
        return Pipeline(bundle, engine, THRESHOLDS)


@dataclass(frozen=True)
class Work:
    """What is done with every bag: by which model, into which run, with which recordings."""

    settings: EngineSettings
    run: Path
    recordings: Recordings = NO_RECORDINGS

    def replay(self, job: BagJob, pipeline: Pipeline, notify: Notify) -> None:
        """Go on with one bag; recordings go into RUN/recordings/<bag>."""
        record = None
        if self.recordings:
            folder = self.run / 'recordings' / part_file(self.run, job.name).stem
            record = recorder(self.recordings, folder, pipeline.tasks)
        replay_bag(job, self.run, pipeline, notify, record)


class Workers(Protocol):
    """Something that replays bags beside each other."""

    def start(self, job: BagJob) -> None:
        """Begin a bag; called while there are fewer than `slots` running."""

    def finished(self, timeout_s: float) -> list[tuple[BagJob, str]]:
        """Bags that ended since the last call, with why if their worker failed, else ''."""

    def stop(self) -> None:
        """Ask all to stop between two frames, and wait for that."""


def replay_fleet(
    jobs: Sequence[BagJob], slots: int, workers: Workers, tick: Callable[[list[BagJob]], None]
) -> dict[str, str]:
    """Replay all bags, at most `slots` at a time; returns the worker failures by bag.

    `tick` is called twice per second with the bags in work; an exception that it raises
    (Interrupted, say) stops the workers and passes through.
    """
    waiting = list(reversed(jobs))
    running: list[BagJob] = []
    failures: dict[str, str] = {}
    try:
        while waiting or running:
            while waiting and len(running) < slots:
                running.append(waiting.pop())
                workers.start(running[-1])
            for job, failure in workers.finished(POLL_S):
                running.remove(job)
                if failure:
                    failures[job.name] = failure
            tick(running)
    except BaseException:
        workers.stop()
        raise
    return failures


def replay_bags(
    jobs: Sequence[BagJob],
    work: Work,
    pipeline: Pipeline,
    workers: Workers | None,
    slots: int,
    stopped: Callable[[], bool],
) -> tuple[dict[str, str], bool]:
    """Replay what is left of the bags, here or by workers, with progress.

    Returns why bags failed that could not say it themselves, and whether `stopped` interrupted it.
    Finished bags are not replayed again, but have to be the same still.
    """
    left = [job for job in jobs if not bag_state(work.run, job.name).complete]
    failures = _replaced([job for job in jobs if job not in left], work.run)
    console = Console(stderr=True)
    with progress.shown('replaying', None, console) as show_bar:
        totals = _Totals(jobs, work.run)

        def show(running: Sequence[BagJob]) -> None:
            done, total = totals.look(running)
            names = running[0].name if len(running) == 1 else f'{len(running) or ""} bags'
            show_bar(done, text=f'replaying {names}', total=total)
            if stopped():
                raise Interrupted

        try:
            if workers is not None:
                return failures | replay_fleet(left, slots, workers, show), False
            for job in left:

                def notify(done: int, total: int, job: BagJob = job) -> None:
                    totals.set(job.name, done, total)
                    show([job])

                try:
                    work.replay(job, pipeline, notify)
                except (RunError, OSError) as error:
                    failures[job.name] = str(error)
            return failures, False
        except Interrupted:
            return failures, True


def _replaced(jobs: Sequence[BagJob], run: Path) -> dict[str, str]:
    """Why what the run has of bags is not of those that lie there now, by bag."""

    def look(job: BagJob) -> str:
        try:
            check_bag(job, run)
        except (BagError, RunError) as error:
            return str(error)
        return ''

    with ThreadPoolExecutor(cores()) as pool:
        found = zip(jobs, pool.map(look, jobs), strict=True)
        return {job.name: failure for job, failure in found if failure}


class LocalWorkers:
    """A process a bag on this machine."""

    def __init__(self, work: Work) -> None:
        """Nothing is started yet."""
        self._work = work
        self._context = IsolatedSpawn()
        self._running: dict[Any, tuple[BagJob, Connection]] = {}

    def start(self, job: BagJob) -> None:
        """Begin a bag in a new process."""
        ours, theirs = self._context.Pipe(duplex=False)
        worker = self._context.Process(
            target=_run_worker,
            name=job.name,
            daemon=True,
            args=(self._work, job, theirs),
        )
        worker.start()
        theirs.close()
        self._running[worker] = job, ours

    def finished(self, timeout_s: float) -> list[tuple[BagJob, str]]:
        """Bags whose process ended."""
        multiprocessing.connection.wait([w.sentinel for w in self._running], timeout_s)
        found = []
        for worker in [worker for worker in self._running if not worker.is_alive()]:
            job, pipe = self._running.pop(worker)
            worker.join()
            found.append((job, _last_words(worker.exitcode, pipe)))
        return found

    def stop(self) -> None:
        """SIGTERM, which the workers heed between two frames."""
        for worker in self._running:
            worker.terminate()
        for worker in self._running:
            worker.join()


class RayWorkers:
    """A task a bag on a Ray cluster; raises FleetError when there is no Ray or no cluster."""

    def __init__(self, work: Work, address: str) -> None:
        """Connect to the cluster at `address` (`auto`, `host:port` or `ray://host:port`)."""
        try:
            import ray
        except ImportError as error:
            raise FleetError(
                f'--ray needs Ray, which is not installed ({error}). Run: pip install ray'
            ) from error
        self._ray = ray
        try:
            ray.init(address=address, log_to_driver=False, ignore_reinit_error=True)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise FleetError(
                f'no Ray cluster at {address}: {error}. Start one with `ray start --head`'
            ) from error
        self.slots = max(1, int(ray.cluster_resources().get('CPU', 1)) // work.settings.threads)
        # A task that is tried again resumes its part of the run.
        remote = ray.remote(num_cpus=work.settings.threads, max_retries=2)
        self._task = remote(_replay_in_worker)
        self._work = work
        self._running: dict[Any, BagJob] = {}

    def start(self, job: BagJob) -> None:
        """Submit a bag."""
        reference = self._task.remote(self._work, job)
        self._running[reference] = job

    def finished(self, timeout_s: float) -> list[tuple[BagJob, str]]:
        """Bags whose task ended."""
        ended, _ = self._ray.wait(
            list(self._running), num_returns=len(self._running), timeout=timeout_s
        )
        found = []
        for reference in ended:
            job = self._running.pop(reference)
            try:
                failure = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                failure = f'its worker failed: {str(error).strip().splitlines()[-1]}'
            found.append((job, failure))
        return found

    def stop(self) -> None:
        """Cancel; what was committed is kept."""
        for reference in self._running:
            self._ray.cancel(reference)
        self._ray.wait(list(self._running), num_returns=len(self._running), timeout=30)


def _replay_in_worker(work: Work, job: BagJob) -> str:
    """Replay one bag with an engine of its own; returns why that failed, or ''."""
    stop = False

    def on_signal(*_: object) -> None:
        nonlocal stop
        stop = True

    def notify(done: int, total: int) -> None:
        if stop:
            raise Interrupted

    if multiprocessing.parent_process() is not None:
        signal.signal(signal.SIGTERM, on_signal)
    try:
        with work.settings.open() as pipeline:
            work.replay(job, pipeline, notify)
    except Interrupted:
        return ''
    except (RunError, EngineError, BundleError, RecordingError, OSError) as error:
        return str(error)
    return ''


def _run_worker(work: Work, job: BagJob, pipe: Connection) -> None:
    """A worker process: Ctrl-C is for its parent, who ends it, and whose end is its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(signal.SIGTERM)
    pipe.send(_replay_in_worker(work, job))
    pipe.close()


def _last_words(code: int | None, pipe: Connection) -> str:
    with pipe:
        try:
            return str(pipe.recv())
        except EOFError:
            if code is not None and code < 0:
                return f'its worker process died of {signal.Signals(-code).name}'
            return f'its worker process ended with code {code}; its own words are above'


class _Totals:
    """Frames done and promised over all bags; bags that were not opened yet are guessed."""

    def __init__(self, jobs: Sequence[BagJob], run: Path) -> None:
        self._run = run
        self._known = {job.name: (0, 0) for job in jobs}
        self._told: set[str] = set()
        self._elsewhere: set[str] = set()
        for job in jobs:
            self._read(job.name)

    def set(self, name: str, done: int, total: int) -> None:
        self._told.add(name)
        self._known[name] = done, total

    def look(self, running: Sequence[BagJob]) -> tuple[int, int | None]:
        for name in self._elsewhere:
            self._read(name)
        self._elsewhere = {job.name for job in running if job.name not in self._told}
        opened = [total for _, total in self._known.values() if total]
        if not opened:
            return 0, None
        guess = round(sum(opened) / len(opened) * len(self._known))
        return sum(done for done, _ in self._known.values()), guess

    def _read(self, name: str) -> None:
        state = bag_state(self._run, name)
        self._known[name] = state.read, state.total
