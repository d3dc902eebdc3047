# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What reading a bag costs per 720p frame: `python test/benchmarks/bag_reading.py`.

Frames with boxes, two masks and labels, from every storage, in this process (`DriveBag`) and
through the parser process (`GuardedBag`): the pace alone, and how long the reader is waited for
while this process computes 50 ms per frame, as beside an engine on one core. Peak memory of the
parser process, of a bag and of one ten times as long. Writes docs/results/bag_reading.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from mtl_evaluation.bags.bag import DriveBag
from mtl_evaluation.bags.bag_writer import DriveWriter
from mtl_evaluation.bags.generated import GeneratedDrive
from mtl_evaluation.bags.guarded import GuardedBag
from mtl_evaluation.bags.sources import SourceFrame, as_jpeg
from mtl_perception import machine

RESULT = Path(__file__).parents[2] / 'docs' / 'results' / 'bag_reading.json'
BAGS = {
    'mcap, jpeg': ('mcap', False, True),
    'mcap, raw': ('mcap', False, False),
    'mcap, raw, zstd chunks': ('mcap', True, False),
    'sqlite3, jpeg': ('sqlite3', False, True),
    'sqlite3, raw': ('sqlite3', False, False),
    'sqlite3, raw, zstd messages': ('sqlite3', True, False),
}
WORK_S = 0.05


def write(path: Path, storage, compress: bool, jpeg: bool, drawn: list[SourceFrame], count: int):
    """A bag of `count` frames, the drawn ones again and again."""
    jpegs = [as_jpeg(frame.image.pixels[..., ::-1]) for frame in drawn] if jpeg else []
    with DriveWriter(path, storage, compress) as writer:
        for index in range(count):
            frame = drawn[index % len(drawn)]
            image = jpegs[index % len(drawn)] if jpeg else frame.image
            writer.write_frame(10**18 + index * 10**8, image, frame.truth, frame.camera_matrix)


def drain(bag: DriveBag | GuardedBag, work_s: float = 0.0) -> dict[str, float]:
    """Milliseconds a frame until it is decoded with its truth; the first one starts the reader."""
    waits = []
    matrix = np.ones((64, 64), np.float32)
    cpu, parser = time.process_time(), parser_seconds(bag)
    asked = time.perf_counter()
    for frame in bag.frames():
        frame.image()
        frame.truth()
        waits.append(1e3 * (time.perf_counter() - asked))
        busy_until = time.perf_counter() + work_s
        while time.perf_counter() < busy_until:
            matrix @ matrix
        asked = time.perf_counter()
    found = {'mean': statistics.mean(waits[1:]), 'median': statistics.median(waits[1:])}
    if not work_s:
        found['cpu_here'] = 1e3 * (time.process_time() - cpu) / len(waits)
        found['cpu_of_parser'] = 1e3 * (parser_seconds(bag) - parser) / len(waits)
    return {name: round(value, 2) for name, value in found.items()}


def parser_seconds(bag: DriveBag | GuardedBag) -> float:
    """CPU time of the parser process so far."""
    if isinstance(bag, DriveBag):
        return 0.0
    fields = Path(f'/proc/{bag.process_id}/stat').read_text().rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def measure(path: Path) -> dict[str, dict[str, float]]:
    """Both readers on one bag, each after a first pass that fills the disk's cache."""
    found = {}
    for name, reader in (('in this process', DriveBag), ('parser process', GuardedBag)):
        with reader(path) as bag:
            drain(bag)
            found[f'{name}, alone'] = drain(bag)
            found[f'{name}, beside work'] = drain(bag, WORK_S)
    return found


def peak_mb(path: Path) -> float:
    """Peak resident memory of the parser process after reading all of a bag."""
    with GuardedBag(path) as bag:
        for _ in bag.frames():
            pass
        status = Path(f'/proc/{bag.process_id}/status').read_text()
    kilobytes = next(line for line in status.splitlines() if line.startswith('VmHWM')).split()[1]
    return round(int(kilobytes) / 1024, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--frames', type=int, default=60)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    drawn = list(GeneratedDrive(seed=1, seconds=0.8).frames_from(0))
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (storage, compress, jpeg) in BAGS.items():
            path = Path(folder) / 'bag'
            write(path, storage, compress, jpeg, drawn, args.frames)
            results[name] = measure(path)
            print(name, json.dumps(results[name], indent=1))
        memory = {}
        for count in (args.frames, 10 * args.frames):
            write(path, 'mcap', True, True, drawn, count)
            memory[f'{count} frames'] = peak_mb(path)
            print(f'parser process, {count} frames: {memory[f"{count} frames"]} MB')
    record = {
        'command': 'python test/benchmarks/bag_reading.py',
        'frames_each': args.frames,
        'size': '1280x720, with boxes, two masks and labels',
        'unit': 'ms per frame until it is decoded with its truth; work is 50 ms per frame',
        'niceness': os.nice(0),
        'environment': machine.describe(),
        'results': results,
        'parser_process_peak_mb': memory,
    }
    RESULT.write_text(json.dumps(record, indent=1) + '\n', 'utf-8')


if __name__ == '__main__':
    main()
