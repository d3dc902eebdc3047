# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""`mtl-perception compile MODEL --rate HZ`: what this machine can do in time.

Two rounds, in each of which all contestants take turns on every frame, so that other load falls on
all alike. First every engine, precision and number of threads at the bundle's own size: of each
precision the fastest goes on. Then these at every size. A frame is timed as the node runs it, from
pixels of the camera's size to decoded answers; receiving and publishing it is what the headroom is
for. Nothing is measured on a GPU's clock but what the caller waits for.
"""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mtl_perception import extensions, machine
from mtl_perception.bundle import Bundle
from mtl_perception.engines import (
    EngineError,
    Options,
    available,
    cache,
    compile_engine,
    engine_class,
    is_built,
    open_engine,
)
from mtl_perception.engines.base import cores
from mtl_perception.frame import Frame
from mtl_perception.pipeline import Pipeline
from mtl_perception.rate_choice import (
    COST,
    Choice,
    Measured,
    budget_ms,
    choose,
    pareto,
    save,
    this_machine,
)
from mtl_perception.tables import print_table

log = logging.getLogger(__name__)

WIDTHS = (320, 384, 448, 512, 576, 640, 768, 960)
"""Input widths that are tried; heights follow from the camera's aspect."""
WARM_UP = 3
FIRST_ROUND = 20
"""Frames per contestant in the first round."""

Size = tuple[int, int]
Accuracy = Callable[[Sequence[Pipeline]], Sequence[Mapping[str, float]]]
"""Hundredths by 'task metric' of each pipeline, measured on labelled images."""


