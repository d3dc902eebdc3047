# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Count the faults of the boxes that a model publishes, by source.

    python -m training.evaluation.box_faults models/hydranet_lite0 --every 4 --json faults.json

MODEL is a bundle or a training run; the sources are those of --data, or those that it was trained
on. What is counted is what the node publishes at its default thresholds, against people's labels of
the split; `mtl_evaluation/metrics/box_faults.py` defines the faults.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.progress import track
from rich.table import Table

from mtl_evaluation.metrics.box_faults import KINDS, box_faults
from mtl_perception import machine
from mtl_perception.bundle import BundleError
from mtl_perception.engines.base import EngineError
from mtl_perception.frame import Frame
from mtl_perception.pipeline import Pipeline, Thresholds
from mtl_perception.tables import print_table
from mtl_perception.tasks import DETECTION
from training.checkpoint import CheckpointError
from training.command import at_least, run
from training.config import ConfigError, load_config
from training.data.box_classes import scored
from training.data.layout import Layout, open_layouts
from training.data.sample import DatasetError
from training.evaluation.model import WEIGHTS, open_model


def count(layouts: Sequence[Layout], pipeline: Pipeline, every: int) -> dict[str, Counter[str]]:
    """Faults by source, of every n-th image that is labelled with boxes; with `images`."""
    results: dict[str, Counter[str]] = {}
    for layout in layouts:
        rows = [i for i in range(len(layout)) if DETECTION.name in layout.tasks(i)][::every]
        counts: Counter[str] = Counter()
        for index in track(rows, description=layout.config.name):
            sample = layout.load(index, tasks=[DETECTION.name])
            result = pipeline(Frame(sample.image), [DETECTION.name])
            truth = scored(sample.boxes[DETECTION.name], DETECTION)
            found = result.detections[DETECTION.name]
            counts.update(box_faults(found, truth.xyxy, truth.labels, truth.ignored, truth.covered))
        if rows:
            results[layout.config.name] = Counter({'images': len(rows), **counts})
    return results


def table(results: dict[str, Counter[str]]) -> Table:
    """A row per source."""
    shown = Table(title='published boxes')
    for heading in ('source', 'images', *KINDS):
        shown.add_column(heading, justify='left' if heading == 'source' else 'right')
    for source, counts in results.items():
        shown.add_row(source, *(str(counts[kind]) for kind in ('images', *KINDS)))
    return shown


def main(argv: list[str] | None = None) -> int:
    """Command line; exit code 1 with one sentence on an error."""
    parser = argparse.ArgumentParser(
        prog='python -m training.evaluation.box_faults', description=__doc__
    )
    parser.add_argument('model', help='bundle, or folder of a training run')
    parser.add_argument('--data', help='training configuration with the sources')
    parser.add_argument('--split', default='val')
    parser.add_argument('--every', type=at_least(1), default=1, help='every n-th image (default 1)')
    parser.add_argument('--score', type=float, help="score threshold (default the node's)")
    parser.add_argument('--weights', choices=WEIGHTS, help='of a training run')
    parser.add_argument('--engine', default='auto')
    parser.add_argument('--json', type=Path, help='write the counts here')
    args = parser.parse_args(argv, argparse.Namespace(argv=sys.argv[1:] if argv is None else argv))
    if args.every < 1:
        parser.error(f'--every {args.every}: expected 1 or more')
    try:
        thresholds = Thresholds() if args.score is None else Thresholds(score=args.score)
        model = open_model(args.model, args.engine, weights=args.weights)
        if DETECTION.name not in [task.name for task in model.pipeline.tasks]:
            raise BundleError(f'{args.model} has no task {DETECTION.name!r}, so it has no boxes')
        if (data := args.data or model.config) is None:
            raise ConfigError(f'{args.model} does not say what it was trained on: give --data')
        model.pipeline.thresholds = thresholds
        layouts = open_layouts(load_config(data).data, args.split)
        results = count(layouts, model.pipeline, args.every)
    except (
        BundleError, CheckpointError, ConfigError, DatasetError, EngineError, ValueError,
    ) as error:  # fmt: skip
        print(f'error: {error}', file=sys.stderr)
        return 1
    print_table(table(results))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(
            json.dumps(_record(args, model.identity, thresholds, results), indent=1) + '\n'
        )
    return 0


def _record(
    args: argparse.Namespace,
    identity: dict[str, Any],
    thresholds: Thresholds,
    results: dict[str, Counter[str]],
) -> dict[str, Any]:
    """What the JSON says."""
    return {
        'command': shlex.join(['python', '-m', 'training.evaluation.box_faults', *args.argv]),
        'model': identity,
        'data': str(args.data or args.model),
        'split': args.split,
        'every': args.every,
        'thresholds': vars(thresholds),
        'machine': machine.describe(),
        'results': {source: dict(counts) for source, counts in results.items()},
    }


if __name__ == '__main__':
    sys.exit(run(main))
