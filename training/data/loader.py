"""Batches as a pure function of (seed, step): a killed run resumes with exactly the next batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import cv2
import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler

from training.data.bdd100k import Bdd100kLayout
from training.data.sample import Batch, Sample, collate
from training.data.transforms import AugmentConfig, augment


class Draws(Dataset[Sample]):
    """Draw number -> augmented sample; source, image and augmentation follow from (seed, draw)."""

    def __init__(self, layouts: Sequence[Bdd100kLayout], config: AugmentConfig, seed: int) -> None:
        """Sources are drawn by their configured weights, images uniformly within a source."""
        self.layouts = layouts
        self.config = config
        self.seed = seed
        weights = np.array([layout.config.weight for layout in layouts], np.float64)
        self.shares = weights / weights.sum()

    def __getitem__(self, draw: int) -> Sample:
        """The sample of one draw."""
        rng = np.random.default_rng([self.seed, draw])
        layout = self.layouts[rng.choice(len(self.layouts), p=self.shares)]
        return augment(layout.load(int(rng.integers(len(layout)))), self.config, rng)


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


def _one_thread(worker: int) -> None:
    cv2.setNumThreads(1)


def train_loader(
    draws: Draws, sampler: StepSampler, tasks: Sequence[str], workers: int
) -> DataLoader[Batch]:
    """Batches in step order; `workers` processes decode and augment."""
    return DataLoader(
        draws,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=partial(collate, tasks=list(tasks)),
        worker_init_fn=_one_thread,
        persistent_workers=False,
        prefetch_factor=6 if workers else None,
    )
