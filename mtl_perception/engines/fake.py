# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""An engine for fault tests only: scripted delays and errors, never an answer of a model.

It computes nothing and reads no graph. `auto` never chooses it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtl_perception.bundle import Bundle
from mtl_perception.engines.base import EngineError, EngineInfo, check_batch


@dataclass(frozen=True)
class Step:
    """One run: wait, then raise `error` or answer with zeros."""

    latency_s: float = 0.0
    error: Exception | None = None


class FakeEngine:
    """Plays a script of steps, the last one for ever; outputs are zeros in the shapes promised."""

    name = 'fake'

    def __init__(
        self,
        bundle: Bundle,
        script: Iterable[Step] = (),
        batch: int = 1,
        outputs: Sequence[str] | None = None,
    ) -> None:
        """Take the shapes from the bundle's manifest, of `outputs` only or of all."""
        spec = bundle.manifest.input
        every = bundle.manifest.outputs
        self._outputs = [spec for spec in every if outputs is None or spec.name in outputs]
        self._script = list(script) or [Step()]
        self._shape = (batch, spec.height, spec.width, 3)
        self.input = None
        self.runs = 0
        self.closed = False
        self.info = EngineInfo(
            name=self.name,
            version='0',
            device='none',
            precision='none',
            batch=batch,
            outputs=tuple(output.name for output in self._outputs),
        )

    def run(self, batch: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        """Play the next step."""
        check_batch(self.name, batch, self._shape)
        if self.closed:
            raise EngineError('engine fake: run after close')
        step = self._script[min(self.runs, len(self._script) - 1)]
        self.runs += 1
        time.sleep(step.latency_s)
        if step.error is not None:
            raise step.error
        return {
            output.name: np.zeros((len(batch), *output.shape), output.dtype)
            for output in self._outputs
        }

    def close(self) -> None:
        """Refuse further runs."""
        self.closed = True
