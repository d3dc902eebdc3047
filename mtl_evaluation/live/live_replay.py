# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""`mtl-perception replay --live`: the same bag through the real node over DDS; how fast, how late.

Writes RUN/live.json beside the run that measured the accuracy (`offline.py`): what a live run
answers depends on the machine, so no accuracy is measured here.
"""

from __future__ import annotations

import argparse
import itertools
import math
import shlex
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from mtl_evaluation import progress
from mtl_evaluation.bags.guarded import GuardedBag
from mtl_evaluation.live.live_io import prefetched
from mtl_evaluation.live.node_process import LiveError, need_ros
from mtl_evaluation.live.peak import peak_rate
from mtl_evaluation.live.timing import (
    LiveRun,
    Pace,
    dropped_share,
    engine_in_force,
    measured,
    summary,
)
from mtl_evaluation.runs.bag_replay import BagJob
from mtl_evaluation.runs.run import write_json
from mtl_perception import machine
from mtl_perception.bundle import Bundle, find_bundle
from mtl_perception.pipeline import Pipeline, Thresholds
from mtl_perception.tables import print_table

if TYPE_CHECKING:
    from mtl_evaluation.live.session import LiveSession

LIVE = 'live.json'
PEAK_BYTES = 256 << 20
"""Frames held in memory for the search of the peak, so that no disk limits it."""

PEAK_SECONDS, PEAK_FRAMES = 5.0, 30
"""A run at a rate takes at least so long and so many frames: one of them may be lost."""

HIGHEST_HZ = 240.0


def run_live_replay(args: argparse.Namespace, jobs: list[BagJob], output: Path) -> int:
    """Play, print the table, write RUN/live.json; returns the exit code."""
    if len(jobs) > 1:
        raise LiveError('--live plays one bag at a time')
    for name in ('rate', 'speed'):
        if getattr(args, name) is not None and not 0 < getattr(args, name) < math.inf:
            raise LiveError(f'--{name} {getattr(args, name)}: expected more than 0')
    if args.peak and args.sim_time:
        raise LiveError('--peak plays frames again and again, which the time of a bag does not do')
    need_ros('--live')
    from mtl_evaluation.live.session import LiveSession, LiveSettings

    bundle = Bundle.open(find_bundle(args.model))
    if not args.node:
        # Built and tried here, where it can be seen; the node never builds.
        Pipeline.open(bundle.path, args.engine, args.device, args.precision, args.build).close()
    settings = LiveSettings(
        str(bundle.path.resolve()), args.engine, args.device, args.precision,
        score_threshold=Thresholds().score, sim_time=args.sim_time, node=args.node,
    )  # fmt: skip
    output.mkdir(parents=True, exist_ok=True)
    with (
        GuardedBag(jobs[0].path, jobs[0].topics, options=jobs[0].options) as bag,
        LiveSession(bag.image, bundle, settings, output / 'node.log') as session,
    ):
        live = _play(session, bag, Pace(args.speed, args.rate))
        peak = _peak(session, bag) if args.peak and live.complete else None
    results = _results(args, bag, bundle, live, peak)
    write_json(output / LIVE, results)
    print_live(results)
    Console().print(f'in {output}/: {LIVE}', highlight=False)
    return 0 if live.complete and live.answered_ns else 1


def _play(session: LiveSession, bag: GuardedBag, pace: Pace) -> LiveRun:
    with progress.shown('playing', bag.frames_total) as show:
        messages = prefetched((frame.stamp_ns, frame.cdr) for frame in bag.raw_frames())
        return session.play(
            messages, pace, lambda played, answered: show(played, f'{answered} answered')
        )


def _peak(session: LiveSession, bag: GuardedBag) -> dict[str, Any]:
    """Search the peak rate with frames from memory."""
    kept: list[tuple[int, bytes]] = []
    size = 0
    for frame in bag.raw_frames():
        kept.append((frame.stamp_ns, frame.cdr))
        size += len(frame.cdr)
        if size > PEAK_BYTES:
            break
    console = Console(stderr=True)

    def play(rate: float) -> float:
        count = max(PEAK_FRAMES, round(rate * PEAK_SECONDS))
        frames = itertools.islice(itertools.cycle(kept), count)
        with console.status(f'peak: {count} frames at {rate:.1f} Hz'):
            live = session.play(frames, Pace(rate_hz=rate), lambda n, m: None)
        if not live.complete:
            raise KeyboardInterrupt
        dropped = dropped_share(live) or 0.0
        console.print(f'peak: {rate:.1f} Hz, {100 * dropped:.1f} % not answered', highlight=False)
        return dropped

    return {**peak_rate(play, 1.0, HIGHEST_HZ), 'seconds': PEAK_SECONDS}


def _results(
    args: argparse.Namespace, bag: GuardedBag, bundle: Bundle, live: LiveRun,
    peak: dict[str, Any] | None,
) -> dict[str, Any]:  # fmt: skip
    return {
        'schema': 1,
        'created': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        'command': shlex.join(['mtl-perception', *sys.argv[1:]]),
        'machine': machine.describe(),
        'bag': str(bag.path),
        'image_topic': bag.image.topic,
        'model': {
            'name': bundle.manifest.name,
            'bundle_hash': bundle.hash,
            **engine_in_force(live),
        },
        'complete': live.complete,
        'sim_time': args.sim_time,
        **measured(live),
        'peak': peak,
    }  # fmt: skip


def print_live(results: Mapping[str, Any]) -> None:
    """Print what `live.json` says."""
    table = Table(show_header=False, title=f'live: {results["bag"]}', title_justify='left')
    table.add_column(style='bold')
    table.add_column()
    for name, value in summary(results):
        table.add_row(name, value)
    if results['peak']:
        table.add_row('peak', _peak_text(results['peak']))
    print_table(table)


def _peak_text(peak: Mapping[str, Any]) -> str:
    accepted = f'{100 * peak["accepted"]:g} %'
    if peak['peak_hz'] is None:
        lowest = peak['trials'][0]
        return f'not even {lowest["rate_hz"]:g} Hz with fewer than {accepted} unanswered'
    more = ' or more' if peak['at_bound'] else ''
    return (
        f'{peak["peak_hz"]:.1f} Hz{more} with fewer than {accepted} unanswered '
        f'({100 * peak["dropped"]:.1f} %, median of the runs there)'
    )
