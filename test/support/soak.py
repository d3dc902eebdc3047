# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Drive the node for a while and see whether it keeps its memory, its rate and its books.

    python test/support/soak.py --minutes 10

starts the node as a process on the tiny bundle of the tests (or `--model`), sends images at a rate
over DDS, listens to every output, and samples its resident memory. Writes docs/results/soak.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'test' / 'support')]

WARM_UP = 0.2
"""Share of the time that is left out of the slope: pools fill, percentile windows fill."""


def main() -> int:
    """Parse, run in a private DDS domain, write and print."""
    parser = argparse.ArgumentParser(description='memory, rate and counters of the node over time')
    parser.add_argument('--minutes', type=float, default=10.0)
    parser.add_argument('--rate', type=float, default=15.0, help='images per second')
    parser.add_argument('--width', type=int, default=640)
    parser.add_argument('--height', type=int, default=360)
    parser.add_argument('--model', default='tiny', help='bundle; tiny: that of the tests')
    parser.add_argument('--engine', default='onnxruntime')
    parser.add_argument('--json', type=Path, default=ROOT / 'docs/results/soak.json')
    args = parser.parse_args()
    from live_node import private_ros_environment

    from mtl_perception import machine, shared_memory

    shared_memory.use_profile()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(private_ros_environment(Path(folder)))
        figures = soak(
            Path(folder), args.minutes * 60, args.rate, args.width, args.height, args.model,
            args.engine, sys.stderr.isatty(),
        )  # fmt: skip
    report = {
        'what': f'node on {args.model}, {args.engine}, {args.width}x{args.height} bgr8 at '
        f'{args.rate:g} Hz for {args.minutes:g} minutes, every output subscribed to',
        'command': f'python {" ".join(sys.argv)}',
        'machine': machine.describe(),
        'date': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        **figures,
    }
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(report, indent=2) + '\n')
    print(json.dumps({key: value for key, value in figures.items() if key != 'samples'}, indent=2))
    print(f'written to {args.json}')
    return 0


def soak(
    folder: Path,
    seconds: float,
    rate_hz: float,
    width: int,
    height: int,
    model: str | Path = 'tiny',
    engine: str = 'onnxruntime',
    progress: bool = False,
) -> dict[str, Any]:
    """The figures of one run: RSS slope after warm-up, counters, exit."""
    from fault_runs import camera_values, slope_mb_per_h
    from live_node import BEST_EFFORT, NODE, TINY_TOPICS, NodeProcess, image, peer, stamped
    from sensor_msgs.msg import Image
    from tiny_bundle import write_tiny_bundle

    if model == 'tiny':
        model = write_tiny_bundle(folder / 'tiny')
    answers = dict.fromkeys(TINY_TOPICS, 0)
    at_s: list[float] = []
    rss_mb: list[float] = []
    with (
        NodeProcess(folder, autostart='true', build='true', model=model, engine=engine) as node,
        peer() as other,
    ):
        node.wait_for_output('active: listening', 600)

        def count(topic: str) -> None:
            answers[topic] += 1

        for topic, kind in TINY_TOPICS.items():
            other.node.create_subscription(kind, topic, lambda _, topic=topic: count(topic), 10)
        publisher = other.node.create_publisher(Image, f'{NODE}/image', BEST_EFFORT)
        other.until(publisher.get_subscription_count, 'subscription of the node')
        other.spin(1.0)
        frames = [image(0, red, height, width) for red in (True, False)]
        sent = 0
        every_s = max(0.2, min(5.0, seconds / 100))
        started_s = time.monotonic()
        while (elapsed_s := time.monotonic() - started_s) < seconds:
            if not at_s or elapsed_s - at_s[-1] >= every_s:
                at_s.append(elapsed_s)
                rss_mb.append(node.rss_mb)
                if progress:
                    print(
                        f'\r{elapsed_s:6.0f} s of {seconds:.0f}, {rss_mb[-1]:.1f} MB',
                        end='', file=sys.stderr, flush=True,
                    )  # fmt: skip
            publisher.publish(stamped(frames[sent % 2], time.time()))
            sent += 1
            other.spin(max(0.001, started_s + sent / rate_hz - time.monotonic()))
        other.spin(0.5)
        camera = camera_values(other)['']
        code, exit_s = node.stop()
        said = node.output
    warm = [i for i, t in enumerate(at_s) if t >= WARM_UP * seconds]
    return {
        'rss_slope_mb_per_h': round(
            slope_mb_per_h([at_s[i] for i in warm], [rss_mb[i] for i in warm]), 3
        ),
        'rss_mb': {'first': round(rss_mb[warm[0]], 2), 'last': round(rss_mb[-1], 2)},
        'sent': sent,
        'answers': answers,
        'camera': camera,
        'exit': {'code': code, 'seconds': round(exit_s, 3)},
        'tracebacks': said.count('Traceback'),
        'samples': {
            'seconds': [round(t, 1) for t in at_s],
            'rss_mb': [round(r, 2) for r in rss_mb],
        },
    }


if __name__ == '__main__':
    sys.exit(main())
