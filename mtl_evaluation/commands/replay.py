# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""`mtl-perception replay`: every frame of bags through the pipeline, without ROS, into a run.

Nothing depends on time: the same bags, model and engine give the same answers, whether in one go,
after interruptions, or in many processes (`answers_sha256`).
"""

from __future__ import annotations

import argparse
import glob
import math
import shlex
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, get_args

from mtl_evaluation.bags.listing import Listing
from mtl_evaluation.bags.read_options import AS_RECORDED, TOLERANCE_MS, ReadOptions
from mtl_evaluation.bags.sources import CONFIG_KEY
from mtl_evaluation.bags.truth_join import (
    Join,
    TruthContent,
    truth_content,
)
from mtl_evaluation.live.live_replay import run_live_replay
from mtl_evaluation.report.run_report import write_report
from mtl_evaluation.runs.bag_replay import (
    BagJob,
    BagState,
    TruthJoin,
    bag_state,
)
from mtl_evaluation.runs.cost import cost_model
from mtl_evaluation.runs.fleet import (
    EngineSettings,
    LocalWorkers,
    RayWorkers,
    Work,
    Workers,
    replay_bags,
)
from mtl_evaluation.runs.recording import Recordings
from mtl_evaluation.runs.revisit import revisiting
from mtl_evaluation.runs.run import Run, part_file
from mtl_evaluation.runs.terminal import print_run
from mtl_evaluation.runs.writer import RunWriter
from mtl_evaluation.truth.class_mapping import ClassMapping
from mtl_evaluation.truth.truth_files import TruthFiles
from mtl_perception import machine
from mtl_perception.bundle import Bundle, find_bundle
from mtl_perception.camera_model import GeometryError
from mtl_perception.engines.base import cores
from mtl_perception.geometry import Mount
from mtl_perception.pipeline import Pipeline

RUNS = Path('runs/replay')
STOPPED = 130


class ReplayError(Exception):
    """Arguments that cannot be replayed: what, found, next step."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument(
        'bag', nargs='+', help='rosbag2 folders, .mcap or .db3 files, or quoted patterns of them'
    )
    parser.add_argument('--model', default='hydranet_pvtv2_b0', help='bundle folder or name')
    parser.add_argument('--engine', default='auto', help='what runs the network')
    parser.add_argument('--device', default='auto', help='device of the engine')
    parser.add_argument('--precision', default='auto', help='precision of the engine')
    parser.add_argument('--build', action='store_true', help='build the engine if there is none')
    parser.add_argument(
        '--topic', action='append', default=[], help='image topic; repeat it for more (all)'
    )
    parser.add_argument(
        '--truth', type=Path, action='append', default=[], metavar='PATH',
        help="labels in the place of the bag's own: Scalabel or COCO JSON, BDD100K folders, masks",
    )  # fmt: skip
    parser.add_argument(
        '--truth-join', choices=get_args(Join), default='auto',
        help='how frames find their labels (auto: by name where the bag has names, else by stamp)',
    )  # fmt: skip
    parser.add_argument(
        '--truth-tolerance-ms', type=float, default=TOLERANCE_MS, metavar='MS',
        help="how far a label's stamp may be from its frame's",
    )  # fmt: skip
    parser.add_argument(
        '--classes', default='', metavar='THEIRS=OURS,...',
        help='class names or ids of the labels that are called otherwise here, or a YAML file of '
        'such pairs; TASK:ID=NAME for masks; nothing behind = is not scored',
    )  # fmt: skip
    parser.add_argument(
        '--ignore-topic', action='append', default=[], metavar='TOPIC',
        help='leave a topic out, as one of truth that does not fit; repeat it for more',
    )  # fmt: skip
    parser.add_argument(
        '--output', type=Path, help=f'folder of the run ({RUNS}/BAG-MODEL); a run goes on there'
    )
    parser.add_argument('--fresh', action='store_true', help='begin again instead of going on')
    parser.add_argument('--jobs', type=int, default=1, help='bags replayed beside each other')
    parser.add_argument(
        '--ray', metavar='ADDRESS', help='replay on the Ray cluster there (auto, HOST:PORT)'
    )
    looks = parser.add_argument_group('to look at, in the folder of the run')
    looks.add_argument('--no-report', action='store_true', help='write no report.html')
    looks.add_argument('--video', action='store_true', help='write overlay.mp4')
    looks.add_argument('--answers', action='store_true', help='write the answers as a bag')
    looks.add_argument('--rerun', action='store_true', help='write a Rerun recording')
    live = parser.add_argument_group('live mode, through the real node over DDS')
    live.add_argument('--live', action='store_true', help='measure latency and drops instead')
    pace = live.add_mutually_exclusive_group()
    pace.add_argument('--rate', type=float, metavar='HZ', help='frames per second (as recorded)')
    pace.add_argument('--speed', type=float, default=1.0, help='times the pace of the bag')
    live.add_argument('--sim-time', action='store_true', help="the node lives in the bag's time")
    live.add_argument('--node', default='', help='play to this node, which runs already')
    live.add_argument('--peak', action='store_true', help='also search the highest rate')
    parser.add_argument(
        '--camera-height', type=float, metavar='M', help='metres of the camera above the road'
    )
    parser.add_argument(
        '--camera-pitch', type=float, default=0.0, metavar='DEG', help='degrees it looks down'
    )
    parser.add_argument(
        '--camera-roll', type=float, default=0.0, metavar='DEG',
        help='degrees it leans to the right',
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Replay, print the figures; returns the exit code."""
    options = _read_options(args)
    jobs = find_bags(args.bag, args.topic, _truth_join(args), options)
    if args.jobs < 1:
        raise ReplayError(f'--jobs {args.jobs}: expected at least 1')
    mount = None
    if args.camera_height is not None:
        angles = math.radians(args.camera_roll), math.radians(args.camera_pitch)
        try:
            mount = Mount.of(args.camera_height, *angles)
        except GeometryError as error:
            raise ReplayError(f'--camera-height, --camera-roll, --camera-pitch: {error}') from error
    model = find_bundle(args.model)
    output = args.output or RUNS / f'{_short_name(jobs)}-{model.name}'
    if args.live:
        return run_live_replay(args, jobs, output)
    local = min(args.jobs, len(jobs))
    # A task of a cluster gets one core: many small workers do more than a few big ones.
    threads = 1 if args.ray is not None else max(1, cores() // local)
    recordings = Recordings(args.video, args.answers, args.rerun)
    recordings.check()
    truth = None
    if args.truth:
        tasks = Bundle.open(model).manifest.tasks
        jobs = [replace(job, truth=replace(job.truth, tasks=tasks)) for job in jobs if job.truth]
        truth = truth_content(TruthFiles(args.truth, tasks))
    settings = EngineSettings(
        str(model.resolve()), args.engine, args.device, args.precision, threads, args.build
    )
    with _stopping() as stopped, settings.open() as pipeline:
        bags = [{'name': job.name, 'path': str(job.path)} for job in jobs]
        identity = _identity(pipeline, args, truth, options)
        with RunWriter(output, pipeline.tasks, identity, bags, args.fresh) as run:
            # What `auto` chose here every worker runs, whatever it would choose on its machine.
            info = pipeline.info
            chosen = replace(settings, engine=info.name, precision=info.precision)
            work = Work(chosen, output.resolve(), recordings)
            workers: Workers | None = None
            if args.ray is not None:
                workers = RayWorkers(work, args.ray)
                local = workers.slots
            elif local > 1:
                workers = LocalWorkers(work)
            if workers is not None:
                pipeline.engine.close()
            failures, interrupted = replay_bags(jobs, work, pipeline, workers, local, stopped)
            header = _header(pipeline, jobs, run.path, truth, failures, interrupted)
            measured = run.measure(mount)
            cost = _cost(run.path, measured, jobs, local, threads)
            done = run.finish({**header, 'cost': cost}, measured)
        if not args.no_report and done.summary['frames']['processed']:
            _report(done, pipeline if workers is None else None)
    print_run(done)
    if interrupted:
        return STOPPED
    return 0 if done.summary['complete'] and done.summary['frames']['processed'] else 1


def find_bags(
    given: Sequence[str], topics: Sequence[str] = (), truth: TruthJoin | None = None,
    options: ReadOptions = AS_RECORDED,
) -> list[BagJob]:  # fmt: skip
    """Bags by path or pattern, each under a name of its own; raises ReplayError.

    A name is as much of the end of the path as tells the bags apart.
    """
    paths: list[Path] = []
    for text in given:
        path = Path(text).expanduser()
        if not glob.has_magic(text) and not path.exists():
            raise ReplayError(
                f'no bag at {path}: nothing is there. Give the folder that `ros2 bag record` made, '
                f'or a .mcap or .db3 file'
            )
        if path.exists():
            paths.append(path)
            continue
        found = sorted(glob.glob(str(path), recursive=True))
        if not found:
            raise ReplayError(f'no bag matches {text!r}')
        paths += map(Path, found)
    twice = [path for path, count in Counter(p.resolve() for p in paths).items() if count > 1]
    if twice:
        raise ReplayError(f'{twice[0]} is given more than once; its frames would count twice')
    names = [_tail(path, 1) for path in paths]
    depth = 1
    while len(set(names)) < len(names):
        depth += 1
        names = [_tail(path, depth) for path in paths]
    # Absolute: workers may be elsewhere.
    return [
        BagJob(name, path.absolute(), tuple(topics), truth, options)
        for name, path in zip(names, paths, strict=True)
    ]


def _read_options(args: argparse.Namespace) -> ReadOptions:
    """What of the bags is read, and how their truth is understood; raises ReplayError."""
    if not 0 <= args.truth_tolerance_ms < math.inf:
        raise ReplayError(f'--truth-tolerance-ms {args.truth_tolerance_ms}: expected 0 or more')
    names = ClassMapping.of(args.classes).names
    return ReadOptions(tuple(args.ignore_topic), args.truth_tolerance_ms, names)


def _truth_join(args: argparse.Namespace) -> TruthJoin | None:
    if not args.truth:
        return None
    paths = tuple(path.expanduser().absolute() for path in args.truth)
    for path in paths:
        if not path.exists():
            raise ReplayError(
                f'--truth {path}: nothing is there. Give a Scalabel or COCO JSON file, a folder in '
                f'BDD100K layout, or a folder of masks'
            )
    return TruthJoin(paths, args.truth_join, args.truth_tolerance_ms)


def _tail(path: Path, depth: int) -> str:
    path = path.absolute()
    path = path.with_suffix('') if path.suffix in ('.mcap', '.db3') and depth == 1 else path
    return '/'.join(path.parts[-depth:])


def _short_name(jobs: Sequence[BagJob]) -> str:
    first = jobs[0].name.replace('/', '_')
    return first if len(jobs) == 1 else f'{first}_and_{len(jobs) - 1}_more'


def _report(run: Run, pipeline: Pipeline | None) -> None:
    """Write report.html; its galleries show the worst frames again."""
    try:
        with revisiting(run, pipeline) as pictures:
            write_report(run, pictures)
    except OSError as error:
        raise ReplayError(f'cannot write the report of {run.path}: {error}') from error


def _identity(
    pipeline: Pipeline, args: argparse.Namespace, truth: TruthContent | None, options: ReadOptions
) -> dict[str, Any]:
    """What the answers depend on, besides the bags."""
    info = pipeline.info
    return {
        'bundle_hash': pipeline.bundle.hash,
        'engine': info.name,
        'engine_version': info.version,
        'device': info.device,
        'precision': info.precision,
        'thresholds': vars(pipeline.thresholds),
        'topics': list(args.topic),
        'truth': [str(path.absolute()) for path in args.truth],
        **({} if truth is None else {'truth_sha256': truth.sha256}),
        'truth_join': args.truth_join,
        'truth_tolerance_ms': args.truth_tolerance_ms,
        **({'classes': dict(options.classes)} if options.classes else {}),
        **({'ignored_topics': list(options.ignored)} if options.ignored else {}),
    }


def _header(
    pipeline: Pipeline,
    jobs: Sequence[BagJob],
    run: Path,
    truth: TruthContent | None,
    failures: dict[str, str],
    interrupted: bool,
) -> dict[str, Any]:
    """What `run.json` says beside the figures."""
    states = {job.name: bag_state(run, job.name) for job in jobs}
    errors = {name: failures.get(name) or state.error for name, state in states.items()}
    for name, state in states.items():
        if not (state.complete or errors[name] or interrupted):
            errors[name] = 'its worker was stopped; the same command goes on'
    reasons = [f'{name}: {error}' for name, error in errors.items() if error]
    if interrupted:
        reasons.insert(0, 'it was stopped; the same command goes on')
    info = pipeline.info
    count = {name: sum(getattr(s, name)['count'] for s in states.values()) for name in LISTINGS}
    if truth is not None:
        unused = _unused(truth, [state for state in states.values() if state.complete])
        count['unmatched_truth'] = unused['count']
        for state in states.values():
            state.unmatched_truth = unused
    read = sum(state.read for state in states.values())
    return {
        'created': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        'command': shlex.join(['mtl-perception', *sys.argv[1:]]),
        'machine': machine.describe(),
        'model': {
            'name': pipeline.bundle.manifest.name,
            'path': str(pipeline.bundle.path),
            'bundle_hash': pipeline.bundle.hash,
            'engine': info.name,
            'engine_version': info.version,
            'device': info.device,
            'precision': info.precision,
        },
        'complete': not reasons,
        'partial_reason': '; '.join(reasons) or None,
        'frames': {
            'processed': read - count['undecodable'],
            'labelled': sum(state.labelled for state in states.values()),
            'undecodable': count['undecodable'],
            'not_reached': sum(state.total for state in states.values()) - read,
            'repeated_stamps': count['repeated'],
            'unmatched_truth': count['unmatched_truth'],
            'unmatched_frames': count['unmatched_frames'],
        },
        'undecodable': [
            f'{name} {text}'
            for name, state in states.items()
            for text in state.undecodable['first']
        ],
        'bags': [
            {'name': job.name, 'path': str(job.path), **_described(states[job.name])}
            | {'error': errors[job.name] or None}
            for job in jobs
        ],
    }


def _unused(truth: TruthContent, finished: Collection[BagState]) -> dict[str, Any]:
    """Labels that none of the finished bags has a frame for; without such bags nobody knows."""
    used = {name for state in finished for name in state.used_truth}
    unused = Listing()
    for name in truth.names if finished else ():
        if name not in used:
            unused.add(name)
    return unused.to_json()


LISTINGS = ('undecodable', 'repeated', 'unmatched_truth', 'unmatched_frames')


def _described(state: BagState) -> dict[str, Any]:
    custom = state.source.get('custom', {})
    return {
        'kind': 'generated' if CONFIG_KEY in custom else 'bag',
        'cameras': state.cameras,
        'promised': state.total,
        'complete': state.complete,
        **{name: getattr(state, name) for name in LISTINGS},
    }


def _cost(
    run: Path, measured: Mapping[str, Any], jobs: Sequence[BagJob], workers: int, threads: int
) -> dict[str, Any]:
    """The cost model of what was measured."""
    frames = measured['frames']['processed']
    promised = driven_ns = written = 0
    for job in jobs:
        state = bag_state(run, job.name)
        if state.total:
            # The last frame of a camera lasts as long as the others.
            promised += state.total - len(state.cameras)
            driven_ns += state.source['end_ns'] - state.source['start_ns']
            written += part_file(run, job.name).stat().st_size
    return cost_model(
        {name: stage['mean'] for name, stage in measured['stages_ms'].items()},
        workers,
        min(cores(), workers * threads),
        promised / (driven_ns / 3.6e12) if driven_ns else None,
        written / frames if frames else 0.0,
    )


@contextmanager
def _stopping() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM ask to stop between two frames; the second one ends at once."""
    asked = False
    before: dict[int, Any] = {}

    def ask(number: int, frame: Any) -> None:
        nonlocal asked
        asked = True
        signal.signal(number, before[number])

    if threading.current_thread() is threading.main_thread():
        before |= {n: signal.signal(n, ask) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
