# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The engine contract: what is asked of whatever runs a bundle's graph, and what it answers.

An engine takes letterboxed uint8 batches and returns the graph's outputs as the manifest names
them; it knows nothing of ROS, letterboxing or decoding. Those that are built on the machine share
`built.py`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mtl_perception.engine_error import EngineError

__all__ = [
    'ANY', 'PRECISIONS', 'Calibration', 'Engine', 'EngineError', 'EngineInfo', 'Options',
    'check_batch', 'cores', 'last_line',
]  # fmt: skip

PRECISIONS = ('fp32', 'bf16', 'fp16', 'int8')
"""Arithmetic of the heavy operations; what follows the last of them stays in single precision."""


@dataclass(frozen=True)
class Options:
    """What is asked of an engine.

    outputs: the tensors wanted, None for all; what nobody wants is not computed. device and
    precision: as the engine names them, or `auto`. batch: frames per run. threads: CPU threads when
    it runs, 0 for all cores of this process; they are no part of what is built.
    """

    outputs: Sequence[str] | None = None
    device: str = 'auto'
    precision: str = 'auto'
    batch: int = 1
    threads: int = 0


ANY = Options()


@dataclass(frozen=True)
class EngineInfo:
    """What really runs. `device` and `precision` are those in force, not those asked for."""

    name: str
    version: str
    device: str
    precision: str
    batch: int
    outputs: tuple[str, ...]
    detail: dict[str, str] = field(default_factory=dict)


@runtime_checkable
class Engine(Protocol):
    """An opened engine."""

    info: EngineInfo
    input: NDArray[np.uint8] | None
    """A buffer [B, H, W, 3] that is run without being copied first (pinned memory of a GPU); None
    where that holds for any array."""

    def run(self, batch: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        """Uint8 [B, H, W, 3] RGB letterboxed -> outputs by name, batch axis first.

        The arrays belong to the caller. Raises EngineError on a wrong shape or dtype, and when the
        runtime fails.
        """
        ...

    def close(self) -> None:
        """Free what the engine holds; a second call does nothing."""
        ...


@dataclass(frozen=True)
class Calibration:
    """Frames that an int8 engine takes its ranges from.

    frames: uint8 [H, W, 3] RGB, letterboxed. source: where they come from, in a few words.
    """

    frames: Sequence[NDArray[np.uint8]]
    source: str


def check_batch(name: str, batch: NDArray[np.uint8], expected: tuple[int, ...]) -> None:
    """Raise EngineError unless the batch is uint8 of the shape the engine was opened for."""
    if batch.shape != expected or batch.dtype != np.uint8:
        raise EngineError(
            f'engine {name}: expected a uint8 batch of shape {expected}, '
            f'found {batch.dtype} {batch.shape}'
        )


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def last_line(error: Exception) -> str:
    """What a runtime's message of many lines comes down to."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
