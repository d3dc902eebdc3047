# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Which input size, engine and precision keep a frame rate on this machine: measured, and stored.

`mtl-perception compile MODEL --rate 30` measures (`rate_search.py`) and stores the choice next to
the built engines; the node takes it (`target_rate_hz`). One file per bundle and rate.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mtl_perception.bundle import Bundle, find_bundle
from mtl_perception.engines import ENGINES, EngineError, Options, cache, is_built
from mtl_perception.engines.base import cores

FOLDER = '.choices'
"""Below the engine cache; hidden, so that it is not taken for an engine."""
COST = ('fp32', 'bf16', 'fp16', 'int8')
"""Precisions from the one that loses nothing; decides between equals where nothing was measured."""


@dataclass(frozen=True)
class Measured:
    """One way to run the model, and what was found: times of a whole frame, and accuracy.

    accuracy: hundredths by 'task metric', empty where it was not measured.
    """

    height: int
    width: int
    engine: str
    precision: str
    device: str
    threads: int
    p50_ms: float
    p99_ms: float
    frames_per_s: float
    accuracy: Mapping[str, float] = field(default_factory=dict)

    @property
    def size(self) -> str:
        """HEIGHTxWIDTH."""
        return f'{self.height}x{self.width}'

    @property
    def label(self) -> str:
        """As tables and logs name it."""
        return f'{self.size} {self.engine} {self.precision}'

    @property
    def options(self) -> Options:
        """What to open it with."""
        return Options(None, self.device, self.precision, threads=self.threads)

    @property
    def worth(self) -> tuple[float, int, int]:
        """Greater for the more accurate: by the mean over tasks, else by size, then precision."""
        values = self.accuracy.values()
        mean = sum(values) / len(values) if values else 0.0
        return mean, self.height * self.width, -_cost(self.precision)


@dataclass(frozen=True)
class Choice:
    """What was chosen for a rate.

    steps: the chosen one first, then smaller sizes of the same engine, precision and threads, each
    faster than the one before. machine: where it was measured. data: images of the accuracy.
    """

    bundle_hash: str
    rate_hz: float
    headroom: float
    camera: tuple[int, int]
    machine: str
    steps: tuple[Measured, ...]
    data: str = ''

    @property
    def chosen(self) -> Measured:
        """The most accurate that keeps the rate."""
        return self.steps[0]


def _cost(precision: str) -> int:
    return COST.index(precision) if precision in COST else len(COST)


def this_machine() -> str:
    """What the times of a choice depend on, in words."""
    return f'{cache.cpu_name()}, {cores()} cores'


def budget_ms(rate_hz: float, headroom: float) -> float:
    """Milliseconds that the slowest hundredth of the frames may take."""
    return 1e3 / rate_hz * (1 - headroom)


def choose(found: Sequence[Measured], rate_hz: float, headroom: float) -> tuple[Measured, ...]:
    """The most accurate that keeps the rate, and the steps below it; see `Choice.steps`.

    Raises EngineError naming the fastest when none does.
    """
    budget = budget_ms(rate_hz, headroom)
    able = [each for each in found if each.p99_ms <= budget]
    if not able:
        fastest = min(found, key=lambda each: each.p99_ms)
        possible = 1e3 / fastest.p99_ms * (1 - headroom)
        raise EngineError(
            f'nothing keeps {rate_hz:g} Hz on this machine: the fastest, {fastest.label}, takes '
            f'{fastest.p99_ms:.1f} ms for the slowest hundredth of its frames, expected at most '
            f'{budget:.1f} ms ({headroom:.0%} headroom). It keeps --rate {possible:.3g}'
        )
    best = max(able, key=lambda each: each.worth)
    steps = [best]
    alike = (best.engine, best.precision, best.device, best.threads)
    for each in sorted(found, key=lambda each: -each.height * each.width):
        is_alike = (each.engine, each.precision, each.device, each.threads) == alike
        last = steps[-1]
        if (
            is_alike
            and each.p99_ms < last.p99_ms
            and each.height * each.width < (last.height * last.width)
        ):
            steps.append(each)
    return tuple(steps)


