# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Engine outputs -> boxes, masks, probabilities, maps in source pixels.

`boxes.py`, `masks.py` and `maps.py` (depth, normals) are what the files of `kinds/` decode by.
"""

from __future__ import annotations

from mtl_perception.decode.boxes import suppress, suppress_across
from mtl_perception.decode.contract import Thresholds
from mtl_perception.decode.masks import argmax_to_source, nearest_to_source
from mtl_perception.frame import Detections

__all__ = [
    'Detections', 'Thresholds', 'argmax_to_source', 'nearest_to_source', 'suppress',
    'suppress_across',
]  # fmt: skip
