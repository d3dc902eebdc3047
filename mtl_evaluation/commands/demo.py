# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""`mtl-perception demo`: a drive as a real bag through the live node, and a report to look at."""

from __future__ import annotations

import argparse
import json
import logging
import math
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mtl_evaluation import progress
from mtl_evaluation.accuracy import accuracy_rows, note
from mtl_evaluation.bags.generated import GeneratedDrive
from mtl_evaluation.bags.guarded import GuardedBag
from mtl_evaluation.bags.outputs import joined, recorded_results
from mtl_evaluation.bags.sources import (
    ImageFolder,
    Source,
    generated_config,
    write_drive,
)
from mtl_evaluation.bags.sources import (
    Video as VideoFile,
)
from mtl_evaluation.live.node_process import need_ros
from mtl_evaluation.live.timing import (
    LiveRun,
    Pace,
    engine_in_force,
    measured,
    rate_hz,
    summary,
)
from mtl_evaluation.messages.cdr import BagError
from mtl_evaluation.pictures.frames import placed, rgb_of, shown
from mtl_evaluation.pictures.video import Video
from mtl_evaluation.report.live_report import write_live_report
from mtl_evaluation.report.pictures import Example, panels, write_png
from mtl_evaluation.scores import Scores
from mtl_perception import machine, overlay
from mtl_perception.bundle import Bundle, find_bundle
from mtl_perception.frame import Result
from mtl_perception.image_codec import ImageError
from mtl_perception.pipeline import Pipeline
from mtl_perception.tables import print_table

log = logging.getLogger(__name__)

EXAMPLES = 6
PNG_EXAMPLES = (0, 3)
"""Which of the examples are also written as PNG files."""


class DemoError(Exception):
    """A demo that cannot be made: what is missing, next command."""


@dataclass
class Drive:
    """The bag that is played and what is said about it. kind: generated, images, video or bag."""

    path: Path
    kind: str
    description: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Outcome:
    """What looking at every played frame gave."""

    scores: Scores
    examples: list[Example] = field(default_factory=list)
    undecodable: list[str] = field(default_factory=list)
    video_codec: str = ''


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument('--bag', type=Path, help='a rosbag2 folder or file of your own')
    source.add_argument('--images', type=Path, help='a folder of images, played in name order')
    source.add_argument('--video', type=Path, help='a video file')
    parser.add_argument('--model', default='hydranet_pvtv2_b0', help='bundle folder or name')
    parser.add_argument('--engine', default='auto', help='engine of the node')
    parser.add_argument('--device', default='auto', help='device of the engine')
    parser.add_argument('--precision', default='auto', help='precision of the engine')
    parser.add_argument('--output', type=Path, default=Path('demo'), help='folder of the results')
    parser.add_argument('--topic', help='image topic, where a bag has several')
    parser.add_argument('--pattern', default='*', help='which images, as in camvid_*')
    parser.add_argument('--rate', type=float, default=10.0, help='frames per second of images')
    parser.add_argument('--limit', type=int, help='take only so many images or video frames')
    parser.add_argument('--speed', type=float, default=1.0, help='1 is the pace of the bag')
    parser.add_argument('--seed', type=int, default=0, help='seed of the generated drive')
    parser.add_argument('--seconds', type=float, default=16.0, help='length of the generated drive')
    parser.add_argument('--size', default='1280x720', help='picture size of the generated drive')
    parser.add_argument('--no-video', action='store_true', help='write no overlay.mp4')


def run(args: argparse.Namespace) -> int:
    """Make the drive, play it, measure, write the report; returns the exit code."""
    _check(args)
    console = Console(stderr=True)
    output: Path = args.output.expanduser()
    output.mkdir(parents=True, exist_ok=True)
    with _interrupted_by_sigterm():
        bundle = Bundle.open(find_bundle(args.model))
        need_ros('the demo')
        drive = _drive(args, output, console)
        with GuardedBag(drive.path, args.topic) as bag:
            _build_engine(args, bundle, console)
            live = _play(args, bag, bundle, output, console)
            outcome = _look(args, bag, bundle, live, output, console)
        results = _results(args, drive, bundle, live, outcome)
        _write_json(output / 'results.json', results)
        write_live_report(output / 'report.html', results, live, outcome.examples)
    _print(results, output)
    return 0 if live.complete and live.answered_ns else 1


