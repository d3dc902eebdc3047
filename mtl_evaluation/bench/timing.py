# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""`mtl-perception bench`: time the engines of this machine against each other, in one run.

Contestants take turns on every frame, so what else the machine does falls on all of them alike.
Frames are rendered scenes: the time of mask decoding depends on how many class borders a picture
has. Memory and load time are those of a process of its own. `--against` puts other networks beside
the model, each in the same engines.
"""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mtl_evaluation.bench.costs import RUNS, load_cost, peak, throughput
from mtl_evaluation.bench.rivals import EngineOnly, find_rival
from mtl_perception import machine
from mtl_perception.bundle import Bundle, find_bundle
from mtl_perception.engines import (
    ENGINES,
    EngineError,
    EngineInfo,
    Options,
    available,
    is_built,
    open_engine,
)
from mtl_perception.frame import Frame
from mtl_perception.node.parameter_table import BY_NAME
from mtl_perception.pipeline import Pipeline
from mtl_perception.tables import print_table
from mtl_scenes import Drive, DriveConfig

log = logging.getLogger(__name__)

WARM_UP = 3
STAGES = ('letterbox', 'engine', 'decode', 'total')
PERCENTILES = {'min': 0, 'median': 50, 'p90': 90, 'p99': 99}

Contestant = Pipeline | EngineOnly
Timings = Mapping[str, Sequence[Mapping[str, float]]]
"""Milliseconds by contestant, frame and stage."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument(
        'model', nargs='?', default=BY_NAME['model'].default,
        help='bundle folder, or the name of one under models/',
    )  # fmt: skip
    parser.add_argument(
        '--engine', action='append', metavar='NAME[:PRECISION]',
        help=f'repeat to compare; of {list(ENGINES)}, default all that run here, at every '
        f'precision (int8 where it is built)',
    )  # fmt: skip
    parser.add_argument(
        '--against', nargs='+', default=[], metavar='BUNDLE|ONNX',
        help='other networks in the same engines; an ONNX file is timed without decoding',
    )  # fmt: skip
    parser.add_argument(
        '--outputs', type=lambda text: text.split(','), metavar='NAME,...',
        help="also time the model's engines for only these tensors",
    )  # fmt: skip
    parser.add_argument('--device', default='auto', help='as the engines name it')
    parser.add_argument('--threads', type=int, default=0, help='CPU threads, 0: all cores')
    parser.add_argument('--frames', type=int, default=100, help='timed frames an engine')
    parser.add_argument('--size', type=_size, default='1280x720', help='source image, WIDTHxHEIGHT')
    parser.add_argument('--seed', type=int, default=0, help='of the rendered drive')
    parser.add_argument(
        '--batch', type=int, metavar='N', help='also the throughput of engines for N frames per run'
    )
    parser.add_argument(
        '--peak', action='store_true',
        help=f'also the highest rate with fewer than 5 %% drops, confirmed by {RUNS} runs',
    )  # fmt: skip
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the figures there')


def run(args: argparse.Namespace) -> int:
    """Build what is missing, time, print a table; raises BundleError and EngineError."""
    with tempfile.TemporaryDirectory() as folder:  # of bundles made of ONNX files
        rivals = {Path(path).stem: find_rival(path, Path(folder)) for path in args.against}
        report = measure(Bundle.open(find_bundle(args.model)), rivals, args)
    _print(report)
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=1) + '\n', 'utf-8')
    return 0


