# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The faults of docs/reliability.md done to the node in full, and what was measured.

    python test/benchmarks/reliability.py
    python test/benchmarks/reliability.py --only signals --signals 100

Every fault is done to the real node as a process over real DDS, in a private domain; the tests do
the same with fewer repetitions. Writes docs/results/reliability.json, one entry a fault.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import checkout  # noqa: F401
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'test' / 'support')]

CAMERAS = ['front', 'rear', 'left', 'right']
Figures = dict[str, Any]


def main() -> int:
    """Run what is asked for and write it beside what the file already has."""
    parser = argparse.ArgumentParser(description='faults done to the node, and what was measured')
    parser.add_argument('--only', choices=sorted(FAULTS), action='append', help='default: all')
    parser.add_argument('--signals', type=int, default=100, help='processes a signal')
    parser.add_argument('--cycles', type=int, default=50, help='lifecycle cycles')
    parser.add_argument('--seconds', type=float, default=20.0, help='length of a load')
    parser.add_argument('--json', type=Path, default=ROOT / 'docs/results/reliability.json')
    args = parser.parse_args()
    from live_node import private_ros_environment
    from tiny_bundle import write_tiny_bundle

    from mtl_perception import machine, shared_memory

    shared_memory.use_profile()
    report = json.loads(args.json.read_text()) if args.only and args.json.exists() else {}
    report |= {
        'what': 'faults done to the node as a process over DDS, tiny bundle, fake engine',
        'command': 'python test/benchmarks/reliability.py',
        'machine': machine.describe(),
    }
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(private_ros_environment(Path(folder)))
        bundle = write_tiny_bundle(Path(folder) / 'tiny')
        for name in args.only or FAULTS:
            print(f'{name} ...', file=sys.stderr, flush=True)
            report[name] = FAULTS[name](Path(folder), bundle, args) | {
                'date': datetime.now(timezone.utc).isoformat(timespec='seconds'),
                'load_average': os.getloadavg(),
            }
            print(json.dumps({name: report[name]}, indent=2), flush=True)
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(report, indent=2) + '\n')
    print(f'written to {args.json}')
    return 0


def signals(folder: Path, bundle: Path, args: argparse.Namespace) -> Figures:
    """SIGINT and SIGTERM while a frame is in the engine."""
    from fault_runs import signalled
    from live_node import peer

    found = {}
    for sent in (signal.SIGINT, signal.SIGTERM):
        with peer() as other:
            ends = []
            for number in range(args.signals):
                ends.append(signalled(folder, bundle, sent, other))
                print(f'\r{sent.name} {number + 1}', end='', file=sys.stderr, flush=True)
        seconds = [end.seconds for end in ends]
        found[sent.name] = {
            'processes': len(ends),
            'ended_well': sum(end.well for end in ends),
            'codes': sorted({end.code for end in ends}),
            'tracebacks': sum(end.traceback for end in ends),
            'orphans': sum(len(end.orphans) for end in ends),
            'seconds_p50': round(float(np.median(seconds)), 3),
            'seconds_max': round(max(seconds), 3),
        }
    return found


def lifecycle(folder: Path, bundle: Path, args: argparse.Namespace) -> Figures:
    """Configure, activate, a frame, deactivate, cleanup, again and again."""
    from fault_runs import lifecycle_cycles
    from live_node import NodeProcess, peer

    with (
        NodeProcess(folder, model=bundle, engine='onnxruntime', build='true') as node,
        peer() as other,
    ):
        rss_mb = lifecycle_cycles(node, other, args.cycles)
    return {
        'cycles': args.cycles,
        'rss_growth_mb': round(rss_mb[-1] - rss_mb[0], 2),
        'rss_mb': [round(value, 2) for value in rss_mb],
    }


