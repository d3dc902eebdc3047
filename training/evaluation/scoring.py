# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Labelled images -> frame records: each answered through the deployed path and scored by itself.

A mask is scored by class where the data set tells all classes apart, and always at the coarse
classes that a rougher data set still tells apart, as a task of its own: so every piece of one task
means the same, whatever data set it comes from.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_evaluation import kinds
from mtl_evaluation.metrics.metrics import Metric
from mtl_evaluation.runs.bag_replay import answers_digest
from mtl_evaluation.runs.run import FrameRecord, frame_key
from mtl_perception.frame import Detections, Frame, Result
from mtl_perception.pipeline import Pipeline
from mtl_perception.tasks import ALL_TASKS, DRIVABLE, SEMANTIC, UNLABELLED, Task
from training import tasks as trained
from training.data.box_classes import scored
from training.data.index import UNKNOWN
from training.data.layout import ATTRIBUTES, Layout
from training.data.sample import Boxes, Sample
from training.tasks.segmentation import COARSE7, GROUPS

AHEAD = 4
"""Images that are decoded while the network answers an earlier one."""

STEP_NS = 2_000_000_000
"""Images of a data set have no time: their stamps are so far apart that none are neighbours."""


@dataclass(frozen=True)
class Coarse:
    """A task over sets of another task's classes; table: uint8 [256], its ids -> these."""

    task: Task
    table: NDArray[np.uint8]


def _coarse(
    fine: Task, groups: tuple[tuple[int, ...], ...], name: str, classes: tuple[str, ...]
) -> Coarse:
    """The first class sets of `GROUPS`, then each class that is in none of them."""
    grouped = {member for group in groups for member in group}
    alone = [(i,) for i in range(len(fine.classes)) if i not in grouped]
    table = np.full(256, UNLABELLED, np.uint8)
    for index, members in enumerate([*groups, *alone]):
        table[list(members)] = index
    for index in range(len(groups)):
        table[len(fine.classes) + index] = index
    colours = tuple(fine.colours[members[0]] for members in [*groups, *alone])
    return Coarse(Task(name, 'segmentation', classes, colours), table)


COARSE = {
    DRIVABLE.name: _coarse(
        DRIVABLE, GROUPS[DRIVABLE.name], 'two_class_drivable', ('drivable', 'other')
    ),
    SEMANTIC.name: _coarse(
        SEMANTIC,
        COARSE7,
        'coarse7',
        (
            'drivable', 'non-drivable ground', 'living', 'vehicles', 'roadside objects',
            'far objects', 'sky',
        ),
    ),
}  # fmt: skip
"""By fine task: what a data set without its classes is scored at."""


def scored_tasks(tasks: Iterable[Task]) -> tuple[Task, ...]:
    """The tasks that records of a model with these tasks hold pieces of."""
    fine = tuple(tasks)
    return (*fine, *(COARSE[task.name].task for task in fine if task.name in COARSE))


def told_apart(layout: Layout, task: str) -> bool:
    """Whether the masks of a data set tell all classes of a segmentation task apart."""
    table = layout.masks[task].table
    return not ((table >= len(layout.config.known[task].classes)) & (table < UNKNOWN)).any()


def told_coarsely(layout: Layout, task: str) -> bool:
    """Whether every label of its masks is in one of the coarse classes, as comma10k's are not."""
    table = layout.masks[task].table
    labels = table[(table != UNKNOWN) & (table != UNLABELLED)]
    return task in COARSE and bool((COARSE[task].table[labels] != UNLABELLED).all())


def chosen(layout: Layout, limit: int | None) -> list[int]:
    """Indices of all images, or of `limit` ones spread evenly."""
    count = len(layout) if limit is None else min(limit, len(layout))
    return [int(index) for index in np.linspace(0, len(layout) - 1, count).round()]