def measure(
    bundle: Bundle, rivals: Mapping[str, Bundle], args: argparse.Namespace
) -> dict[str, Any]:
    """All figures as plain data; raises EngineError."""
    frames = _frames(args)
    plans = _plans(bundle, rivals, args)
    left_out: dict[str, str] = {}
    costs = {}
    for label, plan in _track(plans.items(), 'loading'):
        try:
            costs[label] = load_cost(*plan)
        except EngineError as error:  # one that cannot be built here keeps none of the others away
            left_out[label] = str(error)
            log.warning('%s is left out: %s', label, error)
    plans = {label: plan for label, plan in plans.items() if label in costs}
    if not plans:
        raise EngineError(f'no engine runs here: {"; ".join(left_out.values())}')
    opened = {label: _open(*plan) for label, plan in plans.items()}
    timings = take_turns(opened, frames, max(1, args.frames))
    figures = timing_figures(opened, timings)
    for label, (_, name, options) in plans.items():
        rows, ours = timings[label], f'{name} {options.precision}'
        mean_ms = float(np.mean([row['total'] for row in rows]))
        figures[label] |= costs[label] | {'frames_per_s': round(1e3 / mean_ms, 2)}
        if label != ours and ours in timings:
            figures[label]['times_engine'] = _paired(rows, timings[ours], 'engine')
            figures[label]['times_total'] = _paired(rows, timings[ours], 'total')
    if args.batch:
        for label, plan in _track(plans.items(), 'batches'):
            figures[label]['batch'] = args.batch
            figures[label]['frames_per_s_batch'] = throughput(
                plan[0], plan[1], replace(plan[2], batch=args.batch), frames
            )
    if args.peak:
        for label, each in _track(opened.items(), 'peak rates'):
            figures[label]['peak'] = peak(each, frames, figures[label]['frames_per_s'])
    for each in opened.values():
        each.close()
    return {
        'command': shlex.join(['mtl-perception', *sys.argv[1:]]),
        'model': bundle.manifest.name,
        'bundle_hash': bundle.hash,
        **({'left_out': left_out} if left_out else {}),
        'against': {name: rival.hash for name, rival in rivals.items()},
        'input': [bundle.manifest.input.height, bundle.manifest.input.width],
        'source': list(args.size),
        'frames': max(1, args.frames),
        'seed': args.seed,
        'machine': machine.describe(),
        'engines': figures,
        'sum_of_others': _sums(plans, timings),
    }


def _size(text: str) -> tuple[int, int]:
    width, cross, height = text.partition('x')
    if not cross or not width.isdecimal() or not height.isdecimal():
        raise argparse.ArgumentTypeError(f'expected WIDTHxHEIGHT like 1280x720, found {text!r}')
    return int(width), int(height)


Plan = tuple[Bundle, str, Options]


def _plans(
    bundle: Bundle, rivals: Mapping[str, Bundle], args: argparse.Namespace
) -> dict[str, Plan]:
    """What is timed, by label: engine by engine the model, a subset of it, and its rivals."""
    plans: dict[str, Plan] = {}
    for name, precision in _engines(bundle, args):
        options = Options(None, args.device, precision, threads=args.threads)
        label = f'{name} {precision}'
        plans[label] = bundle, name, options
        if args.outputs:
            subset = Options(args.outputs, args.device, precision, threads=args.threads)
            plans[f'{label} {",".join(args.outputs)}'] = bundle, name, subset
        for rival, other in rivals.items():
            if available(other)[name].usable:
                plans[f'{label} {rival}'] = other, name, options
    return plans


def _engines(bundle: Bundle, args: argparse.Namespace) -> list[tuple[str, str]]:
    """Engine and precision; int8 only where it is built: how good it is depends on its frames."""
    if args.engine:
        named = [text.partition(':') for text in args.engine]
        return [(name, precision or 'fp32') for name, _, precision in named]
    found = []
    for name, engine in available(bundle).items():
        for precision in engine.precisions:
            options = Options(None, args.device, precision)
            if precision != 'int8' or is_built(bundle, name, options):
                found.append((name, precision))
    if not found:
        raise EngineError(f'no engine runs here: {"; ".join(map(str, available(bundle).values()))}')
    return found


def _open(bundle: Bundle, name: str, options: Options) -> Contestant:
    engine = open_engine(bundle, name, options, build=True)
    whole = options.outputs is None and bundle.manifest.tasks
    return Pipeline(bundle, engine) if whole else EngineOnly(bundle, engine)


def _frames(args: argparse.Namespace) -> list[Frame]:
    width, height = args.size
    drive = Drive(DriveConfig(args.seed, width, height, frames=10, rate_hz=2.0))
    pictures = [drive[i] for i in _track(range(len(drive)), 'rendering')]
    return [Frame(np.ascontiguousarray(each.image[..., ::-1]), 'bgr') for each in pictures]


