# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Features of a frozen trunk, kept on disk: a head trains on them without running the trunk.

A cache holds the first draws of the ordinary training stream (`training.data.loader.Draws`, whose
images, views and looks follow from seed and draw number): of each the feature levels that the head
reads, in half precision, and its target. Its folder is named by a hash of everything they depend
on. A cache that was interrupted is gone on with; more draws are added to those there are.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import torch
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from training.config import ConfigError
from training.data.loader import Draws, StepSampler, train_loader
from training.networks.base import MultiTaskNetwork
from training.step import BatchTargets
from training.tasks import Features, Head
from training.tasks.targets import BoxTarget, Targets

log = logging.getLogger(__name__)

BUILD_BATCH = 8
"""Images a forward pass while a cache is built."""
T = TypeVar('T')

Levels = tuple[tuple[str, int], ...]
"""Which features: ('trunk' or 'neck', index from stride 4 on)."""


class Watched(Sequence[T]):
    """A sequence that remembers which of its items were asked for."""

    def __init__(self, items: Sequence[T]) -> None:
        """Nothing is asked for yet."""
        self.items = items
        self.read: set[int] = set()

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        """An item or a slice of them."""
        indices = range(len(self.items))[index]
        self.read.update([indices] if isinstance(indices, int) else indices)
        return self.items[index]

    def __len__(self) -> int:
        """Number of items."""
        return len(self.items)


def levels_read(head: Head, features: Features) -> Levels:
    """The levels that a head reads in training; `features` are those of any image."""
    trunk, neck = Watched(features.trunk), Watched(features.neck)
    with torch.no_grad():
        deepcopy(head).train()(Features(trunk, neck))
    return tuple(
        (name, index)
        for name, watched in (('trunk', trunk), ('neck', neck))
        for index in sorted(watched.read)
    )


@dataclass(frozen=True)
class FeatureCache:
    """A folder of features: file `00000012.safetensors` holds draw 12."""

    folder: Path
    levels: Levels

    def draws(self) -> list[int]:
        """Numbers of the draws that are there."""
        return sorted(int(path.stem) for path in self.folder.glob('*.safetensors'))

    def load(self, draw: int) -> tuple[list[Tensor], Any]:
        """Levels float16 [C, H, W] in the order of `levels`, and the target."""
        tensors = load_file(self._file(draw))
        return [tensors[f'{name}.{index}'] for name, index in self.levels], _target(tensors)

    def save(self, draw: int, levels: Sequence[Tensor], target: Any) -> None:
        """Write a draw, whole or not at all."""
        tensors = {
            f'{name}.{index}': level.half().cpu().contiguous()
            for (name, index), level in zip(self.levels, levels, strict=True)
        }
        fresh = self._file(draw).with_suffix('.new')
        save_file(tensors | _tensors(target), fresh)
        fresh.rename(self._file(draw))

    def _file(self, draw: int) -> Path:
        return self.folder / f'{draw:08d}.safetensors'


def open_cache(root: Path, identity: Mapping[str, Any], levels: Levels) -> FeatureCache:
    """The cache below `root` of everything that the features depend on, perhaps empty yet."""
    text = json.dumps({**identity, 'levels': levels}, sort_keys=True, indent=1)
    folder = root / hashlib.sha256(text.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'identity.json').write_text(text, 'utf-8')
    os.utime(folder)
    return FeatureCache(folder, levels)