def sizes_for(bundle: Bundle, camera: Size) -> list[Size]:
    """(height, width) of the inputs to try for a camera of (width, height), largest first.

    Of the camera's aspect, rounded up to the bundle's step; the bundle's own size among them. A
    graph of a fixed size has only that.
    """
    spec = bundle.manifest.input
    own = (spec.height, spec.width)
    step = spec.size_step
    if not step:
        log.info('%s has a graph for %dx%d only: other sizes are left out', bundle.path, *own)
        return [own]
    width, height = camera
    tried = {(-(-round(w * height / width) // step) * step, -(-w // step) * step) for w in WIDTHS}
    return sorted(tried | {own}, key=lambda size: -size[0] * size[1])


def contestants(
    bundle: Bundle, engine: str, options: Options, threads: Sequence[int], measured: bool
) -> list[tuple[str, Options]]:
    """Engine and options of the first round: those that run here and keep their accuracy.

    measured: whether accuracy is measured in this run; else a precision below fp32 takes part only
    where it is asked for or where `--check` found that it keeps its accuracy. int8 takes part where
    it is built. Raises EngineError when none is left.
    """
    usable = available(bundle)
    if engine != 'auto' and not usable[engine_class(engine).name].usable:
        raise EngineError(str(usable[engine]))
    found = []
    for name, state in usable.items():
        if not state.usable or engine not in ('auto', name):
            continue
        kind = engine_class(name)
        for precision in kind.precisions(kind.device(options.device)):
            each = replace(options, precision=precision)
            asked = options.precision == precision
            if options.precision not in ('auto', precision):
                continue
            if precision == 'int8' and not is_built(bundle, name, each):
                continue
            verdict = cache.verdict(kind.plan(bundle, each).key)
            if precision == 'fp32' or asked or measured or verdict.get('passed'):
                found += [(name, replace(each, threads=count)) for count in threads]
    if not found:
        raise EngineError(
            f'no engine to measure: engine {engine!r} at {options.precision!r} does not run here; '
            f'`mtl-perception doctor` says what does'
        )
    return found


def thread_counts() -> list[int]:
    """All cores, and half of them where that leaves a choice: small networks gain little."""
    return [0] if cores() < 4 else [0, cores() // 2]


def search(
    bundle: Bundle,
    plans: Sequence[tuple[str, Options]],
    sizes: Sequence[Size],
    frames: Sequence[Frame],
    count: int,
    accuracy: Accuracy | None = None,
    open_pipeline: Callable[[Bundle, str, Options], Pipeline] | None = None,
) -> list[Measured]:
    """Both rounds; the ways to run the model with their times, fastest last.

    count: frames per contestant in the second round. accuracy: measures what the second round
    opened. A contestant that fails is left out, and the log says why. Raises EngineError when all
    do.
    """
    opening = open_pipeline or build_and_open
    first = _times(bundle, [(name, options, own_size(bundle)) for name, options in plans], frames,
                   min(count, FIRST_ROUND), opening, None)  # fmt: skip
    best: dict[str, Measured] = {}
    for each in first:
        if each.precision not in best or each.p50_ms < best[each.precision].p50_ms:
            best[each.precision] = each
    finalists = [(each.engine, each.options, size) for each in best.values() for size in sizes]
    found = _times(bundle, finalists, frames, count, opening, accuracy)
    return sorted(found, key=lambda each: (-each.height * each.width, COST.index(each.precision)))


def own_size(bundle: Bundle) -> Size:
    """The size that the bundle's manifest names."""
    return bundle.manifest.input.height, bundle.manifest.input.width


def build_and_open(bundle: Bundle, name: str, options: Options) -> Pipeline:
    """A pipeline on an engine that is built first where it is not; raises EngineError."""
    if not is_built(bundle, name, options):
        compile_engine(bundle, name, replace(options, threads=0))
    return Pipeline(bundle, open_engine(bundle, name, options))


def _times(
    bundle: Bundle,
    plans: Sequence[tuple[str, Options, Size]],
    frames: Sequence[Frame],
    count: int,
    opening: Callable[[Bundle, str, Options], Pipeline],
    accuracy: Accuracy | None,
) -> list[Measured]:
    """Open, let all take turns, measure the accuracy, close."""
    opened: list[tuple[str, Options, Size, Pipeline]] = []
    try:
        for name, options, size in track(
            plans, 'opening', console=Console(stderr=True), transient=True
        ):
            try:
                pipeline = opening(bundle.at_size(*size), name, options)
                pipeline(frames[0])
                opened.append((name, options, size, pipeline))
            except EngineError as error:
                log.warning('%s %s at %dx%d is left out: %s', name, options.precision, *size, error)
        if not opened:
            raise EngineError('every engine failed; the lines above say why')
        times_ms: list[list[float]] = [[] for _ in opened]
        for step in track(
            range(-WARM_UP, count), 'timing', console=Console(stderr=True), transient=True
        ):
            for turn in range(len(opened)):
                at = (turn + step) % len(opened)
                timings = opened[at][3](frames[step % len(frames)]).timings_ms
                if step >= 0:
                    times_ms[at].append(sum(timings.values()))
        values: Sequence[Mapping[str, float]] = [{} for _ in opened]
        if accuracy is not None:
            values = accuracy([pipeline for *_, pipeline in opened])
        found = []
        for (name, options, size, _), rows, value in zip(opened, times_ms, values, strict=True):
            p50, p99 = np.percentile(rows, (50, 99))
            found.append(Measured(
                *size, name, options.precision, options.device, options.threads,
                round(float(p50), 2), round(float(p99), 2), round(1e3 / float(np.mean(rows)), 1),
                value,
            ))  # fmt: skip
        return found
    finally:
        for *_, pipeline in opened:
            pipeline.close()


def made_frames(camera: Size, count: int = 8, seed: int = 0) -> list[Frame]:
    """Seeded pictures of soft coloured patches: they have borders for the masks, as streets do."""
    rng = np.random.default_rng(seed)
    width, height = camera
    frames = []
    for _ in range(count):
        coarse = rng.integers(0, 256, (9, 16, 3), np.uint8)
        pixels = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        frames.append(Frame(np.ascontiguousarray(pixels, np.uint8), 'bgr'))
    return frames


def run(bundle: Bundle, args: argparse.Namespace) -> int:
    """Measure, print the table, store the choice; raises EngineError and BundleError."""
    if not all(0.1 <= rate <= 1000 for rate in args.rate) or not 0 <= args.headroom < 1:
        raise EngineError(
            f'--rate {" ".join(f"{rate:g}" for rate in args.rate)} --headroom {args.headroom:g}: '
            f'expected 0.1 to 1000 Hz and a share of at least 0 and below 1'
        )
    options = Options(None, args.device, args.precision)
    threads = [args.threads] if args.threads else thread_counts()
    sizes = args.sizes or sizes_for(bundle, args.camera)
    for size in sizes:
        bundle.at_size(*size)  # one that cannot be is refused before anything is built
    frames, accuracy, data = made_frames(args.camera), None, ''
    if args.data is not None:
        load = extensions.load(extensions.HOOKS, 'accuracy', '`mtl-perception compile --data`')
        frames, accuracy, data = load(bundle, args.data, args.frames)
    plans = contestants(bundle, args.engine, options, threads, accuracy is not None)
    found = search(bundle, plans, sizes, frames, args.timed, accuracy)
    choices, refusals = [], []
    for rate in args.rate:
        try:
            steps = choose(found, rate, args.headroom)
        except EngineError as error:
            refusals.append(str(error))
            continue
        choices.append(Choice(
            bundle.hash, rate, args.headroom, tuple(args.camera), this_machine(), steps, data
        ))  # fmt: skip
    _print(bundle, found, args, choices)
    if args.json is not None:
        _write_json(args.json, bundle, found, choices, data)
    for choice in choices:
        path = save(bundle, choice)
        print(f'{path}\nthe node takes it with target_rate_hz:={choice.rate_hz}')
    if refusals:
        raise EngineError('; '.join(refusals))
    return 0


def _print(
    bundle: Bundle, found: Sequence[Measured], args: argparse.Namespace, choices: Sequence[Choice]
) -> None:
    names = sorted({name for each in found for name in each.accuracy})
    best = pareto(found)
    budgets = {rate: budget_ms(rate, args.headroom) for rate in args.rate}
    table = Table(
        title=f'{bundle.manifest.name}, {args.camera[0]}x{args.camera[1]} frames: at most '
        + ', '.join(f'{budgets[rate]:.1f} ms for {rate:g} Hz' for rate in args.rate)
        + f' with {args.headroom:.0%} headroom',
        caption='* none is both faster and more accurate; Hz: chosen for it; accuracy in hundredths'
        + ('' if names else ': not measured (--data), so a larger input counts as more accurate'),
    )
    for column in ('size', 'engine', 'precision', 'threads'):
        table.add_column(column)
    for column in ('p50 ms', 'p99 ms', 'frames/s', *names, ''):
        table.add_column(column, justify='right')
    for index, each in enumerate(found):
        rates = [f'{choice.rate_hz:g}' for choice in choices if choice.chosen == each]
        table.add_row(
            each.size, each.engine, each.precision, str(each.threads or cores()),
            f'{each.p50_ms:.1f}', f'{each.p99_ms:.1f}', f'{each.frames_per_s:.1f}',
            *(f'{each.accuracy[name]:.2f}' if name in each.accuracy else '' for name in names),
            f'* {",".join(rates)} Hz' if rates else '*' if index in best else '',
            style='bold' if rates else '' if each.p99_ms <= max(budgets.values()) else 'dim',
        )  # fmt: skip
    # A file or pipe has no width of its own, and rich would cut the columns at 80.
    print_table(table, Console(width=None if sys.stdout.isatty() else 140))


def _write_json(
    path: Path, bundle: Bundle, found: Sequence[Measured], choices: Sequence[Choice], data: str
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {
        'command': shlex.join(['mtl-perception', *sys.argv[1:]]),
        'model': bundle.manifest.name,
        'machine': machine.describe(),
        'data': data,
        'choices': [asdict(choice) for choice in choices],
        'measured': [asdict(each) for each in found],
    }
    path.write_text(json.dumps(report, indent=1) + '\n', 'utf-8')