def _check(args: argparse.Namespace) -> None:
    if not 0 < args.speed < math.inf or not 0 < args.rate < math.inf:
        raise DemoError('--speed and --rate must be more than 0')
    if args.limit is not None and args.limit < 1:
        raise DemoError('--limit must be at least 1')


def _drive(args: argparse.Namespace, output: Path, console: Console) -> Drive:
    """The bag to play, made first where the source is not one."""
    if args.bag is not None:
        path = args.bag.expanduser()
        config = generated_config(path)
        kind = 'generated' if config else 'bag'
        return Drive(path, kind, f'{kind} drive from {path}', config or {})
    source: Source
    if args.images is not None:
        source = ImageFolder(args.images, args.pattern, args.rate, args.limit)
    elif args.video is not None:
        source = VideoFile(args.video, args.limit)
    else:
        width, height = _size(args.size)
        source = GeneratedDrive(args.seed, width, height, args.seconds)
    path = output / 'drive'
    console.print(f'[bold]drive[/]   {source.description}', highlight=False)
    with progress.shown('writing the bag', source.frames or None, console) as advance:
        cached = write_drive(source, path, advance)
    if cached:
        console.print(f'        {path} is this drive already; kept', highlight=False)
    return Drive(path, source.kind, source.description, source.config or {})


def _build_engine(args: argparse.Namespace, bundle: Bundle, console: Console) -> None:
    """Build the engine if the cache has none, here where it can be seen; the node never does."""
    with console.status('engine: opening, or building it first (can take minutes)'):
        pipeline = Pipeline.open(bundle.path, args.engine, args.device, args.precision, build=True)
    info = pipeline.info
    pipeline.close()
    console.print(
        f'[bold]model[/]   {bundle.manifest.name} on {info.name} {info.version.split("-")[0]}, '
        f'{info.device}, {info.precision}',
        highlight=False,
    )


def _play(
    args: argparse.Namespace, bag: GuardedBag, bundle: Bundle, output: Path, console: Console
) -> LiveRun:
    # Imported late: the messages of a bad path or a missing model must not need ROS.
    from mtl_evaluation.live.session import LiveSettings, run_live

    settings = LiveSettings(str(bundle.path), args.engine, args.device, args.precision)
    with progress.shown('playing        ', bag.frames_total or None, console) as advance:
        return run_live(
            bag, bundle, settings, output / 'outputs', output / 'node.log',
            lambda played, answered: advance(played, f'{answered} answered'), Pace(args.speed),
        )  # fmt: skip


def _look(
    args: argparse.Namespace,
    bag: GuardedBag,
    bundle: Bundle,
    live: LiveRun,
    output: Path,
    console: Console,
) -> Outcome:
    """Score and paint every frame that was played."""
    tasks = bundle.manifest.tasks
    outcome = Outcome(Scores(tasks))
    played = {frame.source_stamp_ns: frame.stamp_ns for frame in live.frames}
    wanted = evenly_spaced(sorted(live.answered_ns))
    latency = {stamp: (ns - stamp) / 1e6 for stamp, ns in live.answered_ns.items()}
    rate = rate_hz(live)
    video_path = output / 'overlay.mp4'
    video_path.unlink(missing_ok=True)
    pairs = joined(bag, played, recorded_results(live.outputs, tasks))
    painted = None
    with (
        progress.shown('measuring      ', len(live.frames) or None, console) as advance,
        Video(video_path, rate, len(live.frames)) as video,
    ):
        for frame, result in pairs:
            advance(frame.index + 1)
            stamp = played[frame.stamp_ns]
            try:
                image = rgb_of(frame.image())
            except ImageError as error:
                outcome.undecodable.append(f'frame {frame.index}: {error}')
                continue
            time_s = (stamp - live.frames[0].stamp_ns) / 1e9
            if result is not None:
                truth = frame.truth()
                _score(outcome.scores, frame.index, result, truth, image.shape, bag)
                if stamp in wanted:
                    shapes = panels(image, result, truth, tasks)
                    outcome.examples.append(
                        Example(
                            frame.index, time_s,
                            ', '.join(truth.labels.values()), shapes,
                        )
                    )  # fmt: skip
            if args.no_video:
                continue
            if result is not None:
                delay = f'{latency[stamp]:.0f} ms' if stamp in latency else 'no detections'
                status = f'{time_s:6.2f} s  frame {frame.index}  {delay}'
                answer = placed(shown(result), tasks, frame.camera.model, truth, image)
                painted = overlay.draw(image, answer, tasks, status=status)
            # A dropped frame shows what a consumer still sees: the newest answer there is.
            video.add(painted if painted is not None else image)
    outcome.video_codec = video.codec
    _write_pngs(output / 'pictures', outcome.examples)
    return outcome


