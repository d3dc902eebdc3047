# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Engines that run a bundle's graph: which there are, and how one is chosen and opened.

`base.py` is the contract, `cache.py` keeps what was built. A runtime's package is imported by its
own file only.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from mtl_perception.bundle import Bundle
from mtl_perception.engines import cache
from mtl_perception.engines.base import ANY, Calibration, Engine, EngineError, EngineInfo, Options
from mtl_perception.engines.built import BuiltEngine, Plan

__all__ = [
    'ANY', 'ENGINES', 'Availability', 'Calibration', 'Engine', 'EngineError', 'EngineInfo',
    'Options', 'available', 'choose', 'compile_engine', 'engine_class', 'is_built', 'open_engine',
]  # fmt: skip

log = logging.getLogger(__name__)

ENGINES: dict[str, str] = {
    'tensorrt': 'TensorRtEngine',
    'torch_tensorrt': 'TorchTensorRtEngine',
    'openvino': 'OpenVinoEngine',
    'onnxruntime': 'OnnxRuntimeEngine',
    'aot_inductor': 'AotInductorEngine',
    'torch_export': 'TorchExportEngine',
}
"""Engine by name: the class in `engines/<name>.py`. In this order `auto` takes those whose speed
was not measured on this machine: what runs on a GPU first, then by speed on x86-64 CPUs."""


