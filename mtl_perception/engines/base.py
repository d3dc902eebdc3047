"""The engine contract: what runs a bundle's graph, whatever runs it.

One engine file a runtime. An engine takes letterboxed uint8 batches and returns the graph's outputs
as the manifest names them; it knows nothing of ROS, letterboxing or decoding.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mtl_perception.bundle import Bundle


class EngineError(Exception):
    """An engine that cannot be opened or run: which, why, expected, found, next command."""


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
    """An opened engine; made by the class method `open` of each implementation.

    `open(bundle, outputs=None, device='auto', precision='auto', batch=1)` raises EngineError;
    `outputs` names the tensors wanted (None: all), what nobody wants is not computed.
    """

    info: EngineInfo

    @classmethod
    def open(
        cls,
        bundle: Bundle,
        outputs: Sequence[str] | None = None,
        device: str = 'auto',
        precision: str = 'auto',
        batch: int = 1,
    ) -> Engine:
        """Load the bundle's graph, ready to run."""
        ...

    def run(self, batch: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        """Uint8 [B, H, W, 3] RGB letterboxed -> outputs by name, batch axis first.

        Raises EngineError on a wrong shape or dtype, and when the runtime fails.
        """
        ...

    def close(self) -> None:
        """Free what the engine holds; a second call does nothing."""
        ...


def check_batch(name: str, batch: NDArray[np.uint8], expected: tuple[int, ...]) -> None:
    """Raise EngineError unless the batch is uint8 of the shape the engine was opened for."""
    if batch.shape != expected or batch.dtype != np.uint8:
        raise EngineError(
            f'engine {name}: expected a uint8 batch of shape {expected}, '
            f'found {batch.dtype} {batch.shape}'
        )


def check_graph(
    bundle: Bundle, batch: int, found: Mapping[str, tuple[Sequence[Any], str]], where: str
) -> None:
    """Compare the graph's outputs, name -> (shape, dtype), with the manifest.

    Only names in `found` are compared. Raises EngineError naming the first output that differs.
    """
    for spec in bundle.manifest.outputs:
        if spec.name not in found:
            continue
        shape, dtype = tuple(found[spec.name][0]), found[spec.name][1]
        expected = (batch, *spec.shape)
        if shape != expected or dtype != spec.dtype:
            raise EngineError(
                f'{where}: output {spec.name!r} is {dtype} {shape}, the manifest of bundle '
                f'{bundle.path} says {spec.dtype} {expected}. Export the bundle again.'
            )


def check_input(
    bundle: Bundle, batch: int, name: str, shape: Sequence[int | None], dtype: str, where: str
) -> None:
    """Compare the graph's input, None for free sides, with the manifest; raises EngineError.

    To be done before shapes are fixed: a runtime may reshape a graph to a size it is wrong for.
    """
    spec = bundle.manifest.input
    expected = (batch, spec.height, spec.width, 3)
    fits = len(shape) == len(expected) and all(
        side is None or side == wanted for side, wanted in zip(shape, expected, strict=True)
    )
    if name != spec.name or dtype != 'uint8' or not fits:
        raise EngineError(
            f'{where}: input {name!r} is {dtype} {list(shape)}, the manifest of bundle '
            f'{bundle.path} says {spec.name!r}, uint8 {list(expected)}. Export the bundle again.'
        )


def wanted_outputs(
    bundle: Bundle, outputs: Sequence[str] | None, known: Sequence[str], where: str
) -> tuple[str, ...]:
    """The output names to compute, in the manifest's order; raises EngineError on unknown ones."""
    names = tuple(spec.name for spec in bundle.manifest.outputs)
    for name in names:
        if name not in known:
            raise EngineError(
                f'{where} has no output {name!r} that the manifest names; it has {list(known)}. '
                f'Export the bundle again.'
            )
    if outputs is None:
        return names
    for name in outputs:
        if name not in names:
            raise EngineError(f'bundle {bundle.path} has no output {name!r}; it has {list(names)}')
    return tuple(name for name in names if name in outputs)


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
