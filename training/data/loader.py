# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Batches as a pure function of (seed, step): a killed run resumes with exactly the next batch.

A file that cannot be read does not end a run: another draw takes its place, which follows from the
same (seed, draw), and is counted. When more than BROKEN_SHARE of the draws had to be replaced the
data set is at fault, and the run ends with the list.
"""

from __future__ import annotations

import logging
import shutil
import signal
import sys
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from mtl_perception.children import IsolatedSpawn
from training import tasks as kinds
from training.data.layout import Layout
from training.data.mosaic import SCALE, draw_tiles, join
from training.data.sample import Batch, DatasetError, Sample, collate
from training.data.sampling import repeat_factors
from training.data.transforms import AugmentConfig, View, finish, outdoors
from training.data.weather import LOOK_TASKS
from training.tasks.targets import Counting

log = logging.getLogger(__name__)

SHARED_MEMORY = Path('/dev/shm')
BROKEN_SHARE = 0.01
"""Share of draws that may be replaced because a file is broken."""
BROKEN_FREE = 20
"""Broken draws that a run may meet whatever their share: it is not known yet."""
PREFETCH = 6
"""Batches that a worker has ready ahead of the training step."""
ATTEMPTS = 8
"""Draws in the place of one before it is given up."""


class Draws(Dataset[Sample]):
    """Draw number -> augmented sample; source, image and augmentation follow from (seed, draw)."""

    def __init__(
        self, layouts: Sequence[Layout], config: AugmentConfig, seed: int,
        tasks: Collection[str] | None = None,
        stages: Sequence[tuple[int, AugmentConfig]] = (),
    ) -> None:  # fmt: skip
        """Sources are drawn by their configured weights, images of a source by their repeat factor.

        tasks: labels of other tasks are not read, but for the attributes that say which looks an
        image has already; by default all are. stages: (draw at which it ends, augmentation) in
        order; `config` from the last end on.
        """
        self.layouts = layouts
        self.config = config
        self.stages = stages
        self.seed = seed
        self.tasks = tasks
        weights = np.array([layout.config.weight for layout in layouts], np.float64)
        self.shares = weights / weights.sum()
        self.cumulative = [_cumulative(layout) for layout in layouts]

    def __getitem__(self, draw: int) -> Sample:
        """The sample of one draw; raises DatasetError when it and its replacements are broken."""
        config = next((augment for end, augment in self.stages if draw < end), self.config)
        broken: list[str] = []
        while len(broken) < ATTEMPTS:
            # Trailing zeros do not change a seed: this is default_rng([seed, draw]) at first.
            rng = np.random.default_rng([self.seed, draw, len(broken)])
            try:
                return replace(self._draw(rng, config), broken=tuple(broken))
            except DatasetError as error:
                broken.append(str(error))
        raise DatasetError(f'draw {draw} and {ATTEMPTS - 1} in its place are broken: {broken}')

    def _draw(self, rng: np.random.Generator, config: AugmentConfig) -> Sample:
        if config.mosaic and rng.random() < config.mosaic:
            tiles = draw_tiles(config.height, config.width, rng)
            parts = [
                self._part(rng, config, (tile.height, tile.width), rng.uniform(*SCALE))
                for tile in tiles
            ]
            return finish(join(parts, tiles), config, rng)
        return finish(self._part(rng, config, (config.height, config.width)), config, rng)

    def _part(
        self, rng: np.random.Generator, config: AugmentConfig, crop: tuple[int, int],
        factor: float = 1.0,
    ) -> Sample:  # fmt: skip
        """An image of any source as a crop of (height, width)."""
        source = rng.choice(len(self.layouts), p=self.shares)
        layout, cumulative = self.layouts[source], self.cumulative[source]
        if cumulative is None:
            index = int(rng.integers(len(layout)))
        else:
            index = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side='right'))
        view = View.draw(layout.size(index), config, rng, crop, factor)
        wanted = None if self.tasks is None else LOOK_TASKS.union(self.tasks)
        return outdoors(view, layout.load(index, view.scale, wanted), config, rng)


def _cumulative(layout: Layout) -> NDArray[np.float64] | None:
    """Cumulative repeat factors of the images; None where all are alike."""
    if not layout.config.repeat_threshold:
        return None
    config = layout.config
    return np.cumsum(repeat_factors(layout, config.repeat_threshold, config.repeat_tasks))


class StepSampler(Sampler[list[int]]):
    """Draw numbers of the batches from one step to another; every rank takes its part."""

    def __init__(
        self, first_step: int, last_step: int, batch_size: int, rank: int = 0, world: int = 1
    ) -> None:
        """batch_size counts images over all ranks; steps are [first_step, last_step)."""
        self.steps = range(first_step, last_step)
        self.batch_size = batch_size
        self.rank, self.world = rank, world

    def __iter__(self) -> Iterator[list[int]]:
        """One list of draws a step."""
        for step in self.steps:
            begin = step * self.batch_size
            yield list(range(begin + self.rank, begin + self.batch_size, self.world))

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.steps)


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes that are started here leave Ctrl-C to this one, which then ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals cannot be set here, nor do they come here
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _begin_worker(worker: int) -> None:
    """One thread for OpenCV, and no traceback where the training ends before its workers."""
    cv2.setNumThreads(1)
    sys.excepthook = _end_quietly  # multiprocessing's own threads report through it


def _end_quietly(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


class Batches:
    """Batches in step order; broken draws are counted and, when too many, end the run."""

    def __init__(self, loader: DataLoader[Any], batch_size: int) -> None:
        """batch_size: draws in one of this loader's batches."""
        self.loader = loader
        self.batch_size = batch_size

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        """Raises DatasetError when more than BROKEN_SHARE of the draws had to be replaced."""
        drawn, broken = 0, 0
        named: set[str] = set()
        with _deaf_to_interrupts():
            loaded = iter(self.loader)
        for batch in loaded:
            drawn += self.batch_size
            broken += len(batch.broken)
            for message in {*batch.broken} - named:
                named.add(message)
                log.warning('left out, another draw takes its place: %s', message)
            if broken > max(BROKEN_FREE, BROKEN_SHARE * drawn):
                raise DatasetError(
                    f'{broken} of {drawn} draws were broken, more than {BROKEN_SHARE:.0%}: '
                    f'{sorted(named)[:5]}; run python -m training.data.check'
                )
            yield batch


