# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What every decode function takes: thresholds, and tensors by meaning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True)
class Thresholds:
    """Which boxes are kept: score in 0-1, suppression IoU in 0-1, at most `max_detections` >= 1.

    across_iou: suppression IoU between classes that one thing cannot be at once
    (`tasks.EXCLUSIVE`); 1 keeps them all, as average precision wants it.

    Raises ValueError on a value outside its range.
    """

    score: float = 0.4
    nms_iou: float = 0.5
    max_detections: int = 100
    across_iou: float = 0.6

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ('score', 'nms_iou', 'across_iou'):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f'threshold {name} must be 0 to 1, got {getattr(self, name)!r}')
        if isinstance(self.max_detections, bool) or int(self.max_detections) < 1:
            raise ValueError(f'max_detections must be at least 1, got {self.max_detections!r}')


Outputs = Mapping[str, NDArray[Any]]
"""Output tensors of one frame of one task, by meaning, without the batch axis."""
