# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Which engines keep the accuracy of the fp32 reference, on labelled images, and how fast they are.

`mtl-perception compile MODEL --check FOLDER`. Every engine answers every image, one after the
other, through the deployed pipeline; the figures are replay's own: average precision, mIoU, and
what else a kind of tasks is held to. An engine that loses more than its limit is not offered: the
verdict is stored next to it in the cache, where `auto` reads it, with its speed relative to the
reference in this run.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mtl_evaluation import kinds
from mtl_evaluation.bench.frames import images, read_bgr
from mtl_evaluation.metrics.metrics import THRESHOLDS
from mtl_evaluation.scores import Scores
from mtl_evaluation.truth.truth import Truth
from mtl_perception import compile as building
from mtl_perception import machine
from mtl_perception.bundle import Bundle
from mtl_perception.engines import (
    ENGINES,
    EngineError,
    Options,
    available,
    cache,
    engine_class,
    is_built,
    open_engine,
)
from mtl_perception.frame import Frame
from mtl_perception.pipeline import Pipeline
from mtl_perception.tables import print_table

LOSS_LIMITS = {'fp32': 0.5, 'bf16': 0.5, 'fp16': 0.5, 'int8': 1.0}
"""Points (hundredths) of AP, mIoU and other `kinds.Kind.checked` that a precision may lose."""
REFERENCES = ('torch_export', 'onnxruntime', 'openvino')
"""The fp32 engine that others are measured against: the first that is there. torch without a
compiler is the definition; on the same frames ONNX Runtime answers as it does (training.parity)."""


@dataclass
class Contestant:
    """One engine at one precision, and what was found. failure: why it could not be measured."""

    name: str
    options: Options
    scores: Any
    failure: str = ''
    engine_ms: list[float] = field(default_factory=list)

    @property
    def label(self) -> str:
        """As tables name it."""
        return f'{self.name} {self.options.precision}'


def run(bundle: Bundle, options: Options, args: argparse.Namespace) -> int:
    """Build what is missing, measure, keep the verdicts; 1 when an engine loses too much."""
    if options.outputs or options.batch > 1:
        raise EngineError(
            '--check measures the whole graph, one frame a run, and its verdict holds for subsets '
            'and batches too; leave out --outputs and --batch'
        )
    found = images(args.check, 'val', args.frames)
    if not any(measurable(bundle, found.labels.truth(path.name)) for path in found.paths):
        raise EngineError(
            f'{args.check}: none of {len(found.paths)} images is labelled for a task of '
            f'{bundle.manifest.name}; the check needs labels beside the images (docs/data.md)'
        )
    contestants = [
        Contestant(name, asked, Scores(bundle.manifest.tasks))
        for name, asked in _contestants(bundle, args.engine, options)
    ]
    pipelines: dict[str, Pipeline] = {}
    for each in contestants:
        try:
            if args.force or not is_built(bundle, each.name, each.options):
                building.build(bundle, each.name, each.options, args.calibrate)
            engine = open_engine(bundle, each.name, each.options)
            pipelines[each.label] = Pipeline(bundle, engine, THRESHOLDS)
        except EngineError as error:
            each.failure = str(error)
    reference = contestants[0]
    if reference.failure:
        raise EngineError(f'the fp32 reference cannot be opened: {reference.failure}')
    paths = track(found.paths, 'checking', console=Console(stderr=True), transient=True)
    for index, path in enumerate(paths):
        pixels = read_bgr(path)
        frame, truth = Frame(pixels, 'bgr'), found.labels.truth(path.name)
        running = [each for each in contestants if not each.failure]
        turn = index % len(running)
        for each in running[turn:] + running[:turn]:
            try:
                result = pipelines[each.label](frame)
            except EngineError as error:
                each.failure = f'{path.name}: {error}'
                continue
            each.engine_ms.append(result.timings_ms['engine'])
            each.scores.update(path.name, result, truth, pixels.shape[1::-1])
        if reference.failure:
            raise EngineError(f'the fp32 reference {reference.label} fails: {reference.failure}')
    reference_scores = points(reference.scores.result())
    verdicts = {each.label: verdict(each, reference, found.description) for each in contestants}
    report = {
        'command': shlex.join(['mtl-perception', *sys.argv[1:]]),
        'model': bundle.manifest.name,
        'bundle_hash': bundle.hash,
        'data': found.description,
        'frames': len(found.paths),
        'calibration': str(args.calibrate or 'generated scenes'),
        'reference': reference.label,
        'limits_points': LOSS_LIMITS,
        'machine': machine.describe(),
        'reference_scores': reference_scores,
        'engines': verdicts,
    }
    for each in contestants:
        if each.label not in pipelines:
            continue
        key = engine_class(each.name).plan(bundle, each.options).key
        cache.keep(key, cache.VERDICT_FILE, verdicts[each.label])
    for pipeline in pipelines.values():
        pipeline.close()
    _print(report)
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=1) + '\n', 'utf-8')
    return 0 if all(each['passed'] for each in verdicts.values()) else 1


