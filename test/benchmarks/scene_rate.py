# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""How fast generated scenes are drawn on one core: `python test/benchmarks/scene_rate.py`.

Frames of drives (the world is built once) and independent scenes (a world each), in CPU time of
this process, which others disturb less than wall time. Writes docs/results/scene_rate.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import cv2

from mtl_perception import machine
from mtl_perception.tasks import SCENE
from mtl_scenes import Drive, DriveConfig, random_scene

RESULT = Path(__file__).parents[2] / 'docs' / 'results' / 'scene_rate.json'
SIZES = ((640, 360), (1280, 720))


def frames_per_second(draw, count: int) -> dict[str, float]:
    """Median and best rate over `count` frames, one warm-up frame before."""
    draw(count)
    times = []
    for index in range(count):
        started = time.process_time()
        draw(index)
        times.append(time.process_time() - started)
    return {'median': round(1 / statistics.median(times), 1), 'best': round(1 / min(times), 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--frames', type=int, default=20)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    results: dict[str, dict[str, dict[str, float]]] = {}
    for width, height in SIZES:
        rates = results[f'{width}x{height}'] = {}
        for scene in SCENE.classes:
            drive = Drive(DriveConfig(1, width, height, args.frames + 1, scene=scene))
            rates[f'drive, {scene}'] = frames_per_second(drive.__getitem__, args.frames)
        rates['random_scene'] = frames_per_second(
            lambda seed, width=width, height=height: random_scene(seed, width, height),
            args.frames,
        )
    record = {
        'command': 'python test/benchmarks/scene_rate.py',
        'frames_each': args.frames,
        'unit': 'frames per second of CPU time, one core',
        'environment': machine.describe(),
        'results': results,
    }
    RESULT.write_text(json.dumps(record, indent=1) + '\n', 'utf-8')
    for size, rates in results.items():
        for name, rate in rates.items():
            print(f'{size:10} {name:24} median {rate["median"]:6.1f}/s  best {rate["best"]:6.1f}/s')


if __name__ == '__main__':
    main()