def batches_ahead(workers: int, batch_bytes: int, free_bytes: int) -> int:
    """Batches that each worker may have ready: PREFETCH, or fewer where shared memory is small.

    Batches reach the training process through /dev/shm, of which Docker gives 64 MB. Raises
    DatasetError when not even one batch per worker fits, and one more that is in use.
    """
    ahead = min(PREFETCH, (free_bytes // batch_bytes - 1) // workers)
    if ahead < 1:
        raise DatasetError(
            f'{SHARED_MEMORY}: {workers} workers with a batch of {batch_bytes / 1e6:.0f} MB each '
            f'need {(workers + 1) * batch_bytes / 1e6:.0f} MB, found {free_bytes / 1e6:.0f} MB '
            f'free; start the container with --shm-size=2g, or set workers=0'
        )
    return ahead


def train_loader(
    draws: Draws, sampler: StepSampler, tasks: Sequence[str], workers: int,
    counting: Mapping[str, Counting] | None = None, pin: bool = False,
) -> Batches:  # fmt: skip
    """Batches in step order; `workers` processes decode and augment.

    counting: as of `collate`. pin: in page-locked memory, from which a GPU copies while it works.
    """
    images = sampler.batch_size // sampler.world
    ahead = PREFETCH
    if workers and SHARED_MEMORY.is_dir():
        known = draws.layouts[0].config.known
        labels = sum(kinds.of(known[t]).label_bytes for t in tasks if t in known)
        pixels = images * draws.config.height * draws.config.width
        free = shutil.disk_usage(SHARED_MEMORY).free
        ahead = batches_ahead(workers, pixels * (3 + labels), free)
    loader: DataLoader[Any] = DataLoader(
        draws,
        batch_sampler=sampler,
        num_workers=workers,
        # A forked worker inherits locks that other threads hold, and may wait for ever.
        multiprocessing_context=IsolatedSpawn() if workers else None,
        collate_fn=partial(collate, tasks=list(tasks), counting=counting),
        pin_memory=pin,
        worker_init_fn=_begin_worker,
        persistent_workers=False,
        prefetch_factor=ahead if workers else None,
    )
    return Batches(loader, images)
