# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Which validation was the best one.

The score is a mean of validation figures, each between 0 and 1. With `best_by` (patterns such as
`camvid/semantic/miou` or `*/detection/AP50`) those that match are averaged; errors (of depth and
normals) take no part. Without it each task counts alike: the first figure of a task (AP50, mIoU,
accuracy) is averaged over the sources that label it, then over the tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from statistics import fmean

from training.config import ConfigError
from training.evaluation.results import ERRORS


def score(values: Mapping[str, float], best_by: Sequence[str]) -> float:
    """Score of `source/task/metric` -> value; raises ConfigError when a pattern matches nothing."""
    if not values:
        raise ConfigError(
            'validation found no figure to choose the best weights by: no label of the validated '
            'images holds an object or class; raise validate_images or validate_every'
        )
    if not best_by:
        return _over_tasks(values)
    values = {name: v for name, v in values.items() if name.rpartition('/')[2] not in ERRORS}
    for pattern in best_by:
        if not any(fnmatch(name, pattern) for name in values):
            raise ConfigError(f'best_by: {pattern!r} matches none of {sorted(values)}')
    return fmean(value for name, value in values.items() if any(fnmatch(name, p) for p in best_by))


def _over_tasks(values: Mapping[str, float]) -> float:
    of_task: dict[str, dict[str, float]] = {}
    for name, value in values.items():
        source, task, _ = name.split('/')
        of_task.setdefault(task, {}).setdefault(source, value)
    return fmean(fmean(sources.values()) for sources in of_task.values())
