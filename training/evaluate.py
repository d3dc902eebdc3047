# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Evaluate a bundle, or the weights of a training run, on labelled data.

    python -m training.evaluate models/hydranet_lite0 --output runs/evaluation

Every number goes through the deployed path (letterbox, graph, decode) and
`mtl_evaluation/metrics/metrics.py`. Each source is scored by itself: their labels mean different
things.
What is written is described in docs/evaluation.md: a run (`mtl-perception compare` reads it),
evaluation.json and report.html.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.progress import track

from mtl_evaluation.metrics.metrics import THRESHOLDS
from mtl_evaluation.report.run_report import write_report
from mtl_evaluation.runs.run import Run, RunError
from mtl_evaluation.runs.writer import RunWriter
from mtl_perception import machine
from mtl_perception.bundle import BundleError
from mtl_perception.engines.base import EngineError
from mtl_perception.frame import Frame
from mtl_perception.pipeline import DEFAULT_THRESHOLDS, Pipeline
from training.checkpoint import CheckpointError
from training.command import at_least, check_output, run
from training.config import ConfigError, RunConfig, load_config
from training.data.layout import Layout, open_layouts
from training.data.sample import DatasetError
from training.evaluation.cost import paired_latency
from training.evaluation.model import WEIGHTS, Model, open_model, torch_pipeline
from training.evaluation.official import OfficialWriter
from training.evaluation.results import headline, source_results
from training.evaluation.scoring import chosen, fingerprint, score_layout, scored_tasks
from training.evaluation.sections import evaluation_sections
from training.evaluation.seen import looker
from training.networks.base import MultiTaskNetwork
from training.networks.cost import network_cost

__all__ = ['evaluate_network', 'headline']

NOTE = (
    'Accuracy against the labels of each source; they mean different things, so read a figure by '
    'its source. What is over several sources is a sum over their frames.'
)


def evaluate_network(
    network: MultiTaskNetwork, config: RunConfig, split: str, limit: int | None = None
) -> dict[str, Any]:
    """Figures by source and task of a network in eval mode; `limit` images per source."""
    return evaluate_pipeline(torch_pipeline(network, config), config, split, limit)


