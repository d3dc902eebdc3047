# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Frame records -> the figures of each source, as they stand in `evaluation.json`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mtl_evaluation import kinds
from mtl_evaluation.runs.run import FrameRecord
from mtl_perception.tasks import DRIVABLE, RESEARCH, Task
from training.evaluation.scoring import COARSE, scored_tasks
from training.evaluation.yolop import YolopStyle

HEADLINES = {
    'detection': ('AP50', 'AP'),
    'drivable': ('miou', 'two_class_miou'),
    'semantic': ('miou',),
    'coarse7': ('miou',),
    'lane': ('miou',),
    'weather': ('accuracy',),
    'scene': ('accuracy',),
    'timeofday': ('accuracy',),
    'depth': ('delta1', 'abs_error', 'rel_error'),
    'normals': ('within_11_25', 'mean_error'),
}
"""By task, the figures that stand for it; the first is a share, and higher is better."""

BY_KIND = {name: kind.headlines for name, kind in kinds.KINDS.items()} | {
    'detection': HEADLINES['detection'],
    'segmentation': HEADLINES['semantic'],
}
"""The same of any other task."""
HEADLINES |= {name: BY_KIND[task.kind] for name, task in RESEARCH.items()}

ERRORS = frozenset(
    name
    for kind in kinds.KINDS.values()
    for name, figure in kind.figures.items()
    if figure.lower_is_better
)
"""Of these, lower is better: they are shown, and choose no weights."""


def source_results(records: Iterable[FrameRecord], tasks: Iterable[Task]) -> dict[str, Any]:
    """`images` and, by task, the metric's result over all records; `yolop_style` beside them.

    Where the labels do not tell direct from alternative, `drivable` has `two_class_miou` only.
    """
    metrics = kinds.new_metrics(scored_tasks(tasks))
    yolop = YolopStyle()
    images = 0
    for record in records:
        images += 1
        yolop.add(record.pieces)
        for name, piece in record.pieces.items():
            metrics[name].merge(piece)
    results = {name: metric.result() for name, metric in metrics.items() if metric.frames}
    two_class = results.pop(COARSE[DRIVABLE.name].task.name, None)
    if two_class is not None and DRIVABLE.name not in results:
        results[DRIVABLE.name] = {
            'frames': two_class['frames'],
            'labelled_pixels': two_class['labelled_pixels'],
            'two_class_miou': two_class['miou'],
        }
    family = yolop.result()
    return {'images': images, **results, **({'yolop_style': family} if family else {})}


def headline(results: Mapping[str, Any]) -> dict[str, float]:
    """The few numbers a person watches: `source/task/metric` -> value."""
    return {
        f'{source}/{task}/{key}': float(values[task][key])
        for source, values in results.items()
        for task, keys in headlines_of(values)
        for key in keys
        if values[task].get(key) is not None
    }


def headlines_of(values: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The tasks of a source's results, the known ones first, with the figures that stand for each.

    A result does not name its task's kind; the figures that it has tell it.
    """
    yield from ((task, keys) for task, keys in HEADLINES.items() if task in values)
    for task, figures in values.items():
        if task not in HEADLINES and isinstance(figures, Mapping):
            for keys in BY_KIND.values():
                if keys[0] in figures:
                    yield task, keys
