# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What can be known before the first step is checked before it: labels, validation, sizes.

Each check raises ConfigError (or DatasetError for a broken file) with what is missing, where it was
looked for and what to do; `python -m training.data.check --config` runs those of the data too.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatch

import torch

from mtl_perception.tasks import UNLABELLED
from training.config import ConfigError, RunConfig
from training.data.layout import Layout, open_layouts
from training.data.sample import Sample
from training.evaluation.results import BY_KIND, ERRORS, HEADLINES
from training.evaluation.scoring import COARSE, chosen, scored_tasks, told_apart
from training.networks.base import DeployedNetwork
from training.networks.build import build_network

log = logging.getLogger(__name__)


def check_labels(config: RunConfig, layouts: Sequence[Layout]) -> None:
    """Every task of the run has a label in some training image; raises ConfigError."""
    missing = set(config.tasks).difference(*(layout.labelled() for layout in layouts))
    if not missing:
        for task in {layout.detection.name for layout in layouts} & set(config.tasks):
            of_task = [layout for layout in layouts if layout.detection.name == task]
            if not any(layout.has_objects() for layout in of_task):
                raise ConfigError(
                    f'tasks: no training image has a box of a class of {task}, in '
                    f'{[layout.config.name for layout in of_task]}. Class names of your own are '
                    f'told by `kind: coco`, coco.categories (docs/data.md)'
                )
        return
    task = next(task for task in config.tasks if task in missing)
    raise ConfigError(
        f'tasks: no training image is labelled for {sorted(missing)}, so nothing would be learnt. '
        f'{_why(task, layouts)}. Leave them out of `tasks`, or add labels '
        f'(`python -m training.data.check --config` lists those there are, docs/data.md where they '
        f'are looked for)'
    )


def check_validation(config: RunConfig) -> None:
    """Raise what would end the training at its first validation, or leave it without figures.

    Reads the images that are validated, with their labels. DatasetError for a split that is not
    there and for a broken file, ConfigError where no task of the run has anything to be measured
    by, and for a pattern of `best_by` that cannot match.
    """
    if config.validate_every > config.optimizer.steps:
        return
    layouts = open_layouts(config.data, config.validate_split)
    seen = {layout.config.name: _seen(layout, config) for layout in layouts}
    images = sum(len(chosen(layout, config.validate_images)) for layout in layouts)
    where = f'the {images} images of {config.validate_split!r} that are validated'
    hopeless = [task for task in config.tasks if not any(task in found for found in seen.values())]
    if len(hopeless) == len(config.tasks):
        raise ConfigError(
            f'validation could measure nothing: in {where} no task of {config.tasks} has a label '
            f'with an object or class in it. {_why(hopeless[0], layouts)}. Raise validate_images, '
            f'name another validate_split, or train without validation: validate_every above '
            f'optimizer.steps'
        )
    if hopeless:
        log.warning('not validated, for want of labels in %s: %s', where, ', '.join(hopeless))
    possible = [
        name for layout in layouts for name in _figures(layout, seen[layout.config.name], config)
    ]
    for pattern in config.best_by:
        if not any(fnmatch(name, pattern) for name in possible):
            raise ConfigError(
                f'best_by: {pattern!r} matches no figure; there can be {possible} in {where}'
            )


def check_sizes(config: RunConfig) -> None:
    """The network takes the sizes it is trained and deployed at; raises ConfigError.

    It is run on the meta device, where nothing is allocated or computed.
    """
    stages = config.augment_stages()
    crops = {(augment.height, augment.width) for _, augment in stages}
    deployed = {(augment.input_height, augment.input_width) for _, augment in stages}
    with torch.device('meta'), torch.no_grad():
        unfrozen = replace(config.network, frozen_stages=0)  # freezing needs gradients
        network = build_network(unfrozen, config.task_table(), initialise=False).eval()
        for sizes, keys in (
            (crops, 'augment.height and width'), (deployed, 'augment.input_height and input_width'),
        ):  # fmt: skip
            for height, width in sorted(sizes):
                try:
                    DeployedNetwork(network)(torch.zeros(1, height, width, 3, dtype=torch.uint8))
                except NotImplementedError:
                    return  # an operation without shapes alone: only a real step can tell
                except (RuntimeError, ValueError, IndexError, AssertionError) as error:
                    raise ConfigError(
                        f'{keys}: this network cannot take {height}x{width} '
                        f'({str(error).splitlines()[0]}); take multiples of 32, or of 64'
                    ) from error


def _why(task: str, layouts: Sequence[Layout]) -> str:
    """What each source has of a task that none labels, as one sentence."""
    reasons = []
    for layout in layouts:
        hint = layout.hints.get(task)
        if hint is None and task in layout.labelled():
            hint = 'labelled, but with nothing in it'
        reasons.append(f'{layout.config.name} ({layout.split}): {hint or "no such labels"}')
    return '; '.join(reasons)


def _seen(layout: Layout, config: RunConfig) -> Counter[str]:
    """Task -> validated images that something can be measured by; raises DatasetError."""
    found: Counter[str] = Counter()
    for index in chosen(layout, config.validate_images):
        found.update(_measurable(layout.load(index, tasks=config.tasks)))
    return found


def _measurable(sample: Sample) -> Iterator[str]:
    """Tasks of an image whose labels hold an object, class or value."""
    yield from (task for task, boxes in sample.boxes.items() if not boxes.ignored.all())
    yield from (task for task, mask in sample.masks.items() if (mask != UNLABELLED).any())
    yield from (task for task, values in sample.maps.items() if values.any())
    yield from sample.classes
    yield from (task for by_task in sample.others.values() for task in by_task)


def _figures(layout: Layout, seen: Counter[str], config: RunConfig) -> Iterator[str]:
    """Names of the figures that the validation of a source can have."""
    fine_of = {coarse.task.name: fine for fine, coarse in COARSE.items()}
    for task in scored_tasks(config.task_table()):
        fine = fine_of.get(task.name, task.name)
        if fine not in seen:
            continue
        sets_only = task.name == fine and fine in COARSE and not told_apart(layout, fine)
        for figure in HEADLINES.get(task.name, BY_KIND[task.kind]):
            if figure not in ERRORS and not (figure == 'miou' and sets_only):
                yield f'{layout.config.name}/{task.name}/{figure}'