def fingerprint(layout: Layout, indices: Iterable[int]) -> str:
    """Sha256 over names and labels of some images; of mask and map files the sizes and times."""
    digest = hashlib.sha256()
    for index in indices:
        name, boxes = layout.names[index], layout.boxes(index)
        digest.update(f'{name} {sorted(layout.tasks(index))}'.encode())
        for array in (boxes.xyxy, boxes.labels, boxes.ignored):
            digest.update(np.ascontiguousarray(array).data)
        for task in ATTRIBUTES:
            digest.update(layout.classes(index, task.name).data)
        for task_name in sorted(layout.tasks(index) & layout.labels.keys()):
            label = layout.labels[task_name][name]
            digest.update(np.int64(label).data if isinstance(label, int) else repr(label).encode())
        for paths in [files.paths for files in layout.masks.values()] + [
            files.paths for files in layout.maps.values()
        ]:
            if name in paths:
                status = paths[name].stat()
                digest.update(f'{status.st_size} {status.st_mtime_ns}'.encode())
    return digest.hexdigest()


Answered = Callable[[Sample, Result], None]


def score_layout(
    layout: Layout,
    pipeline: Pipeline,
    indices: Iterable[int],
    answered: Answered | None = None,
) -> Iterator[FrameRecord]:
    """One record per image, answered for the tasks that it is labelled for, else for all.

    The pipeline takes as many images at a time as its engine does. `answered` sees each sample with
    what was answered about it.
    """
    known = layout.config.known
    tasks = {
        task.name: task
        for task in pipeline.tasks
        if task == known.get(task.name)  # else its classes are no labels of these
    }
    fine = {name for name in layout.masks if name in COARSE and told_apart(layout, name)}
    coarse = {name for name in layout.masks if told_coarsely(layout, name)}
    loaded = _loaded(layout, indices)
    while group := list(islice(loaded, pipeline.info.batch)):
        outcomes = pipeline.infer_batch([Frame(sample.image, 'rgb') for _, sample in group])
        for (index, sample), outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, Exception):
                raise outcome
            result = outcome.decode(sorted(tasks.keys() & layout.tasks(index) or tasks))
            if answered is not None:
                answered(sample, result)
            height, width = sample.image.shape[:2]
            yield FrameRecord(
                layout.config.name, '', index, index * STEP_NS, sample.name, (width, height),
                answers_digest(index * STEP_NS, result),
                {name: known[name].classes[label] for name, label in sample.classes.items()},
                result.timings_ms,
                pieces(
                    frame_key(layout.config.name, '', index), sample, result, fine, coarse, tasks
                ),
            )  # fmt: skip


def pieces(
    key: str, sample: Sample, result: Result, fine: Iterable[str],
    coarse: Iterable[str] = tuple(COARSE), tasks: Mapping[str, Task] = ALL_TASKS,
) -> dict[str, Metric]:  # fmt: skip
    """Metrics of one frame; `fine` and `coarse`: which segmentation tasks are scored how.

    tasks: by name, those of the result.
    """
    found: dict[str, Metric] = {}
    size = (sample.image.shape[1], sample.image.shape[0])
    for name, task in tasks.items():
        answer, label = result.answers.get(name), trained.of(task).label(sample, task)
        if answer is None or label is None:
            continue
        if isinstance(label, Boxes):
            label = scored(label, task)
            answer = _of_covered(answer, label)
        if name in COARSE and name in coarse:
            rough = COARSE[name]
            found[rough.task.name] = _measured(
                key, rough.task, rough.table[answer], rough.table[label], size
            )
        if name not in COARSE or name in fine:
            truth = trained.of(task).truth(label, task)
            found[name] = _measured(key, task, answer, truth, size)
    return found


def _measured(key: str, task: Task, answer: Any, truth: Any, size: tuple[int, int]) -> Metric:
    """A metric with one frame in it."""
    kind = kinds.of(task)
    metric: Metric = kind.metric(task)
    kind.measure(metric, key, answer, truth, size)
    return metric


def _of_covered(found: Detections, truth: Boxes) -> Detections:
    """Without boxes of the classes that nobody labelled in this image."""
    if truth.covered is None or truth.covered.all():
        return found
    kept = truth.covered[found.labels]
    return Detections(found.boxes[kept], found.scores[kept], found.labels[kept])


def _loaded(layout: Layout, indices: Iterable[int]) -> Iterator[tuple[int, Sample]]:
    """Samples in order, decoded ahead in a thread while the caller works."""
    with ThreadPoolExecutor(1) as pool:
        waiting: deque[tuple[int, Future[Sample]]] = deque()
        for index in indices:
            waiting.append((index, pool.submit(layout.load, index)))
            if len(waiting) > AHEAD:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()