def evenly_spaced(stamps: list[int]) -> set[int]:
    """The stamps of the frames that are shown: spread over the run, not chosen for their looks."""
    count = len(stamps)
    return {stamps[int((i + 0.5) * count / EXAMPLES)] for i in range(EXAMPLES) if count}


def _score(
    scores: Scores, index: int, result: Result, truth: Any, shape: tuple[int, ...], bag: GuardedBag
) -> None:
    try:
        scores.update(f'{index:09d}', result, truth, (shape[1], shape[0]))
    except ValueError as error:
        raise BagError(f'{bag.path}, frame {index}: {error}') from error


def _write_pngs(folder: Path, examples: list[Example]) -> None:
    folder.mkdir(exist_ok=True)
    for old in folder.glob('*.png'):
        old.unlink()
    for number in PNG_EXAMPLES:
        if number < len(examples):
            example = examples[number]
            for panel in example.panels:
                name = ''.join(c if c.isalnum() else '_' for c in panel.title.lower())
                write_png(folder / f'{example.index:05d}_{name}.png', panel.image)


def _results(
    args: argparse.Namespace, drive: Drive, bundle: Bundle, live: LiveRun, outcome: Outcome
) -> dict[str, Any]:
    """Everything that was measured, as plain data."""
    scores = outcome.scores.result()
    return {
        'schema': 1,
        'created': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        'command': shlex.join(['mtl-perception', *sys.argv[1:]]),
        'machine': machine.describe(),
        'drive': {
            'kind': drive.kind,
            'description': drive.description,
            'path': str(drive.path),
            'complete': live.complete,
            **({'config': dict(drive.details)} if drive.details else {}),
        },
        'model': {
            'name': bundle.manifest.name,
            'bundle_hash': bundle.hash,
            'input': [bundle.manifest.input.height, bundle.manifest.input.width],
            'training_data': list(bundle.manifest.training_data),
            **engine_in_force(live),
        },
        **measured(live),
        'accuracy': scores,
        'accuracy_note': note(drive.kind, scores),
        'undecodable': outcome.undecodable,
        'video_codec': outcome.video_codec,
    }


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(
        json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + '\n',
        'utf-8',
        'backslashreplace',
    )


def _print(results: dict[str, Any], output: Path) -> None:
    console = Console()
    table = Table(title=results['drive']['description'], title_justify='left', show_header=False)
    table.add_column(style='bold')
    table.add_column()
    for name, value in summary(results):
        table.add_row(name, value)
    print_table(table, console)
    accuracy = Table('task', 'metric', 'value', 'frames', title='accuracy', title_justify='left')
    for task, metric, value, frames in accuracy_rows(results['accuracy']):
        accuracy.add_row(task, metric, value, str(frames) if frames else '-')
    if any(result['frames'] for result in results['accuracy'].values()):
        print_table(accuracy, console)
    console.print(results['accuracy_note'], style='italic')
    names = ['report.html', 'overlay.mp4', 'pictures', 'results.json', 'outputs', 'node.log']
    there = [name for name in names if (output / name).exists()]
    console.print(f'in {output}/: {", ".join(there)}', highlight=False)


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition('x')
    if not (width.isdigit() and height.isdigit()):
        raise DemoError(f'--size {text}: expected WIDTHxHEIGHT in pixels, such as 1280x720')
    return int(width), int(height)


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the run as Ctrl-C does, so that the node is stopped too."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread: whoever runs us there handles signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
