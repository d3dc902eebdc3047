# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What a frame's tracking costs, by the number of objects.

    PYTHONPATH=. python test/benchmarks/tracking.py

Objects of all classes move across a 1280x720 image at 30 Hz; one detection in ten is missing,
all others are jittered, and one in ten is false. CPU times of `Tracker.update` alone (other work on
the machine does not count), after the first second. Writes docs/results/tracking.json.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path

import numpy as np

from mtl_perception import machine
from mtl_perception.frame import Detections
from mtl_perception.tracking import Tracker

RESULT = Path(__file__).parents[2] / 'docs' / 'results' / 'tracking.json'
SIZE = (1280, 720)
RATE_HZ = 30
CLASSES = 10
OBJECTS = (10, 50, 100, 1000)


def frames(objects: int, count: int, random: np.random.Generator):
    """Stamp and detections of each frame, best score first."""
    place = random.uniform(0, SIZE, (objects, 2))
    size = random.uniform(15, 120, (objects, 2))
    speed = random.normal(0, 60, (objects, 2))
    label = random.integers(0, CLASSES, objects)
    for number in range(count):
        place = (place + speed / RATE_HZ) % SIZE
        seen = random.random(objects) < 0.9
        false = max(1, objects // 10)
        centre = np.concatenate([place[seen], random.uniform(0, SIZE, (false, 2))])
        extent = np.concatenate([size[seen], random.uniform(15, 120, (false, 2))])
        centre += random.normal(0, 0.02, centre.shape) * extent
        scores = np.sort(random.uniform(0.3, 1, len(centre)))[::-1].astype(np.float32)
        boxes = np.concatenate([centre - extent / 2, centre + extent / 2], 1).astype(np.float32)
        labels = np.concatenate([label[seen], random.integers(0, CLASSES, false)])
        yield number * 10**9 // RATE_HZ, Detections(boxes, scores, labels)


def measure(objects: int, count: int, seed: int) -> dict[str, float]:
    """CPU milliseconds of a frame: least, median, 99 %."""
    tracker, times = Tracker(CLASSES), []
    for stamp_ns, found in frames(objects, count, np.random.default_rng(seed)):
        started = time.thread_time()
        tracker.update(found, stamp_ns)
        times.append((time.thread_time() - started) * 1e3)
    settled = np.array(times[RATE_HZ:])
    return {
        'frames': len(settled),
        'cpu_min_ms': float(settled.min()),
        'cpu_p50_ms': float(np.median(settled)),
        'cpu_p99_ms': float(np.percentile(settled, 99)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--frames', type=int, default=330)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    results = {}
    for objects in OBJECTS:
        count = args.frames if objects < 1000 else 60
        results[objects] = measure(objects, count, args.seed)
        print(objects, {k: round(v, 3) for k, v in results[objects].items()}, flush=True)
    record = {
        'command': f'PYTHONPATH=. python {shlex.join(sys.argv)}',
        'machine': machine.describe(),
        'seed': args.seed,
        'by_objects': results,
    }
    RESULT.write_text(json.dumps(record, indent=2) + '\n')


if __name__ == '__main__':
    main()
