"""Engines that run a bundle's graph: which there are, and how one is chosen and opened.

`base.py` is the contract, `cache.py` keeps what was built. A runtime's package is imported by its
own file only.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from mtl_perception.bundle import Bundle
from mtl_perception.engines import cache
from mtl_perception.engines.base import Engine, EngineError, EngineInfo

__all__ = [
    'ENGINES', 'Availability', 'Engine', 'EngineError', 'EngineInfo', 'available', 'choose',
    'compile_engine', 'is_built', 'open_engine',
]  # fmt: skip

log = logging.getLogger(__name__)

ENGINES: dict[str, str] = {
    'openvino': 'OpenVinoEngine',
    'onnxruntime': 'OnnxRuntimeEngine',
}
"""Engine by name: the class in `engines/<name>.py`. `auto` tries them in this order, that of their
measured speed on x86-64 CPUs."""


@dataclass(frozen=True)
class Availability:
    """Whether an engine can run here: its version, or why not and what to install."""

    usable: bool
    text: str

    def __str__(self) -> str:
        """The version or the reason."""
        return self.text


def available() -> dict[str, Availability]:
    """Every engine with its version, or with the reason why it cannot run here."""
    found = {}
    for name in ENGINES:
        try:
            found[name] = Availability(True, _module(name).version())
        except EngineError as error:
            found[name] = Availability(False, str(error))
    return found


def open_engine(
    bundle: Bundle,
    name: str = 'auto',
    outputs: Sequence[str] | None = None,
    device: str = 'auto',
    precision: str = 'auto',
    batch: int = 1,
    build: bool = False,
    threads: int = 0,
) -> Engine:
    """Open a built engine; with `build`, build it first when the cache has none.

    `auto` takes the first usable engine that is built, else the first usable one, and logs which
    and why. Raises EngineError naming the command that builds it, or why none can run.
    """
    if name == 'fake':
        return _class(name).open(bundle, outputs, device, precision, batch)
    arguments = (outputs, device, precision, batch)
    if name == 'auto':
        name = choose(bundle, arguments, prefer_built=True)
    engine = _class(name)
    if build and not is_built(bundle, name, *arguments):
        compile_engine(bundle, name, *arguments)
    opened: Engine = engine.open(bundle, *arguments, threads=threads)
    log.info(
        'engine %s %s, %s, device %s, bundle %s',
        opened.info.name, opened.info.version, opened.info.precision, opened.info.device,
        bundle.manifest.name,
    )  # fmt: skip
    return opened


def is_built(
    bundle: Bundle,
    name: str,
    outputs: Sequence[str] | None = None,
    device: str = 'auto',
    precision: str = 'auto',
    batch: int = 1,
) -> bool:
    """Whether the cache has this engine; raises EngineError when it cannot be built here at all."""
    return cache.is_built(_class(name).key(bundle, outputs, device, precision, batch))


def compile_engine(
    bundle: Bundle,
    name: str = 'auto',
    outputs: Sequence[str] | None = None,
    device: str = 'auto',
    precision: str = 'auto',
    batch: int = 1,
) -> tuple[cache.CacheKey, Path]:
    """Build an engine into the cache, replacing an older one; returns its key and file.

    Raises EngineError.
    """
    arguments = (outputs, device, precision, batch)
    if name == 'auto':
        name = choose(bundle, arguments)
    engine = _class(name)
    key = engine.key(bundle, *arguments)
    log.info('building engine %s %s for bundle %s ...', name, key.precision, bundle.manifest.name)
    started = time.monotonic()
    path = engine.compile(bundle, *arguments)
    seconds = time.monotonic() - started
    log.info('built %s in %.1f s, %.1f MB', path, seconds, path.stat().st_size / 1e6)
    return key, path


def choose(bundle: Bundle, arguments: tuple[Any, ...], prefer_built: bool = False) -> str:
    """The best engine that can do what is asked here; the log says which and why.

    arguments: outputs, device, precision, batch. prefer_built: a built engine goes before an
    unbuilt one. Raises EngineError when none can.
    """
    keys, refused = {}, {}
    for name in ENGINES:
        try:
            keys[name] = _class(name).key(bundle, *arguments)
        except EngineError as error:
            refused[name] = str(error)
    if not keys:
        reasons = '; '.join(f'{name}: {reason}' for name, reason in refused.items())
        raise EngineError(f'no engine can run bundle {bundle.path} here. {reasons}')
    built = [name for name, key in keys.items() if cache.is_built(key)] if prefer_built else []
    chosen = next(iter(built or keys))
    passed = list(ENGINES)[: list(ENGINES).index(chosen)]
    why = [f'{name} {refused.get(name, "is not built")}' for name in passed]
    because = f'; {"; ".join(why)}' if why else f' is the first choice of {list(ENGINES)}'
    log.info('engine auto: %s%s', chosen, because)
    return chosen


def _module(name: str) -> Any:
    return import_module(f'mtl_perception.engines.{name}')


def _class(name: str) -> Any:
    if name == 'fake':
        return _module(name).FakeEngine
    if name not in ENGINES:
        raise EngineError(f"no engine {name!r}, expected 'auto' or one of {list(ENGINES)}")
    return getattr(_module(name), ENGINES[name])
