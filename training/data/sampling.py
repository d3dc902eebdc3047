# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Repeat-factor sampling within a data set: images of rare classes are drawn more often.

Gupta et al., "LVIS", CVPR 2019, section 4.1: f(c) is the share of images that show class c,
r(c) = max(1, sqrt(t / f(c))), and an image is repeated r(I) = max over its classes of r(c). Labels
are partial here, so f(c) counts among the images that are labelled for the task of c. Draws are
independent, hence r(I) is used as a weight instead of being rounded to whole repeats.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from training.data.layout import Layout
from training.data.sample import DatasetError


def repeat_factors(layout: Layout, threshold: float, tasks: list[str]) -> NDArray[np.float64]:
    """r(I) of every image, float64 [len(layout)], over the classes of `tasks`.

    Boxes and attributes are in memory; masks are all read. Raises DatasetError when no image is
    labelled for a task.
    """
    factors = np.ones(len(layout))
    for task in tasks:
        rows = [row for row in range(len(layout)) if task in layout.tasks(row)]
        if not rows:
            raise DatasetError(
                f'data set {layout.config.name!r}: repeat_tasks names {task!r}, for which no image '
                f'is labelled'
            )
        reads = task in layout.masks
        shown = track(rows, description=f'{layout.config.name} {task}') if reads else rows
        classes = {row: layout.classes(row, task) for row in shown}
        counts = np.bincount(np.concatenate(list(classes.values())).astype(int), minlength=1)
        share = counts / len(rows)
        repeat = np.maximum(1, np.sqrt(threshold / np.maximum(share, 1e-12)))
        for row, found in classes.items():
            if len(found):
                factors[row] = max(factors[row], repeat[found].max())
    return factors