def measurable(bundle: Bundle, truth: Truth) -> bool:
    """Whether an image is labelled for a task of the bundle that engines are held to."""
    return any(
        kinds.of(task).checked and kinds.of(task).truth(truth, task) is not None
        for task in bundle.manifest.tasks
    )


def verdict(each: Contestant, reference: Contestant, data: str) -> dict[str, Any]:
    """What is kept of one engine: `passed`, why in `text`, losses in points, speed."""
    if each.failure:
        return {'passed': False, 'text': each.failure}
    limit = LOSS_LIMITS[each.options.precision]
    scores, wanted = points(each.scores.result()), points(reference.scores.result())
    losses = {name: round(wanted[name] - scores[name], 3) for name in wanted}
    worst = max(losses, key=lambda name: losses[name], default='')
    ratios = np.array(reference.engine_ms) / np.array(each.engine_ms)
    return {
        'passed': bool(losses) and losses[worst] <= limit,
        'text': f'worst {worst} {losses[worst]:+.2f} of {limit} points' if worst else 'no labels',
        'losses_points': losses,
        'limit_points': limit,
        'speed': round(float(np.median(ratios)), 3),
        'reference': reference.label,
        'data': data,
    }


def _contestants(bundle: Bundle, name: str, options: Options) -> list[tuple[str, Options]]:
    """The reference first, then what was asked for: by default all that this machine can run."""
    usable = {each: found for each, found in available(bundle).items() if found.usable}
    if name != 'auto':
        engine_class(name).plan(bundle, options)
    names = list(ENGINES) if name == 'auto' else [name]
    found: list[tuple[str, Options]] = []
    for each in REFERENCES:
        if each in usable:
            found.append((each, replace(options, device='cpu', precision='fp32')))
            break
    for each in names:
        if each not in usable:
            continue
        engine = engine_class(each)
        able = engine.precisions(engine.device(options.device))
        wanted = able if options.precision == 'auto' else [options.precision]
        found += [(each, replace(options, precision=p)) for p in wanted if p in able]
    if not found:
        raise EngineError('no engine can run here; `mtl-perception doctor` says why')
    name, asked = found[0]
    return [found[0], *(e for e in found[1:] if (e[0], e[1].precision) != (name, asked.precision))]


def points(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The figure that engines are held to, of every task with labels, in hundredths."""
    found = {}
    for task, values in scores.items():
        figure = kinds.named(values['kind']).checked
        if values.get(figure) is not None:
            found[f'{task} {figure}'] = 100 * values[figure]
    return found


def _print(report: Mapping[str, Any]) -> None:
    names = list(report['reference_scores'])
    table = Table(
        title=f'{report["model"]}: points lost against {report["reference"]} on {report["data"]}',
        caption='reference: '
        + ', '.join(f'{name} {value:.2f}' for name, value in report['reference_scores'].items()),
    )
    table.add_column('engine')
    for name in (*names, 'limit', '× reference'):
        table.add_column(name, justify='right')
    table.add_column('verdict')
    for name, found in report['engines'].items():
        if 'losses_points' not in found:
            table.add_row(name, *[''] * len(names), '', '', found['text'], style='dim')
            continue
        table.add_row(
            name,
            *(f'{found["losses_points"][each]:+.2f}' for each in names),
            f'{found["limit_points"]}',
            f'{found["speed"]:.2f}',
            'offered' if found['passed'] else 'not offered: ' + found['text'],
            style='' if found['passed'] else 'red',
        )
    print_table(table, Console(width=None if sys.stdout.isatty() else 140))
