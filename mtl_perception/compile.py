"""`mtl-perception compile`: build the engine of a model for this machine, and run it once."""

from __future__ import annotations

import argparse
import time

import numpy as np

from mtl_perception.bundle import Bundle, find_bundle
from mtl_perception.engines import ENGINES, choose, compile_engine, is_built, open_engine
from mtl_perception.parameters import BY_NAME

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
    parser.add_argument('--batch', type=int, default=1, help='frames a run')
    parser.add_argument('--force', action='store_true', help='build again what is there already')


def run(args: argparse.Namespace) -> int:
    """Build, open, run once, say what is in force; raises BundleError and EngineError."""
    bundle = Bundle.open(find_bundle(args.model))
    arguments = (None, args.device, args.precision, args.batch)
    name = args.engine if args.engine != 'auto' else choose(bundle, arguments)
    if args.force or not is_built(bundle, name, *arguments):
        compile_engine(bundle, name, *arguments)
    engine = open_engine(bundle, name, *arguments)
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
    engine.close()
    return 0
