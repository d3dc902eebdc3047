# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Masks whose ids cannot be what the layout says, found by looking at a few of them.

Two codings are common beside BDD100K's and mean other classes under the same numbers: pictures of 0
and 255, and the ids of 2018, whose 0 is background where it is the own lane since.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.truth.label_files import LabelError
from mtl_evaluation.truth.labels import read_mask
from mtl_perception.tasks import DRIVABLE, LANE, SEMANTIC, UNLABELLED
from training.data.index import MaskFiles

Counts = NDArray[np.int64]
"""Pixels by mask value, [256]."""

SAMPLED = 12
"""Masks that are looked at."""
SKY = 0.05
"""Share of the rows, from above, in which no mask of a camera on a vehicle has road."""
MOST = 0.5
"""Share of pixels from which on a class is more than chance."""
ROAD = {
    DRIVABLE.name: (0, 1, len(DRIVABLE.classes)),
    SEMANTIC.name: (SEMANTIC.classes.index('road'), len(SEMANTIC.classes)),
}
"""By task, our ids of road, the class set of road included."""

CODES = (
    'Masks of 2018 (0 background, 1 direct, 2 alternative) are read from '
    'drivable_maps/labels/SPLIT/NAME_drivable_id.png; ids of your own are told by `kind: coco`, '
    'coco.masks.TASK.ids (docs/data.md)'
)


def two_valued(task: str, files: MaskFiles, images: Mapping[str, Path]) -> str:
    """Says so when masks hold 0 and 255 only, from which nothing true is learnt; else empty.

    Files that cannot be read, and those without an image, are left out.
    """
    total = _counts(files, images)[0]
    if set(np.flatnonzero(total)) != {0, UNLABELLED}:
        return ''
    if task == LANE.name and total[0] <= MOST * total.sum():
        return ''  # crosswalks on a road without other markings
    meaning = 'marking and none' if task == LANE.name else 'the first class and unlabelled'
    return (
        f'{min(files.paths.values()).parent}: the masks of {task} hold 0 and 255 only, in this '
        f'layout {meaning}, so they are of another coding. {CODES}'
    )


def road_above(task: str, files: MaskFiles, images: Mapping[str, Path]) -> str:
    """Says so when most of what masks have in their uppermost rows is road; else empty.

    A suspicion only: a camera that looks down sees road there.
    """
    above = _counts(files, images)[1]
    if above[np.isin(files.table, ROAD.get(task, ()))].sum() <= MOST * above.sum():
        return ''
    return (
        f'{min(files.paths.values()).parent}: most of the uppermost rows is road, where the sky '
        f'should be. {CODES}'
    )


def _counts(files: MaskFiles, images: Mapping[str, Path]) -> tuple[Counts, Counts]:
    """Pixels by value of a few masks: of the whole, and of the uppermost rows."""
    names = sorted(files.paths.keys() & images.keys())
    chosen = np.unique(np.linspace(0, len(names) - 1, min(SAMPLED, len(names))).astype(int))
    found = [_count(files.paths[names[i]]) for i in chosen]
    whole = np.sum([each[0] for each in found], axis=0) if found else np.zeros(256, np.int64)
    above = np.sum([each[1] for each in found], axis=0) if found else np.zeros(256, np.int64)
    return whole, above


@lru_cache(4096)
def _count(path: Path) -> tuple[Counts, Counts]:
    """The same of one mask; zeros when it cannot be read."""
    try:
        mask = read_mask(path)
    except LabelError:
        return np.zeros(256, np.int64), np.zeros(256, np.int64)
    rows = max(1, round(SKY * len(mask)))
    return np.bincount(mask.ravel(), minlength=256), np.bincount(mask[:rows].ravel(), minlength=256)
