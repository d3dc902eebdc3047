# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""`mtl-perception compile`: build the engines of a model, and check what they lose.

Without `--check` and `--rate` one engine is built and run once. With `--rate` the input size that
keeps a frame rate is chosen (`rate_search.py`). With `--check` every engine and precision of this
machine (or those named) is built and measured against the fp32 reference; see
`mtl_evaluation/bench/accuracy.py`.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from mtl_perception import extensions
from mtl_perception.bundle import Bundle, find_bundle
from mtl_perception.engine_pool import open_batch
from mtl_perception.engines import (
    ENGINES,
    Calibration,
    EngineError,
    Options,
    choose,
    compile_engine,
    is_built,
    open_engine,
)
from mtl_perception.node.parameter_table import BY_NAME

PRECISIONS = BY_NAME['precision'].choices


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument(
        'model', nargs='?', default=BY_NAME['model'].default,
        help='bundle folder, or the name of one under models/',
    )  # fmt: skip
    parser.add_argument('--engine', default='auto', choices=['auto', *ENGINES])
    parser.add_argument('--device', default='auto', help='as the engine names it')
    parser.add_argument('--precision', default='auto', choices=PRECISIONS)
    parser.add_argument(
        '--batch', type=int, default=1,
        help='frames per run, for as many cameras; whether that is faster is measured and kept',
    )  # fmt: skip
    parser.add_argument(
        '--outputs', type=lambda text: text.split(','), metavar='NAME,...',
        help='only these tensors of the graph (all)',
    )  # fmt: skip
    parser.add_argument('--force', action='store_true', help='build again what is there already')
    parser.add_argument(
        '--calibrate', type=Path, metavar='FOLDER',
        help='images that int8 takes its ranges from: a folder, or a data set in BDD100K layout, '
        'of which the train split is taken (generated scenes)',
    )  # fmt: skip
    parser.add_argument(
        '--check', type=Path, metavar='FOLDER',
        help='measure every engine and precision against fp32 on labelled images: a folder with '
        'labels/ beside it, or a data set in BDD100K layout, of which the val split is taken',
    )  # fmt: skip
    parser.add_argument(
        '--frames', type=int, default=200, help='at most so many images of --check and --data'
    )
    parser.add_argument(
        '--json', type=Path, metavar='FILE', help='write what --check or --rate found there'
    )
    parser.add_argument(
        '--size', type=_size, metavar='HEIGHTxWIDTH',
        help="input size of the engine (the bundle's)",
    )  # fmt: skip
    rate = parser.add_argument_group(
        'the input size for a frame rate',
        'measures sizes, precisions, engines and threads in turn, prints them, and stores the most '
        'accurate that keeps the rate, for the node parameter target_rate_hz',
    )
    rate.add_argument(
        '--rate', type=_rates, metavar='HZ,...', help='frames per second to keep, one choice each'
    )
    rate.add_argument(
        '--headroom', type=float, default=0.25, metavar='SHARE',
        help='of the period that the slowest hundredth of the frames must leave free, for '
        'receiving, publishing and other load',
    )  # fmt: skip
    rate.add_argument(
        '--data', type=Path, metavar='FOLDER',
        help='labelled images, as for --check: measures the accuracy of each as well',
    )  # fmt: skip
    rate.add_argument(
        '--camera', type=_size, default=(1280, 720), metavar='WIDTHxHEIGHT',
        help='of the frames that are timed, and the aspect of the sizes',
    )  # fmt: skip
    rate.add_argument(
        '--sizes', type=lambda text: [_size(each) for each in text.split(',')],
        metavar='HEIGHTxWIDTH,...', help='only these input sizes (192x320 to 544x960)',
    )  # fmt: skip
    rate.add_argument('--threads', type=int, default=0, help='only this number (all, half)')
    rate.add_argument('--timed', type=int, default=50, help='timed frames per size')


def _rates(text: str) -> list[float]:
    try:
        return [float(each) for each in text.split(',')]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'expected rates in Hz like 10,15,30, found {text!r}'
        ) from None


def _size(text: str) -> tuple[int, int]:
    first, cross, second = text.partition('x')
    if not cross or not first.isdecimal() or not second.isdecimal() or '0' in (first, second):
        raise argparse.ArgumentTypeError(f'expected two sizes like 384x640, found {text!r}')
    return int(first), int(second)


def run(args: argparse.Namespace) -> int:
    """Build, and check or run once; raises BundleError, EngineError and LabelError."""
    bundle = Bundle.open(find_bundle(args.model))
    options = Options(args.outputs, args.device, args.precision, args.batch)
    if args.rate is not None:
        return _keep_rate(bundle, args)
    if args.size is not None:
        bundle = bundle.at_size(*args.size)
    if args.check is not None:
        check = extensions.load(extensions.HOOKS, 'check', '`mtl-perception compile --check`')
        return int(check(bundle, options, args))
    name, options = choose(bundle, args.engine, options)
    if args.force or not is_built(bundle, name, options):
        build(bundle, name, options, args.calibrate)
    engine = open_engine(bundle, name, options)
    spec = bundle.manifest.input
    batch = np.zeros((args.batch, spec.height, spec.width, 3), np.uint8)
    engine.run(batch)
    started = time.perf_counter()
    engine.run(batch)
    elapsed_ms = (time.perf_counter() - started) * 1e3
    info = engine.info
    print(
        f'{bundle.manifest.name}: {info.name} {info.version}, {info.precision} on {info.device}, '
        f'batch {info.batch}, ran once in {elapsed_ms:.1f} ms\n{info.detail.get("file", "")}'
    )
    if args.batch > 1:
        single = replace(options, batch=1)
        if not is_built(bundle, name, single):
            build(bundle, name, single, args.calibrate)
        alone = open_engine(bundle, name, single)
        found = open_batch(bundle, alone, options, build=False)  # says whether the node will use it
        alone.close()
        if found is not None:
            found.pipeline.close()
    engine.close()
    return 0


def _keep_rate(bundle: Bundle, args: argparse.Namespace) -> int:
    from mtl_perception import rate_search

    if args.outputs or args.batch > 1 or args.size or args.check:
        raise EngineError(
            '--rate measures the whole graph, one frame per run, at every size; leave out '
            '--outputs, --batch, --size and --check'
        )
    return rate_search.run(bundle, args)


def build(bundle: Bundle, name: str, options: Options, frames: Path | None) -> None:
    """Build one engine, showing that it goes on; raises EngineError."""
    found: Calibration | None = None
    with Console(stderr=True).status(f'building {name} {options.precision} ...'):
        if options.precision == 'int8':
            calibration = extensions.load(extensions.HOOKS, 'calibration', 'calibration of int8')
            found = calibration(bundle, frames)
        compile_engine(bundle, name, replace(options, threads=0), found)
