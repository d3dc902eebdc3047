# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What a network costs in time, beside another's."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from mtl_evaluation.bench.timing import take_turns, timing_figures
from mtl_perception.frame import Frame
from mtl_perception.pipeline import Pipeline

LATENCY_NOTE = (
    'Times of this machine at that load. They took turns on every frame, so paired_ratio_median is '
    'the figure that carries over, and not the milliseconds; with more load than cores neither is.'
)


def paired_latency(
    pipelines: dict[str, Pipeline], frames: Sequence[Frame], count: int
) -> dict[str, Any]:
    """Times of the whole way of a frame, all tasks; ratios are against the first pipeline."""
    load = os.getloadavg()[0]
    timings = take_turns(pipelines, frames, count)
    height, width = frames[0].pixels.shape[:2]
    return {
        'frames': count,
        'source': [width, height],
        'load_average': round(load, 1),
        'note': LATENCY_NOTE,
        'pipelines': timing_figures(pipelines, timings),
    }