def pareto(found: Sequence[Measured]) -> frozenset[int]:
    """Indices of those that no other beats in time without being less accurate."""
    return frozenset(
        index
        for index, each in enumerate(found)
        if not any(
            other.p99_ms <= each.p99_ms
            and other.worth >= each.worth
            and (other.p99_ms, other.worth) != (each.p99_ms, each.worth)
            for other in found
        )
    )


def steps_for(model: str | Path, rate_hz: float, build: bool = False) -> tuple[Measured, ...]:
    """What the node opens for a rate: the chosen size, then those smaller ones that are built.

    build: those too that are not. Raises BundleError and EngineError, as `load` does.
    """
    bundle = Bundle.open(find_bundle(model))
    chosen, *smaller = load(bundle, rate_hz).steps
    return chosen, *(each for each in smaller if build or _is_built(bundle, each))


def _is_built(bundle: Bundle, each: Measured) -> bool:
    if each.engine not in ENGINES:  # nothing is built
        return True
    return is_built(bundle.at_size(each.height, each.width), each.engine, each.options)


def save(bundle: Bundle, choice: Choice) -> Path:
    """Store a choice, replacing an older one for the rate; raises EngineError."""
    path = _path(bundle, choice.rate_hz)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        work = path.with_suffix('.new')
        work.write_text(json.dumps(asdict(choice), indent=1) + '\n', 'utf-8')
        work.rename(path)
    except OSError as error:
        raise EngineError(f'cannot store the choice {path}: {error}') from error
    return path


def load(bundle: Bundle, rate_hz: float) -> Choice:
    """The choice for a rate; raises EngineError with the command that makes one.

    That is when there is none, when it was measured on another machine or for another bundle of
    this name, and when the file is damaged.
    """
    path = _path(bundle, rate_hz)
    command = f'mtl-perception compile {bundle.path} --rate {rate_hz:g}'
    try:
        choice = _parsed(json.loads(path.read_text('utf-8')))
    except FileNotFoundError:
        rates = sorted(_rates(bundle))
        known = f' (measured are {", ".join(f"{rate:g}" for rate in rates)} Hz)' if rates else ''
        raise EngineError(
            f'no input size was chosen for {rate_hz:g} Hz on this machine{known}. Measure: '
            f'{command}'
        ) from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise EngineError(
            f'the choice {path} cannot be read: {error!r}. Measure again: {command}'
        ) from error
    if choice.machine != this_machine():
        raise EngineError(
            f'the input size for {rate_hz:g} Hz was chosen on another machine ({choice.machine}), '
            f'this one is {this_machine()}. Measure: {command}'
        )
    if choice.bundle_hash != bundle.hash:
        raise EngineError(
            f'the input size for {rate_hz:g} Hz was chosen for another bundle named '
            f'{bundle.manifest.name!r}. Measure again: {command}'
        )
    return choice


def _path(bundle: Bundle, rate_hz: float) -> Path:
    return _folder() / f'{_stem(bundle)}-{rate_hz:g}hz.json'


def _folder() -> Path:
    return cache.cache_root() / FOLDER


def _stem(bundle: Bundle) -> str:
    return re.sub(r'[^A-Za-z0-9._-]', '_', bundle.manifest.name)[:40]


def _rates(bundle: Bundle) -> Iterable[float]:
    stem = _stem(bundle)
    for path in _folder().glob(f'{stem}-*hz.json'):
        try:
            yield float(path.name[len(stem) + 1 : -len('hz.json')])
        except ValueError:  # of a bundle whose name starts with this one's
            continue


def _parsed(data: Any) -> Choice:
    steps = tuple(Measured(**each) for each in data.pop('steps'))
    if not steps:
        raise ValueError('it names no engine')
    return Choice(steps=steps, **data | {'camera': tuple(data['camera'])})