def _track(things: Collection[Any], text: str) -> Any:
    """The things one by one, with a progress bar on stderr."""
    return track(list(things), text, console=Console(stderr=True), transient=True)


def take_turns(
    pipelines: Mapping[str, Callable[[Frame], Any]], frames: Sequence[Frame], count: int
) -> dict[str, list[dict[str, float]]]:
    """Stage times of every frame by engine; the order of the engines changes with every frame."""
    names = list(pipelines)
    timings: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for step in _track(range(-WARM_UP, count), 'timing'):
        first = step % len(names)
        for name in names[first:] + names[:first]:
            stages = pipelines[name](frames[step % len(frames)]).timings_ms
            if step >= 0:
                timings[name].append(stages | {'total': sum(stages.values())})
    return timings


def timing_figures(pipelines: Mapping[str, Any], timings: Timings) -> dict[str, Any]:
    """Times of each stage by pipeline, and the median ratio to the first one's frame by frame."""
    first = next(iter(timings.values()))
    figures = {}
    for name, rows in timings.items():
        info: EngineInfo = pipelines[name].info
        figures[name] = {
            'version': info.version,
            'device': info.device,
            'precision': info.precision,
            'threads': info.detail.get('threads', ''),
            'paired_ratio_median': _paired(rows, first, 'total'),
            'stages_ms': {
                stage: {
                    label: round(float(np.percentile([row[stage] for row in rows], percent)), 3)
                    for label, percent in PERCENTILES.items()
                }
                for stage in STAGES
                if stage in rows[0]
            },
        }
    return figures


def _paired(
    rows: Sequence[Mapping[str, float]], others: Sequence[Mapping[str, float]], stage: str
) -> float:
    """Median over the frames of this contestant's time by the other's."""
    ratios = [row[stage] / other[stage] for row, other in zip(rows, others, strict=True)]
    return round(float(np.median(ratios)), 3)


def _sums(plans: Mapping[str, Plan], timings: Timings) -> dict[str, float]:
    """By engine: the model's engine time by the sum of all its rivals', median over the frames."""
    found = {}
    for label, (bundle, name, options) in plans.items():
        others = [
            timings[other]
            for other, (rival, engine, asked) in plans.items()
            if rival is not bundle and (engine, asked.precision) == (name, options.precision)
        ]
        if label == f'{name} {options.precision}' and others:
            sums = [
                {'engine': sum(row['engine'] for row in rows)} for rows in zip(*others, strict=True)
            ]
            found[label] = _paired(timings[label], sums, 'engine')
    return found


def _print(report: dict[str, Any]) -> None:
    width, height = report['source']
    table = Table(
        title=f'{report["model"]}, {width}x{height}, {report["frames"]} frames, ms median / p99'
    )
    table.add_column('engine')
    for column in (*STAGES, 'p90', 'frames/s', 'load s', 'MB', '× first', 'engine × ours'):
        table.add_column(column, justify='right')
    for name, found in report['engines'].items():
        stages = found['stages_ms']
        table.add_row(
            name,
            *(
                f'{stages[stage]["median"]:.1f} / {stages[stage]["p99"]:.1f}'
                if stage in stages
                else ''
                for stage in STAGES
            ),
            f'{stages["total"]["p90"]:.1f}',
            f'{found["frames_per_s"]:.1f}',
            f'{found["load_s"]:.1f}',
            f'{found["memory_mb"]:.0f}',
            f'{found["paired_ratio_median"]:.2f}',
            f'{found["times_engine"]:.2f}' if 'times_engine' in found else '',
        )
    # A file or pipe has no width of its own, and rich would cut the columns at 80.
    console = Console(width=None if sys.stdout.isatty() else 160)
    print_table(table, console)
    for name, share in report['sum_of_others'].items():
        console.print(f'{name}: {share:.2f} of the engine time of all others together')
    for name, found in report['engines'].items():
        if 'peak' in found:
            console.print(f'{name}: peak {found["peak"]["peak_hz"]} Hz below 5 % drops')
    machine_ = report['machine']
    console.print(
        f'{machine_["cpu"]}, {machine_["cores"]} cores, load {machine_["load_average"][0]}',
        style='dim', highlight=False,
    )  # fmt: skip
