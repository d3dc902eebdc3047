# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Engines that are built once on a machine: what they share.

One engine file per runtime, each a `BuiltEngine`: this file owns what is asked for, resolved on
this machine, the checks, the cache, run and close; theirs own what the runtime wants.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mtl_perception.bundle import Bundle
from mtl_perception.engines import cache
from mtl_perception.engines.base import (
    ANY,
    Calibration,
    EngineError,
    EngineInfo,
    Options,
    check_batch,
    cores,
    last_line,
)
from mtl_perception.onnx_file import OnnxFileError, check_self_contained

GRAPH = 'model.onnx'


@dataclass(frozen=True)
class Plan:
    """What was asked for, resolved on this machine: all that building and loading need.

    outputs: names in the manifest's order. device: the runtime's own name for it.
    """

    bundle: Bundle
    asked: Options
    key: cache.CacheKey
    outputs: tuple[str, ...]
    device: str
    calibration: Calibration | None = None

    @property
    def graph(self) -> Path:
        """The bundle's ONNX graph."""
        return self.bundle.file(GRAPH)

    def graph_bytes(self) -> bytes:
        """The content of `graph`, its sha256 compared; nothing else is read for it.

        Raises EngineError when it is no ONNX file, BundleError as `Bundle.read` does.
        """
        data = self.bundle.read(GRAPH)
        try:
            check_self_contained(data)
        except OnnxFileError as error:
            raise EngineError(f'{self.graph} is no ONNX graph: {error}') from error
        return data

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the input: [B, H, W, 3]."""
        return self.key.shape

    @property
    def precision(self) -> str:
        """One of `PRECISIONS`."""
        return self.key.precision

    @property
    def threads(self) -> int:
        """CPU threads to run with."""
        return self.asked.threads or cores()

    @property
    def prunes(self) -> bool:
        """Whether outputs of the graph are left out."""
        return len(self.outputs) < len(self.bundle.manifest.outputs)

    def command(self, force: bool = False) -> str:
        """The command that builds this engine, to be shown in errors."""
        words = [
            f'mtl-perception compile {self.bundle.path} --engine {self.key.engine}',
            f'--precision {self.precision}',
        ]
        words += [f'--device {self.asked.device}'] if self.asked.device != 'auto' else []
        words += [f'--batch {self.shape[0]}'] if self.shape[0] != 1 else []
        words += [f'--size {self.shape[1]}x{self.shape[2]}'] if self.bundle.is_resized else []
        words += [f'--outputs {",".join(self.outputs)}'] if self.prunes else []
        return ' '.join(words + ['--force'] * force)

    def calibrated(self) -> Calibration:
        """The calibration; raises EngineError when none was given."""
        if self.calibration is None:
            raise EngineError(
                f'an int8 engine needs frames to take its ranges from: '
                f'{self.command()} --calibrate FOLDER'
            )
        return self.calibration


class BuiltEngine(ABC):
    """An engine that is built once on a machine, kept in the cache, and loaded from there.

    Not thread-safe: buffers are reused.
    """

    name: ClassVar[str]
    file: ClassVar[str] = GRAPH
    """The file of the bundle that it is built from."""
    errors: ClassVar[tuple[type[Exception], ...]] = (RuntimeError,)
    """What the runtime raises when it fails."""

    def __init__(self, plan: Plan, path: Path) -> None:
        """Load a built file; use `open`."""
        self._shape = plan.shape
        self._open = True
        self.input: NDArray[np.uint8] | None = None
        detail = self._load(plan, path)
        self.info = EngineInfo(
            name=self.name,
            version=next(iter(plan.key.versions.values())),
            device=plan.key.device,
            precision=plan.precision,
            batch=plan.shape[0],
            outputs=plan.outputs,
            detail={'file': str(path), **detail},
        )

    @classmethod
    @abstractmethod
    def versions(cls) -> dict[str, str]:
        """Versions of the packages that build and read it, the runtime's own first.

        Raises EngineError, with what to install, when one is missing.
        """

    @classmethod
    @abstractmethod
    def device(cls, asked: str) -> str:
        """The runtime's name of a device; raises EngineError naming those there are."""

    @classmethod
    @abstractmethod
    def precisions(cls, device: str) -> tuple[str, ...]:
        """What the device of this machine can run, `fp32` among it."""

    @classmethod
    def hardware(cls, device: str) -> str:
        """What a built engine is tied to."""
        return cache.cpu_name()

    @classmethod
    @abstractmethod
    def build(cls, plan: Plan, path: Path) -> None:
        """Write the built file; raises EngineError."""

    @abstractmethod
    def _load(self, plan: Plan, path: Path) -> dict[str, str]:
        """Make it ready to run; returns details for `info`. Raises EngineError."""

    @abstractmethod
    def _run(self, batch: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        """Run a checked batch."""

    @abstractmethod
    def _close(self) -> None:
        """Free what `_load` made."""

    @classmethod
    def plan(
        cls, bundle: Bundle, options: Options = ANY, calibration: Calibration | None = None
    ) -> Plan:
        """Resolve and check what is asked for; `auto` precision is fp32.

        Raises EngineError when the runtime, the device, the precision, an output or the bundle's
        file for it is not there.
        """
        versions = cls.versions()
        cls.check_file(bundle)
        if options.batch < 1:
            raise EngineError(f'engine {cls.name}: batch {options.batch}, expected 1 or more')
        device = cls.device(options.device)
        able = cls.precisions(device)
        precision = 'fp32' if options.precision == 'auto' else options.precision
        if precision not in able:
            raise EngineError(
                f'engine {cls.name}: {device} of this machine cannot run {precision!r}, '
                f"expected 'auto' or one of {list(able)}"
            )
        outputs = wanted_outputs(bundle, options.outputs)
        spec = bundle.manifest.input
        key = cache.CacheKey(
            bundle=bundle.manifest.name,
            bundle_hash=bundle.hash,
            engine=cls.name,
            precision=precision,
            shape=(options.batch, spec.height, spec.width, 3),
            device=f'{device} {cls.hardware(device)}',
            versions=versions,
            outputs=outputs if len(outputs) < len(bundle.manifest.outputs) else (),
        )
        return Plan(bundle, options, key, outputs, device, calibration)

    @classmethod
    def check_file(cls, bundle: Bundle) -> None:
        """Raise EngineError unless this engine can be built from the bundle's file for it."""
        if cls.file not in bundle.manifest.files:
            raise EngineError(
                f'engine {cls.name} is built from {cls.file}, bundle {bundle.path} lists only '
                f'{sorted(bundle.manifest.files)}. Export it again, or choose another engine.'
            )
        if bundle.is_resized and cls.file != GRAPH:
            spec = bundle.manifest.input
            raise EngineError(
                f'engine {cls.name} runs the size that {cls.file} was exported at only, asked for '
                f'was {spec.height}x{spec.width}. Choose an engine that is built from {GRAPH}.'
            )

    @classmethod
    def compile(
        cls, bundle: Bundle, options: Options = ANY, calibration: Calibration | None = None
    ) -> Path:
        """Build into the cache, replacing an older one; returns the built file.

        Raises EngineError when the graph cannot be read, differs from the manifest or does not
        compile.
        """
        plan = cls.plan(bundle, options, calibration)
        source = {'calibration': calibration.source} if calibration else {}

        def write(path: Path) -> None:
            try:
                cls.build(plan, path)
            except EngineError:
                raise
            except cls.errors as error:
                raise EngineError(
                    f'engine {cls.name} cannot build {bundle.path / cls.file} for {plan.device} '
                    f'at {plan.precision}: {last_line(error)}'
                ) from error

        return cache.build(plan.key, write, source)

    @classmethod
    def open(cls, bundle: Bundle, options: Options = ANY) -> BuiltEngine:
        """Load the built engine from the cache.

        Raises EngineError, with the command that builds it, when it is not built or damaged, and
        when something else than what was asked for would run.
        """
        plan = cls.plan(bundle, options)
        path = cache.built_file(plan.key, plan.command())
        failures: tuple[type[Exception], ...] = (OSError, *cls.errors)
        try:
            return cls(plan, path)
        except EngineError:
            raise
        except failures as error:
            raise EngineError(
                f'engine {cls.name} cannot load {path}: {last_line(error)}. Build it again: '
                f'{plan.command(force=True)}'
            ) from error

    def run(self, batch: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        """Uint8 [B, H, W, 3] -> outputs by name; arrays belong to the caller."""
        check_batch(self.name, batch, self._shape)
        if not self._open:
            raise EngineError(f'engine {self.name}: run after close')
        try:
            return self._run(batch)
        except EngineError:
            raise
        except self.errors as error:
            raise EngineError(f'engine {self.name} failed to run: {last_line(error)}') from error

    def close(self) -> None:
        """Free the engine; a second call does nothing."""
        if self._open:
            self._open = False
            self._close()


def check_graph(plan: Plan, found: Mapping[str, tuple[Sequence[Any], str]], where: object) -> None:
    """Compare the graph's outputs, name -> (shape, dtype), with the manifest.

    Raises EngineError naming the first output that is missing or differs.
    """
    for spec in plan.bundle.manifest.outputs:
        if spec.name not in plan.outputs:
            continue
        if spec.name not in found:
            raise EngineError(
                f'{where} has no output {spec.name!r} that the manifest names; it has '
                f'{list(found)}. Export the bundle again.'
            )
        shape, dtype = tuple(found[spec.name][0]), found[spec.name][1]
        expected = (plan.shape[0], *spec.shape)
        if shape != expected or dtype != spec.dtype:
            raise EngineError(
                f'{where}: output {spec.name!r} is {dtype} {shape}, the manifest of bundle '
                f'{plan.bundle.path} says {spec.dtype} {expected}. Export the bundle again.'
            )


def check_input(
    plan: Plan, name: str, shape: Sequence[int | None], dtype: str, where: object
) -> None:
    """Compare the graph's input, None for free sides, with the manifest; raises EngineError.

    To be done before shapes are fixed: a runtime may reshape a graph to a size it is wrong for.
    """
    spec = plan.bundle.manifest.input
    fits = len(shape) == len(plan.shape) and all(
        side is None or side == wanted for side, wanted in zip(shape, plan.shape, strict=True)
    )
    if name != spec.name or dtype != 'uint8' or not fits:
        raise EngineError(
            f'{where}: input {name!r} is {dtype} {list(shape)}, the manifest of bundle '
            f'{plan.bundle.path} says {spec.name!r}, uint8 {list(plan.shape)}. Export the bundle '
            f'again.'
        )


def wanted_outputs(bundle: Bundle, outputs: Sequence[str] | None) -> tuple[str, ...]:
    """The output names to compute, in the manifest's order; raises EngineError on unknown ones."""
    names = tuple(spec.name for spec in bundle.manifest.outputs)
    if outputs is None:
        return names
    for name in outputs:
        if name not in names:
            raise EngineError(f'bundle {bundle.path} has no output {name!r}; it has {list(names)}')
    if not outputs:
        raise EngineError(f'no output is asked for; bundle {bundle.path} has {list(names)}')
    return tuple(name for name in names if name in outputs)
