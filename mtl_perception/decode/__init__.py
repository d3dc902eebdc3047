# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Engine outputs -> boxes, masks, probabilities, maps in source pixels; one function per kind.

`boxes.py`, `masks.py` and `maps.py` (depth, normals); this file is the table of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_perception.bundle import OutputSpec
from mtl_perception.decode.answers import calibrated
from mtl_perception.decode.boxes import detection, suppress, suppress_across
from mtl_perception.decode.contract import Outputs, Thresholds
from mtl_perception.decode.maps import depth, normals
from mtl_perception.decode.masks import argmax_to_source, nearest_to_source, segmentation
from mtl_perception.engines.base import EngineError
from mtl_perception.frame import Detections
from mtl_perception.letterbox import Letterbox
from mtl_perception.tasks import Task

__all__ = [
    'DECODERS', 'NEEDED', 'Detections', 'Thresholds', 'argmax_to_source', 'classification',
    'nearest_to_source', 'suppress', 'suppress_across',
]  # fmt: skip


def classification(
    task: Task,
    specs: Mapping[str, OutputSpec],
    outputs: Outputs,
    letterbox: Letterbox,
    thresholds: Thresholds,
) -> NDArray[np.float32]:
    """The calibrated probability of every class, float32 [C].

    Raises EngineError on values outside 0-1.
    """
    probabilities = np.array(outputs['probabilities'], np.float32)
    if not (probabilities >= -1e-3).all() or not (probabilities <= 1 + 1e-3).all():
        raise EngineError(
            f'task {task.name!r}: output {specs["probabilities"].name!r} should hold '
            f'probabilities, found {probabilities}. Export the bundle again.'
        )
    return calibrated(probabilities, task.temperature)


DECODERS: dict[str, Callable[..., Any]] = {
    'detection': detection,
    'segmentation': segmentation,
    'classification': classification,
    'depth': depth,
    'normals': normals,
}
"""Decode function by kind: (task, specs by meaning, outputs by meaning, letterbox, thresholds).

A new kind is one function here and one conversion in `messages.py`.
"""

NEEDED: dict[str, tuple[frozenset[str], ...]] = {
    'detection': (
        frozenset({'boxes', 'scores', 'labels'}),
        frozenset({'unique_boxes', 'scores', 'labels'}),
    ),
    'segmentation': (frozenset({'logits'}), frozenset({'class_map'})),
    'classification': (frozenset({'probabilities'}),),
    'depth': (frozenset({'depth'}),),
    'normals': (frozenset({'normals'}),),
}
"""The sets of meanings, any of which is enough to decode a kind."""