def evaluate_pipeline(
    pipeline: Pipeline, config: RunConfig, split: str, limit: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Figures by source and task through any engine, with nothing written."""
    pipeline.thresholds = THRESHOLDS
    return {
        layout.config.name: source_results(
            score_layout(layout, pipeline, _indices(layout, limit, progress)), pipeline.tasks
        )
        for layout in open_layouts(config.data, split)
    }


def evaluate_to(
    output: Path, model: Model, layouts: Sequence[Layout], args: argparse.Namespace
) -> tuple[Run, dict[str, Any]]:
    """Write (or go on with) the run of an evaluation; returns it and the figures by source.

    Raises RunError, also when predictions in official forms would miss the images of a run that was
    interrupted.
    """
    model.pipeline.thresholds = THRESHOLDS
    info = model.pipeline.info
    indices = {layout.config.name: chosen(layout, args.limit) for layout in layouts}
    identity = {
        'model': model.identity,
        'engine': [info.name, info.version, info.device, info.precision],
        'split': args.split,
        'score': THRESHOLDS.score,
        'labels': {
            layout.config.name: fingerprint(layout, indices[layout.config.name])
            for layout in layouts
        },
    }
    sources = [
        {'name': layout.config.name, 'root': layout.config.root, 'kind': 'images'}
        for layout in layouts
    ]
    tasks = scored_tasks(model.pipeline.tasks)
    with RunWriter(output, tasks, identity, sources, args.fresh) as writer:
        for layout in layouts:
            name = layout.config.name
            done = len(writer.part(name))
            if args.official and done:
                raise RunError(
                    f'{output} holds {done} records of {name!r} already, and --official needs all '
                    f'images in one go: begin again (--fresh), or give another folder'
                )
            with ExitStack() as stack:
                answered = None
                if args.official:
                    official = stack.enter_context(OfficialWriter(output / 'official' / name))
                    answered = official.answered
                left = track(indices[name][done:], description=name)
                for record in score_layout(layout, model.pipeline, left, answered):
                    writer.add(record)
        run = writer.finish(
            {
                'created': datetime.now(timezone.utc).isoformat(timespec='seconds'),
                'command': _command(args),
                'machine': machine.describe(),
                'model': {
                    'name': model.name,
                    'bundle_hash': model.identity.get('bundle_hash', ''),
                    'engine': info.name,
                    'engine_version': info.version,
                    'device': info.device,
                    'precision': info.precision,
                },
                'undecodable': [],
                'accuracy_note': NOTE,
            }
        )
    results = {name: source_results(run.records([name]), model.pipeline.tasks) for name in indices}
    return run, results


def main(argv: list[str] | None = None) -> int:
    """Command line; exit code 1 with one sentence when something cannot be read or written."""
    args = _parser().parse_intermixed_args(argv)
    args.argv = sys.argv[1:] if argv is None else argv
    try:
        _evaluate(args)
    except (
        BundleError, CheckpointError, ConfigError, DatasetError, EngineError, RunError, OSError,
    ) as error:  # fmt: skip
        print(f'error: {error}', file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m training.evaluate', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument('model', help='bundle (folder or name) or folder of a training run')
    parser.add_argument('overrides', nargs='*', metavar='key=value', help='of the configuration')
    parser.add_argument('--config', help='YAML with the data sets; default: what trained the model')
    parser.add_argument('--split', help='default: validate_split of the configuration')
    parser.add_argument('--output', type=Path, help='folder for run, evaluation.json, report.html')
    parser.add_argument('--fresh', action='store_true', help='begin again instead of going on')
    parser.add_argument('--official', action='store_true', help='and predictions as BDD100K wants')
    parser.add_argument('--json', type=Path, help='write evaluation.json here too')
    parser.add_argument('--weights', choices=WEIGHTS, help='of a training run; default best')
    parser.add_argument('--engine', default='auto')
    parser.add_argument('--device', default='auto', help='as the engine names it')
    parser.add_argument('--limit', type=at_least(1), help='images per source, spread evenly')
    parser.add_argument(
        '--latency', type=at_least(0), default=20, metavar='FRAMES', help='0 leaves it out'
    )
    parser.add_argument('--baseline', help='model to time beside it; default: its network in torch')
    return parser


def _evaluate(args: argparse.Namespace) -> None:
    if args.official and args.output is None:
        raise ConfigError('--official writes into the folder that --output names: give both')
    check_output('--json', args.json)
    if args.output is not None:
        check_output('--output', args.output / 'evaluation.json')
    model = open_model(args.model, args.engine, args.device, args.weights)
    path = args.config or model.config
    if path is None:
        raise ConfigError(f'{args.model} does not say what it was trained on: give --config')
    config = load_config(path, args.overrides)
    args.split = args.split or config.validate_split
    layouts = open_layouts(config.data, args.split)
    _check_labelled(model, layouts, args)
    baseline = open_model(args.baseline, args.engine, args.device) if args.baseline else None
    if args.output is None:
        results = evaluate_pipeline(model.pipeline, config, args.split, args.limit, progress=True)
    else:
        run, results = evaluate_to(args.output, model, layouts, args)
    record = {
        'command': _command(args),
        **model.identity,
        'model': model.name,
        'engine': model.pipeline.info.name,
        'precision': model.pipeline.info.precision,
        'split': args.split,
        'limit': args.limit,
        'seed': config.seed,
        'data': [{'name': layout.config.name, 'root': layout.config.root} for layout in layouts],
        'environment': machine.describe(),
        'cost': _cost(model),
        'latency': _latency(model, baseline, config, layouts[0], args),
        'results': results,
    }
    text = json.dumps(record, indent=1) + '\n'
    for file in filter(None, (args.output and args.output / 'evaluation.json', args.json)):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, 'utf-8')
    for name, value in headline(results).items():
        print(f'{name:40} {value:.4f}')
    if args.output is not None:
        look = looker(layouts, model.pipeline)
        print(f'report: {write_report(run, look, more=evaluation_sections(record))}')


def _check_labelled(model: Model, layouts: Sequence[Layout], args: argparse.Namespace) -> None:
    """Raise ConfigError where nothing could be measured, and nothing else is asked for."""
    tasks = [task.name for task in model.pipeline.tasks]
    if args.output is None and not any(layout.labelled() & {*tasks} for layout in layouts):
        raise ConfigError(
            f'nothing can be measured: the split {args.split!r} of '
            f'{[layout.config.name for layout in layouts]} labels none of {tasks}; '
            f'name another --split or --config, or --output for pictures and predictions alone'
        )


def _indices(layout: Layout, limit: int | None, progress: bool) -> Any:
    found = chosen(layout, limit)
    return track(found, description=layout.config.name) if progress else found


def _cost(model: Model) -> dict[str, Any] | None:
    if model.network is None:
        return None
    spec = model.pipeline.bundle.manifest.input
    return network_cost(model.network, spec.height, spec.width)


def _latency(
    model: Model,
    baseline: Model | None,
    config: RunConfig,
    layout: Layout,
    args: argparse.Namespace,
) -> dict[str, Any] | None:
    """Beside the baseline, or the same network in torch, or alone; at the node's own thresholds."""
    if not args.latency:
        return None
    pipelines: dict[str, Pipeline] = {}
    if baseline is not None:
        pipelines['baseline'] = baseline.pipeline
    elif model.network is not None and model.pipeline.info.name != 'torch':
        pipelines['torch'] = torch_pipeline(model.network, config)
    pipelines['evaluated'] = model.pipeline
    for pipeline in pipelines.values():
        pipeline.thresholds = DEFAULT_THRESHOLDS
    frames = [Frame(layout.load(index).image, 'rgb') for index in chosen(layout, 10)]
    return paired_latency(pipelines, frames, args.latency)


def _command(args: argparse.Namespace) -> str:
    return shlex.join(['python', '-m', 'training.evaluate', *args.argv])


if __name__ == '__main__':
    sys.exit(run(main))