@dataclass(frozen=True)
class Availability:
    """Whether an engine can run here: its version, or why not and what to install.

    device and precisions: what `auto` takes, and what that can run.
    """

    usable: bool
    text: str
    device: str = ''
    precisions: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The version or the reason."""
        return self.text


def available(bundle: Bundle | None = None) -> dict[str, Availability]:
    """Every engine with its version, or with the reason why it cannot run here.

    bundle: what it has to run; one that lacks an engine's graph is such a reason.
    """
    found = {}
    for name in ENGINES:
        try:
            engine = engine_class(name)
            version = next(iter(engine.versions().values()))
            device = engine.device('auto')
            if bundle is not None:
                engine.check_file(bundle)
            found[name] = Availability(True, version, device, engine.precisions(device))
        except EngineError as error:
            found[name] = Availability(False, str(error))
    return found


def open_engine(
    bundle: Bundle, name: str = 'auto', options: Options = ANY, build: bool = False
) -> Engine:
    """Open a built engine; with `build`, build it first when the cache has none.

    `auto` takes the best that is built, else the best that can be, and logs which and why. Raises
    EngineError naming the command that builds it, or why none can run.
    """
    if name == 'fake':
        fake = import_module('mtl_perception.engines.fake').FakeEngine
        return fake(bundle, batch=options.batch, outputs=options.outputs)
    name, options = choose(bundle, name, options, prefer_built=True)
    if build and not is_built(bundle, name, options):
        compile_engine(bundle, name, options)
    opened = engine_class(name).open(bundle, options)
    info = opened.info
    log.info(
        'engine %s %s, %s, device %s, bundle %s',
        info.name, info.version, info.precision, info.device, bundle.manifest.name,
    )  # fmt: skip
    return opened


def is_built(bundle: Bundle, name: str, options: Options = ANY) -> bool:
    """Whether the cache has this engine; raises EngineError when it cannot be built here at all."""
    return cache.is_built(engine_class(name).plan(bundle, options).key)


def compile_engine(
    bundle: Bundle,
    name: str = 'auto',
    options: Options = ANY,
    calibration: Calibration | None = None,
) -> tuple[cache.CacheKey, Path]:
    """Build an engine into the cache, replacing an older one; returns its key and file.

    calibration: what int8 takes its ranges from. Raises EngineError.
    """
    name, options = choose(bundle, name, options)
    engine = engine_class(name)
    key = engine.plan(bundle, options).key
    log.info('building engine %s %s for bundle %s ...', name, key.precision, bundle.manifest.name)
    started = time.monotonic()
    path = engine.compile(bundle, options, calibration)
    seconds = time.monotonic() - started
    log.info('built %s in %.1f s, %.1f MB', path, seconds, path.stat().st_size / 1e6)
    return key, path


@dataclass(frozen=True)
class _Candidate:
    """An engine at a precision that can run here. speed: times the fp32 reference, if measured."""

    plan: Plan
    built: bool
    speed: float

    @property
    def name(self) -> str:
        return f'{self.plan.key.engine} {self.plan.precision}'

    @property
    def rank(self) -> tuple[float, bool, int]:
        on_gpu = self.plan.device.lower() not in ('cpu', '')
        return -self.speed, not on_gpu, list(ENGINES).index(self.plan.key.engine)


def choose(
    bundle: Bundle, name: str = 'auto', options: Options = ANY, prefer_built: bool = False
) -> tuple[str, Options]:
    """The best engine and precision for what is asked; the log says which and why.

    A name or a precision that is given stays as it is. `auto` precision is fp32, or a lower one
    that kept its accuracy when `mtl-perception compile --check` measured it here; among engines
    that were measured the fastest goes first. prefer_built: a built engine goes before an unbuilt
    one. Raises EngineError when none can run.
    """
    if name != 'auto' and options.precision != 'auto':
        engine_class(name)
        return name, options
    found: list[_Candidate] = []
    refused: dict[str, str] = {}
    for each in ENGINES if name == 'auto' else [name]:
        try:
            found += _candidates(bundle, each, options)
        except EngineError as error:
            refused[each] = str(error)
    if not found:
        reasons = '; '.join(f'{each}: {reason}' for each, reason in refused.items())
        if name != 'auto':
            raise EngineError(refused[name])
        raise EngineError(f'no engine can run bundle {bundle.path} here. {reasons}')
    ranked = sorted(found, key=lambda candidate: candidate.rank)
    built = [candidate for candidate in ranked if candidate.built] if prefer_built else []
    best = (built or ranked)[0]
    because = [best.name]
    if best.speed:
        because.append(f'measured here as {best.speed:.2f} times as fast as the fp32 reference')
    if unbuilt := [candidate.name for candidate in ranked[: ranked.index(best)]]:
        because.append(f'not built yet: {", ".join(unbuilt)}')
    if refused:
        names = ', '.join(refused)
        because.append(f'left out: {names} (`mtl-perception doctor` says why)')
    log.info('engine auto: %s', '; '.join(because))
    for each, reason in refused.items():
        log.debug('engine auto, without %s: %s', each, reason)
    return best.plan.key.engine, replace(options, precision=best.plan.precision)


def engine_class(name: str) -> type[BuiltEngine]:
    """The class of an engine; raises EngineError on a name that there is none of."""
    if name not in ENGINES:
        raise EngineError(f"no engine {name!r}, expected 'auto' or one of {list(ENGINES)}")
    module: Any = import_module(f'mtl_perception.engines.{name}')
    found: type[BuiltEngine] = getattr(module, ENGINES[name])
    return found


def _candidates(bundle: Bundle, name: str, options: Options) -> list[_Candidate]:
    """The precisions of one engine that may be taken unasked, or the one that is asked for."""
    engine = engine_class(name)
    plan = engine.plan(bundle, options)
    plans = [plan]
    if options.precision == 'auto':
        plans += [
            engine.plan(bundle, replace(options, precision=precision))
            for precision in engine.precisions(plan.device)
            if precision != plan.precision
        ]
    found = []
    for each in plans:
        verdict = cache.verdict(each.key)
        lost = verdict.get('text') if verdict and not verdict.get('passed') else None
        if lost is not None and options.precision == 'auto':
            log.info('engine %s %s loses accuracy (%s): left out', name, each.precision, lost)
        elif each is plan or verdict:
            found.append(_Candidate(each, cache.is_built(each.key), verdict.get('speed', 0.0)))
    if not found:
        raise EngineError(
            f'engine {name} lost accuracy at every precision when `mtl-perception compile --check` '
            f'measured it here; name a precision to run it all the same'
        )
    return found
