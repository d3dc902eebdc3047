"""`mtl-perception replay`: every frame of a bag through the pipeline, in order, without ROS.

Nothing depends on time here: the same bag, model and engine give the same answers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import sys
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from mtl_perception import machine
from mtl_perception.decode import Thresholds
from mtl_perception.image_codec import ImageError
from mtl_perception.pipeline import Pipeline, Result
from mtl_perception.replay.accuracy import accuracy_rows, note
from mtl_perception.replay.bag import DriveBag
from mtl_perception.replay.cdr import BagError
from mtl_perception.replay.sources import generated_config
from mtl_perception.replay.truth import Scores

SCORE_THRESHOLD = 0.05
"""Low, so that average precision sees the curve that the node's own threshold would cut off."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument('bag', type=Path, help='a rosbag2 folder, or a .mcap or .db3 file')
    parser.add_argument('--model', default='hydranet_b0_demo', help='bundle folder or name')
    parser.add_argument('--engine', default='auto', help='what runs the network')
    parser.add_argument('--device', default='auto', help='device of the engine')
    parser.add_argument('--precision', default='auto', help='precision of the engine')
    parser.add_argument('--build', action='store_true', help='build the engine if there is none')
    parser.add_argument('--topic', help='image topic, where a bag has several')
    parser.add_argument(
        '--score', type=float, default=SCORE_THRESHOLD, help='lowest detection score that counts'
    )
    parser.add_argument('--json', type=Path, help='write the results to this file')


def run(args: argparse.Namespace) -> int:
    """Replay, print the table, write the JSON; returns the exit code."""
    console = Console(stderr=True)
    with DriveBag(args.bag, args.topic) as bag:
        thresholds = Thresholds(args.score)
        with Pipeline.open(
            args.model, args.engine, args.device, args.precision, args.build, thresholds
        ) as pipeline:
            results = replay(bag, pipeline, console)
    _print(results)
    if args.json is not None:
        text = json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False)
        try:
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(text + '\n', 'utf-8')
        except OSError as error:
            raise BagError(f'cannot write the results to {args.json}: {error}') from error
    return 0 if results['frames']['processed'] else 1


def replay(bag: DriveBag, pipeline: Pipeline, console: Console) -> dict[str, Any]:
    """Run every frame of the bag; returns what is written as JSON.

    Raises BagError on a damaged bag or a truth that does not fit the model's classes. A frame whose
    image cannot be decoded is counted and named under `undecodable`.
    """
    scores = Scores(pipeline.tasks)
    timings: dict[str, list[float]] = defaultdict(list)
    undecodable: list[str] = []
    labelled = processed = 0
    digest = hashlib.sha256()
    columns = (TextColumn('replaying'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task('', total=bag.frames_total)
        for frame in bag.frames():
            progress.advance(task)
            try:
                image = frame.image()
            except ImageError as error:
                undecodable.append(f'frame {frame.index}: {error}')
                continue
            result = pipeline(image)
            for part in _bytes_of(frame.stamp_ns, result):
                digest.update(part)
            for name, value in result.timings_ms.items():
                timings[name].append(value)
            truth = frame.truth()
            labelled += bool(truth)
            processed += 1
            height, width = image.pixels.shape[:2]
            try:
                scores.update(f'{frame.index:09d}', result, truth, (width, height))
            except ValueError as error:
                raise BagError(f'{bag.path}, frame {frame.index}: {error}') from error
    accuracy = scores.result()
    kind = 'generated' if generated_config(bag.path) else 'bag'
    info = pipeline.info
    return {
        'schema': 1,
        'created': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        'command': shlex.join(['mtl-perception', *sys.argv[1:]]),
        'machine': machine.describe(),
        'bag': str(bag.path),
        'image_topic': bag.image.topic,
        'model': {
            'name': pipeline.bundle.manifest.name,
            'bundle_hash': pipeline.bundle.hash,
            'engine': info.name,
            'engine_version': info.version,
            'device': info.device,
            'precision': info.precision,
        },
        'frames': {
            'processed': processed,
            'labelled': labelled,
            'undecodable': len(undecodable),
            'repeated_stamps': bag.repeated_stamps,
            'unmatched_truth': bag.unmatched_truth,
        },
        'undecodable': undecodable,
        'answers_sha256': digest.hexdigest(),
        'stages_ms': {
            name: {f'p{rank}': float(np.percentile(values, rank)) for rank in (50, 99)}
            for name, values in timings.items()
        },
        'accuracy': accuracy,
        'accuracy_note': note(kind, accuracy),
    }


def _bytes_of(stamp_ns: int, result: Result) -> Iterator[bytes]:
    """Everything that was answered about a frame, in a fixed order: equal bytes, equal answers."""
    yield stamp_ns.to_bytes(8, 'little')
    for _, found in sorted(result.detections.items()):
        for array in (found.boxes, found.scores, found.labels):
            yield np.ascontiguousarray(array).tobytes()
    for arrays in (result.masks, result.probabilities):
        for _, values in sorted(arrays.items()):
            yield np.ascontiguousarray(values).tobytes()


def _print(results: dict[str, Any]) -> None:
    console = Console()
    frames = results['frames']
    counts = ', '.join(f'{value} {name.replace("_", " ")}' for name, value in frames.items())
    console.print(f'{results["bag"]}: {counts}', highlight=False)
    table = Table('task', 'metric', 'value', 'frames')
    for task, metric, value, count in accuracy_rows(results['accuracy']):
        table.add_row(task, metric, value, str(count) if count else '-')
    console.print(table)
    console.print(results['accuracy_note'], style='italic')
    console.print(f'answers sha256 {results["answers_sha256"]}', highlight=False)