def stall(folder: Path, bundle: Path, args: argparse.Namespace) -> Figures:
    """A camera falls silent for 5 s and returns, default limits, simulation time stands still."""
    import fault_runs
    from live_node import NodeProcess, peer

    with (
        NodeProcess(
            folder, model=bundle, engine='fake', autostart='true', use_sim_time='true'
        ) as node,
        peer() as other,
    ):
        node.wait_for_output('active: listening')
        heard = [fault_runs.stall(other, 5.0) for _ in range(5)]
    return {
        name: {'median': round(float(np.median(values)), 3), 'max': round(max(values), 3)}
        for name in ('warn_s', 'error_s', 'ok_s')
        if (values := [found[name] for found in heard])
    }


def burst(folder: Path, bundle: Path, args: argparse.Namespace) -> Figures:
    """Images at ten times the rate of an engine that takes 0.1 s.

    The age is the node's own, when it has published; `arrived` is here, in the process that also
    sends, and has DDS in it.
    """
    from fault_runs import slow_engine

    load = _load(folder, bundle, slow_engine(0.1), [''], 100.0, args.seconds)
    found = load.camera['']
    stages = ('image', 'letterbox', 'engine', 'decode', 'publish')
    counts = ('received', 'processed', 'replaced', 'rejected', 'failed', 'unwanted', 'pending')
    return {
        'sent': load.sent[''],
        **{name: int(found[name]) for name in counts},
        'answers': len(load.ages_s['']),
        **{f'age_s_{name}': float(found[f'age_ms_{name}']) / 1e3 for name in ('p50', 'p99', 'max')},
        'arrived_age_s_p50': round(float(np.median(load.ages_s[''])), 4),
        'arrived_age_s_max': round(max(load.ages_s['']), 4),
        'period_plus_p99_s': round(
            0.01 + sum(float(found[f'{stage}_ms_p99']) for stage in stages) / 1e3, 4
        ),
    }


def cameras(folder: Path, bundle: Path, args: argparse.Namespace) -> Figures:
    """Four cameras that send twice what an engine of 20 ms per frame can take."""
    from fault_runs import slow_engine

    return _shares(_load(folder, bundle, slow_engine(0.02), CAMERAS, 25.0, args.seconds))


def batched(folder: Path, bundle: Path, args: argparse.Namespace) -> Figures:
    """Four cameras on an engine that takes 40 ms for one frame or four: 25 a second, or 100."""
    from fault_runs import batching_engine

    return _shares(_load(folder, bundle, batching_engine(0.04), CAMERAS, 25.0, args.seconds))


def _shares(load: Any) -> Figures:
    return {
        'sent': load.sent,
        'received': {name: int(found['received']) for name, found in load.camera.items()},
        'answers': {name: len(ages) for name, ages in load.ages_s.items()},
        'share_of_equal': {name: round(share, 3) for name, share in load.shares.items()},
        'mixed_headers': load.mixed,
    }


def lost_engine(folder: Path, bundle: Path, args: argparse.Namespace) -> Figures:
    """An engine that fails on everything: from the third failure to the end of the process."""
    from fault_runs import until_lost
    from live_node import peer

    with peer() as other:
        ends = [until_lost(folder, bundle, other) for _ in range(5)]
    return {'codes': [code for code, _ in ends], 'seconds_max': round(max(s for _, s in ends), 3)}


def _load(
    folder: Path,
    bundle: Path,
    engine: str,
    names: list[str],
    rate_hz: float,
    seconds: float,
) -> Any:
    from fault_runs import loaded
    from live_node import NodeProcess, peer

    listed = json.dumps(names)
    with (
        NodeProcess(
            folder, engine, model=bundle, engine='fake', autostart='true', cameras=listed,
            diagnostics_period_s=0.2,
        ) as node,
        peer() as other,
    ):  # fmt: skip
        node.wait_for_output('active: listening')
        time.sleep(0.5)
        return loaded(other, names, rate_hz, seconds)


FAULTS: dict[str, Callable[[Path, Path, argparse.Namespace], Figures]] = {
    'signals': signals,
    'lifecycle': lifecycle,
    'stall': stall,
    'burst': burst,
    'cameras': cameras,
    'batched': batched,
    'lost_engine': lost_engine,
}


if __name__ == '__main__':
    sys.exit(main())
