# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Memory of a replay against its bag's length: `python test/benchmarks/replay_memory.py IMAGES`.

A bag of the images of a folder, and one in which they come ten times over, through the same command
in a process of its own. Peak resident memory of that process, and of the child that parses the bag,
as the kernel counts it (VmHWM). Writes docs/results/replay_memory.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mtl_evaluation.bags.bag_writer import DriveWriter
from mtl_evaluation.bags.sources import START_NS, ImageFolder
from mtl_perception import machine

RESULT = Path(__file__).parents[2] / 'docs' / 'results' / 'replay_memory.json'
PERIOD_NS = 100_000_000
TIMES = (1, 10)


def write_bag(folder: Path, pattern: str, times: int, path: Path) -> None:
    """The images one after the other, `times` over."""
    source = ImageFolder(folder, pattern)
    with DriveWriter(path) as writer:
        for turn in range(times):
            for index, frame in enumerate(source.frames_from(0)):
                stamp_ns = START_NS + (turn * source.frames + index) * PERIOD_NS
                writer.write_frame(stamp_ns, frame.image, frame.truth)


def peaks_mb(command: list[str]) -> tuple[dict[str, float], float]:
    """Peak resident memory of a command and of its child process, and the seconds it took."""
    started = time.monotonic()
    peaks = {'replay': 0.0, 'parser': 0.0}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            children = Path(f'/proc/{process.pid}/task/{process.pid}/children')
            found = {'replay': str(process.pid)}
            if children.exists() and children.read_text().split():
                found['parser'] = children.read_text().split()[0]
            for name, pid in found.items():
                peaks[name] = max(peaks[name], _peak_mb(pid))
            time.sleep(0.2)
    if process.returncode:
        raise SystemExit(f'{" ".join(command)} ended with code {process.returncode}')
    return peaks, time.monotonic() - started


def _peak_mb(pid: str) -> float:
    try:
        status = Path(f'/proc/{pid}/status').read_text()
    except OSError:  # it ended meanwhile
        return 0.0
    lines = [line.split() for line in status.splitlines() if line.startswith('VmHWM')]
    return int(lines[0][1]) / 1024 if lines else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('images', type=Path)
    parser.add_argument('--pattern', default='*')
    parser.add_argument('--model', default='hydranet_lite0')
    args = parser.parse_args()
    runs = {}
    with tempfile.TemporaryDirectory() as scratch:
        for times in TIMES:
            bag, run = Path(scratch) / f'bag{times}', Path(scratch) / f'run{times}'
            write_bag(args.images, args.pattern, times, bag)
            command = [sys.executable, '-m', 'mtl_perception.cli', 'replay', str(bag)]
            peaks, seconds = peaks_mb([*command, '--model', args.model, '--output', str(run)])
            summary = json.loads((run / 'run.json').read_text())
            runs[f'{times}x'] = {
                'frames': summary['frames']['processed'],
                'peak_rss_mb': {name: round(value, 1) for name, value in peaks.items()},
                'seconds': round(seconds, 1),
                'records_mb': round(sum(f.stat().st_size for f in run.rglob('*.sqlite')) / 1e6, 2),
                'AP50': summary['accuracy']['detection']['AP50'],
            }
            print(times, runs[f'{times}x'])
    short, long = (runs[f'{times}x'] for times in TIMES)
    growth = long['peak_rss_mb']['replay'] - short['peak_rss_mb']['replay']
    record = {
        'command': f'python test/benchmarks/replay_memory.py IMAGES --pattern {args.pattern!r}',
        'images': str(args.images),
        'environment': machine.describe(),
        'runs': runs,
        'growth_mb': round(growth, 1),
        'growth_bytes_per_frame': round(growth * 2**20 / (long['frames'] - short['frames'])),
    }
    RESULT.write_text(json.dumps(record, indent=1) + '\n', 'utf-8')
    print(f'{growth:.1f} MB more for {long["frames"] - short["frames"]} more frames')


if __name__ == '__main__':
    main()
