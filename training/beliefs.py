# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""How far a trained model is to be believed: what real data taught it, and how sure it may sound.

Generated scenes show weather, tunnels and lanes that no photograph in the data has. A class that
only they taught is not answered, and where no real source tells the own lane from others, the road
is one class. Probabilities of image attributes are calibrated on the validation split by a
temperature (Guo et al., "On calibration of modern neural networks", ICML 2017, section 4.2), which
is at least 1 here: a split whose classes are easily told apart would ask for ever sharper ones.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_perception import kinds
from mtl_perception.bundle import InputSpec
from mtl_perception.frame import Frame
from mtl_perception.pipeline import Pipeline
from mtl_perception.tasks import DRIVABLE, Task
from training.config import RunConfig
from training.data.index import UNKNOWN
from training.data.layout import Layout, open_layouts
from training.data.sample import DatasetError
from training.module_engine import ModuleEngine, bundle_in_memory
from training.networks.base import MultiTaskNetwork
from training.tasks.segmentation import MaskHead

log = logging.getLogger(__name__)

THRESHOLD = 0.6
"""Calibrated probability below which an image attribute is unknown."""
THRESHOLD_ALONE = 0.9
"""The same where real data taught one class only: no real image said what it is not."""
TAUGHT_FROM = 20
"""Real images of a class from which it counts as taught."""
IMAGES = 200
"""Of each source, spread evenly, that a temperature is found on."""
TEMPERATURES = np.geomspace(1, 10, 91)


def believed_tasks(network: MultiTaskNetwork, config: RunConfig) -> tuple[Task, ...]:
    """The network's tasks with what real data taught, temperature and threshold.

    A network that learnt from generated scenes only is for generated scenes, and believed in all.
    Reads the label files of the training split and images of the validation split. Raises
    DatasetError.
    """
    real = [one for one in open_layouts(config.data, 'train') if not one.config.generated]
    if not real:
        return network.tasks
    attributes = [task for task in network.tasks if kinds.of(task).is_label]
    found = _temperatures(network, config, attributes)
    tasks = []
    for task in network.tasks:
        if kinds.of(task).is_label:
            taught = taught_classes(real, task)
            least = THRESHOLD_ALONE if len(taught) == 1 else THRESHOLD
            tasks.append(
                replace(task, taught=taught, temperature=found[task.name], threshold=least)
            )
        elif task == DRIVABLE and not any(_tells_lanes(layout) for layout in real):
            tasks.append(replace(task, taught=('direct', 'background')))
        else:
            tasks.append(task)
    return tuple(tasks)


def believed(
    network: MultiTaskNetwork, config: RunConfig, parent: Mapping[str, Any]
) -> tuple[Task, ...]:
    """The tasks with how far to believe them; those of the parent as it says.

    Where the data is not at hand all is believed, and the log says so.
    """
    known = parent.get('believed', {})
    tasks = network.tasks
    try:
        tasks = believed_tasks(network, config)
    except DatasetError as error:
        log.warning(
            'image attributes are not calibrated, and every class counts as taught: the data of '
            'the run cannot be read: %s', error,
        )  # fmt: skip
    return tuple(
        replace(task, **{**known[task.name], 'taught': _classes(known[task.name]['taught'])})
        if task.name in known
        else task
        for task in tasks
    )


def beliefs_of(tasks: Sequence[Task]) -> dict[str, dict[str, Any]]:
    """By task, as plain data for the file of a parent."""
    return {
        task.name: {
            'taught': task.taught, 'temperature': task.temperature, 'threshold': task.threshold,
        }
        for task in tasks
    }  # fmt: skip


def _classes(names: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(names)


def apply_beliefs(network: MultiTaskNetwork, tasks: Sequence[Task]) -> None:
    """What the deployed graph itself has to know of it: whether the road is one class."""
    for task in tasks:
        head = network.head(task.name)
        if isinstance(head, MaskHead) and task == DRIVABLE:
            head.one_road = 'alternative' not in task.believed


def taught_classes(real: Sequence[Layout], task: Task) -> tuple[str, ...]:
    """Classes of an image attribute with `TAUGHT_FROM` or more images in real sources."""
    counts: Counter[int] = Counter()
    for layout in real:
        if task.name in layout.labelled():
            for row in range(len(layout)):
                counts.update(layout.classes(row, task.name).tolist())
    return tuple(name for i, name in enumerate(task.classes) if counts[i] >= TAUGHT_FROM)


def temperature(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """The temperature with the least cross-entropy: probabilities [N, C], labels [N]."""
    logits = np.log(np.maximum(probabilities, 1e-12))
    losses = []
    for divisor in TEMPERATURES:
        scaled = logits / divisor
        scaled -= scaled.max(1, keepdims=True)
        picked = np.take_along_axis(scaled, labels[:, None], 1)[:, 0]
        losses.append(float((np.log(np.exp(scaled).sum(1)) - picked).mean()))
    return round(float(TEMPERATURES[int(np.argmin(losses))]), 4)


def _tells_lanes(layout: Layout) -> bool:
    """Whether people drew direct and alternative road apart there."""
    if DRIVABLE.name not in layout.labelled():
        return False
    table = layout.masks[DRIVABLE.name].table
    return not ((table >= len(DRIVABLE.classes)) & (table < UNKNOWN)).any()


def _temperatures(
    network: MultiTaskNetwork, config: RunConfig, tasks: Sequence[Task]
) -> Mapping[str, float]:
    """By task, of real images where there are labelled ones, else of all; 1 where there are none.

    The network must be in eval mode.
    """
    names = [task.name for task in tasks]
    layouts = [
        layout
        for layout in open_layouts(config.data, config.validate_split)
        if layout.labelled() & {*names}
    ]
    aug = config.augment
    spec = InputSpec(aug.input_height, aug.input_width, aug.letterbox_colour)
    bundle = bundle_in_memory(network, spec)
    outputs = [output.name for output in bundle.manifest.outputs]
    pipeline = Pipeline(bundle, ModuleEngine(network, outputs))
    seen: dict[tuple[str, bool], list[tuple[NDArray[np.float32], int]]] = {}
    for layout in layouts:
        count = min(IMAGES, len(layout))
        for row in np.linspace(0, len(layout) - 1, count).round().astype(int).tolist():
            sample = layout.load(row, tasks=names)
            known = sorted({*names} & sample.classes.keys())
            result = pipeline(Frame(sample.image), known)
            for name in known:
                pair = (result.probabilities[name], sample.classes[name])
                seen.setdefault((name, layout.config.generated), []).append(pair)
    found = {}
    for name in names:
        pairs = seen.get((name, False)) or seen.get((name, True), [])
        found[name] = 1.0
        if pairs:
            probabilities = np.array([row for row, _ in pairs], np.float64)
            found[name] = temperature(probabilities, np.array([label for _, label in pairs]))
    return found
