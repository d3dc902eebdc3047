"""`mtl-perception bench`: time the engines of this machine against each other, in one run.

Engines take turns on every frame, so what else the machine does falls on all of them alike. Frames
are rendered scenes: the time of mask decoding depends on how many class borders a picture has.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mtl_perception import machine
from mtl_perception.bundle import Bundle, find_bundle
from mtl_perception.engines import ENGINES, EngineError, available, open_engine
from mtl_perception.parameters import BY_NAME
from mtl_perception.pipeline import Frame, Pipeline
from mtl_perception.scenes import Drive, DriveConfig

WARM_UP = 3
STAGES = ('letterbox', 'engine', 'decode', 'total')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument(
        'model', nargs='?', default=BY_NAME['model'].default,
        help='bundle folder, or the name of one under models/',
    )  # fmt: skip
    parser.add_argument(
        '--engine', action='append', metavar='NAME[:PRECISION]',
        help=f'repeat to compare; of {list(ENGINES)}, default all that run here, at fp32',
    )  # fmt: skip
    parser.add_argument('--device', default='auto', help='as the engines name it')
    parser.add_argument('--threads', type=int, default=0, help='CPU threads, 0: all cores')
    parser.add_argument('--frames', type=int, default=100, help='timed frames an engine')
    parser.add_argument('--size', type=_size, default='1280x720', help='source image, WIDTHxHEIGHT')
    parser.add_argument('--seed', type=int, default=0, help='of the rendered drive')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the figures there')


def run(args: argparse.Namespace) -> int:
    """Build what is missing, time, print a table; raises BundleError and EngineError."""
    bundle = Bundle.open(find_bundle(args.model))
    pipelines = _open(bundle, args)
    frames = _frames(args)
    timings = take_turns(pipelines, frames, max(1, args.frames))
    report = {
        'command': shlex.join(['mtl-perception', *sys.argv[1:]]),
        'model': bundle.manifest.name,
        'bundle_hash': bundle.hash,
        'input': [bundle.manifest.input.height, bundle.manifest.input.width],
        'source': list(args.size),
        'frames': max(1, args.frames),
        'seed': args.seed,
        'machine': machine.describe(),
        'engines': timing_figures(pipelines, timings),
    }
    _print(report)
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=1) + '\n', 'utf-8')
    for pipeline in pipelines.values():
        pipeline.close()
    return 0


def _size(text: str) -> tuple[int, int]:
    width, cross, height = text.partition('x')
    if not cross or not width.isdecimal() or not height.isdecimal():
        raise argparse.ArgumentTypeError(f'expected WIDTHxHEIGHT like 1280x720, found {text!r}')
    return int(width), int(height)


def _open(bundle: Bundle, args: argparse.Namespace) -> dict[str, Pipeline]:
    names = args.engine or [name for name, found in available().items() if found.usable]
    if not names:
        raise EngineError(f'no engine runs here: {"; ".join(map(str, available().values()))}')
    pipelines = {}
    for name in names:
        engine, _, precision = name.partition(':')
        opened = open_engine(
            bundle, engine, None, args.device, precision or 'auto', build=True, threads=args.threads
        )
        pipelines[f'{opened.info.name} {opened.info.precision}'] = Pipeline(bundle, opened)
    return pipelines


def _frames(args: argparse.Namespace) -> list[Frame]:
    width, height = args.size
    drive = Drive(DriveConfig(args.seed, width, height, frames=10, rate_hz=2.0))
    steps = track(range(len(drive)), 'rendering', console=Console(stderr=True), transient=True)
    return [Frame(drive[i].image) for i in steps]


def take_turns(
    pipelines: dict[str, Pipeline], frames: Sequence[Frame], count: int
) -> dict[str, list[dict[str, float]]]:
    """Stage times of every frame by engine; the order of the engines changes with every frame."""
    names = list(pipelines)
    timings: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    steps = range(-WARM_UP, count)
    for step in track(steps, 'timing', console=Console(stderr=True), transient=True):
        first = step % len(names)
        for name in names[first:] + names[:first]:
            stages = pipelines[name](frames[step % len(frames)]).timings_ms
            if step >= 0:
                timings[name].append(stages | {'total': sum(stages.values())})
    return timings


def timing_figures(
    pipelines: dict[str, Pipeline], timings: dict[str, list[dict[str, float]]]
) -> dict[str, Any]:
    """Times of each stage by pipeline, and the median ratio to the first one's frame by frame."""
    first = next(iter(timings.values()))
    figures = {}
    for name, rows in timings.items():
        ratios = [row['total'] / other['total'] for row, other in zip(rows, first, strict=True)]
        info = pipelines[name].info
        figures[name] = {
            'version': info.version,
            'device': info.device,
            'precision': info.precision,
            'threads': info.detail.get('threads', ''),
            'paired_ratio_median': round(float(np.median(ratios)), 3),
            'stages_ms': {
                stage: {
                    label: round(float(np.percentile([row[stage] for row in rows], percent)), 3)
                    for label, percent in (('min', 0), ('median', 50), ('p90', 90), ('p99', 99))
                }
                for stage in STAGES
            },
        }
    return figures


def _print(report: dict[str, Any]) -> None:
    width, height = report['source']
    table = Table(
        title=f'{report["model"]}, {width}x{height}, {report["frames"]} frames, ms median / p99'
    )
    table.add_column('engine', no_wrap=True)
    for stage in STAGES:
        table.add_column(stage, justify='right')
    table.add_column('p90', justify='right')
    table.add_column('× first', justify='right')
    for name, figures in report['engines'].items():
        stages = figures['stages_ms']
        table.add_row(
            name,
            *(f'{stages[stage]["median"]:.1f} / {stages[stage]["p99"]:.1f}' for stage in STAGES),
            f'{stages["total"]["p90"]:.1f}',
            f'{figures["paired_ratio_median"]:.2f}',
        )
    # A file or pipe has no width of its own, and rich would cut the columns at 80.
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    machine_ = report['machine']
    console.print(
        f'{machine_["cpu"]}, {machine_["cores"]} cores, load {machine_["load_average"][0]}',
        style='dim', highlight=False,
    )  # fmt: skip