def make_room(cache: FeatureCache, count: int, bytes_a_draw: int, limit_bytes: int) -> int:
    """How many of `count` draws, in batches, fit into the limit, which other caches share.

    The caches that were used longest ago go first. Raises ConfigError when not one batch fits.
    """
    fitting = min(count, limit_bytes // bytes_a_draw)
    if fitting < BUILD_BATCH:
        raise ConfigError(
            f'features take {bytes_a_draw / 1e6:.1f} MB an image and {limit_bytes / 1e9:g} GB are '
            f'allowed: room for {fitting} images; raise --cache-gb or make the crop smaller'
        )
    others = [path for path in cache.folder.parent.iterdir() if path != cache.folder]
    others.sort(key=lambda path: path.stat().st_mtime)
    taken = {path: sum(file.stat().st_size for file in path.iterdir()) for path in others}
    while taken and sum(taken.values()) + fitting * bytes_a_draw > limit_bytes:
        oldest = next(iter(taken))
        log.warning('removing the feature cache %s: the limit is reached', oldest)
        shutil.rmtree(oldest)
        del taken[oldest]
    return fitting // BUILD_BATCH * BUILD_BATCH


@torch.no_grad()
def fill(
    cache: FeatureCache,
    network: MultiTaskNetwork,
    draws: Draws,
    task: str,
    count: int,
    workers: int,
) -> None:
    """Add what is missing of `count` draws, in batches; draws without a label are left out.

    The network is in eval mode; it runs in single precision where it lies.
    """
    device = next(network.parameters()).device
    there = cache.draws()
    # The last batch that is there may be cut off: it is made again.
    first, last = (there[-1] // BUILD_BATCH if there else 0), count // BUILD_BATCH
    if first >= last:
        return
    loader = train_loader(draws, StepSampler(first, last, BUILD_BATCH), [task], workers)
    shown = track(loader, description=f'features for {task}', total=last - first)
    for step, batch in enumerate(shown, first):
        features = network.features(batch.image.to(device))
        assert isinstance(features, Features)  # add_task refuses other sharing than hard
        for row, target in enumerate(batch.targets[task]):
            if target is not None:
                cache.save(step * BUILD_BATCH + row, level_rows(features, cache, row), target)


def level_rows(features: Features, cache: FeatureCache, row: int) -> list[Tensor]:
    """The cached levels of one image of a batch."""
    return [getattr(features, name)[index][row] for name, index in cache.levels]


class CachedDraws(Dataset[tuple[list[Tensor], Any]]):
    """Position in the cache -> (levels, target)."""

    def __init__(self, cache: FeatureCache, draws: Sequence[int]) -> None:
        """draws: which of the cache."""
        self.cache = cache
        self.draws = draws

    def __getitem__(self, position: int) -> tuple[list[Tensor], Any]:
        """Levels and target of one draw."""
        return self.cache.load(self.draws[position])


class EpochSampler(Sampler[list[int]]):
    """Positions of the batches of some steps: a new order every epoch, a function of the step."""

    def __init__(self, count: int, batch_size: int, first_step: int, last_step: int, seed: int):
        """count: positions there are; steps are [first_step, last_step)."""
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.steps = range(first_step, last_step)

    def __iter__(self) -> Iterator[list[int]]:
        """One list of positions per step; a batch may lie across two epochs."""
        epoch, order = -1, np.zeros(0, np.int64)
        for step in self.steps:
            batch = []
            for place in range(step * self.batch_size, (step + 1) * self.batch_size):
                if place // self.count != epoch:
                    epoch = place // self.count
                    order = np.random.default_rng([self.seed, epoch]).permutation(self.count)
                batch.append(int(order[place % self.count]))
            yield batch

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.steps)


def cached_batches(
    cache: FeatureCache, draws: Sequence[int], sampler: EpochSampler, workers: int
) -> DataLoader[Any]:
    """Batches of (levels float16 [B, C, H, W], targets) in step order."""
    return DataLoader(
        CachedDraws(cache, draws),
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=_collate,
        prefetch_factor=4 if workers else None,
    )


class FeatureLosses(nn.Module):
    """One head's summed loss from cached features: what `TaskLosses` is from images."""

    def __init__(self, network: MultiTaskNetwork, task: str, levels: Levels) -> None:
        """Hold the network, of which only the head of `task` runs."""
        super().__init__()
        self.network = network
        self.task = task
        self.levels = levels

    def forward(self, levels: Sequence[Tensor], targets: BatchTargets) -> dict[str, Tensor]:
        """levels: as `levels` says, [B, C, H, W]; every image is labelled."""
        maps: dict[str, list[Any]] = {'trunk': [None] * 4, 'neck': [None] * 4}
        for (name, index), level in zip(self.levels, levels, strict=True):
            maps[name][index] = level.float()
        head = self.network.head(self.task)
        outputs = head(Features(maps['trunk'], maps['neck']))
        return {self.task: head.loss(outputs, targets[self.task])}


def _collate(rows: Sequence[tuple[list[Tensor], Any]]) -> tuple[list[Tensor], Targets]:
    levels = [torch.stack(level) for level in zip(*(levels for levels, _ in rows), strict=True)]
    return levels, Targets.pack([target for _, target in rows])


def _tensors(target: Any) -> dict[str, Tensor]:
    """A target as tensors: a mask or vector, a class id, or boxes."""
    if isinstance(target, BoxTarget):
        named = target._asdict().items()
        return {f'target.{k}': torch.as_tensor(v) for k, v in named if v is not None}
    return {'target': torch.as_tensor(target)}


def _target(tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `_tensors`."""
    if 'target' not in tensors:
        known: dict[str, Any] = {
            k.removeprefix('target.'): v for k, v in tensors.items() if k.startswith('target.')
        }
        return BoxTarget(**known | {'complete': bool(known['complete'])})
    target = tensors['target']
    return target if target.ndim else int(target)
