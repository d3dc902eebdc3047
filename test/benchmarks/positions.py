# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Places of objects on generated drives against exact ones, what the covariance covers, and time.

    python test/benchmarks/positions.py --json docs/results/positions.json

Boxes are those of the truth, so that what is measured is geometry alone: a flat road, the lower
edge of a box for the nearest point of contact, boxes in whole pixels. `foot seen` leaves out
objects whose lower edge is hidden by another one or cut off by the image, `all` does not.
Coverage: camera and boxes are moved by random errors of the deviations that are assumed, and it is
counted how often the true place lies in the 95 % ellipse; `points`: of exact feet, `boxes`: of
boxes, with what the foot of a box adds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mtl_perception import machine
from mtl_perception.camera_model import CameraModel
from mtl_perception.decode import Detections
from mtl_perception.geometry import GroundPoints, Mount, locate
from mtl_perception.lanes import lane_lines
from mtl_perception.objects import AIRBORNE, Deviations, place
from mtl_perception.tasks import DETECTION
from mtl_scenes import Drive, DriveConfig

BANDS_M = (0.0, 10.0, 20.0, 30.0, 40.0, 60.0, 80.0)
SCENES = ('highway', 'city street', 'residential', 'parking lot')
WIDTH, HEIGHT = 1280, 720
DEVIATIONS = Deviations()
CHI2_95 = 5.991
"""Of two degrees of freedom."""
GROUND = (0, 1, 9)
"""Semantic classes that things stand on: road, sidewalk, terrain."""


def objects_of(drive: Drive, index: int) -> dict[str, Any]:
    """Boxes of what stands on the road, their true feet, and whether those can be seen."""
    frame, camera = drive[index], drive.camera
    lens = CameraModel(WIDTH, HEIGHT, camera.focal, camera.focal, camera.centre_x, camera.centre_y)
    mount = Mount.of(camera.height_m, pitch=camera.pitch)
    airborne = [i for i, name in enumerate(DETECTION.classes) if name in AIRBORNE]
    stands = ~np.isin(frame.labels, airborne)
    boxes, labels = frame.boxes[stands], frame.labels[stands]
    rows = np.minimum(boxes[:, 3].astype(int) + 1, HEIGHT - 1)
    columns = ((boxes[:, 0] + boxes[:, 2]) / 2).astype(int)
    whole = (boxes[:, 0] > 0) & (boxes[:, 2] < WIDTH) & (boxes[:, 3] < HEIGHT - 1)
    seen = np.isin(frame.semantic[rows, columns], GROUND) & whole
    feet = frame.feet[stands] @ mount.matrix.T + np.array(mount.translation)
    return {
        'found': Detections(boxes, np.ones(len(boxes), np.float32), labels),
        'feet': feet, 'seen': seen, 'lens': lens, 'mount': mount,
    }  # fmt: skip


def errors(frames: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By band of true distance: objects, and the median and 90th percentile of the errors."""
    rows = []
    for frame in frames:
        places = place(frame['found'], DETECTION, frame['lens'], frame['mount'], Deviations(0, 0))
        apart = places.positions - frame['feet']
        ahead = frame['feet'][:, 0]
        rows.append(
            np.stack([ahead, np.abs(apart[:, 0]) / ahead, np.hypot(apart[:, 0], apart[:, 1]),
                      frame['seen']], 1)
        )  # fmt: skip
    table = np.concatenate(rows)
    found = []
    for low, high in zip(BANDS_M[:-1], BANDS_M[1:], strict=True):
        band = table[(table[:, 0] >= low) & (table[:, 0] < high)]
        entry: dict[str, Any] = {'band_m': [low, high]}
        for name, some in (('foot_seen', band[band[:, 3] > 0]), ('all', band)):
            known = some[np.isfinite(some[:, 1])]
            entry[name] = {
                'objects': len(some),
                'without_place': len(some) - len(known),
                'relative_median': _quantile(known[:, 1], 0.5),
                'relative_p90': _quantile(known[:, 1], 0.9),
                'position_m_median': _quantile(known[:, 2], 0.5),
            }
        found.append(entry)
    return found


def coverage(frames: list[dict[str, Any]], seed: int, draws: int = 40) -> list[dict[str, Any]]:
    """By band: how many true places lie in the 95 % ellipses of places with random errors."""
    random = np.random.default_rng(seed)
    inside: dict[tuple[str, int], list[bool]] = {}
    unknown: dict[tuple[str, int], int] = {}
    for frame in frames:
        truth, lens, mount = frame['feet'], frame['lens'], frame['mount']
        boxes = frame['found'].boxes
        std = DEVIATIONS.of_feet(boxes)
        band = np.searchsorted(BANDS_M, truth[:, 0], side='right') - 1
        exact = lens.project(mount.to_camera(truth))
        of_box = np.stack([(boxes[:, 0] + boxes[:, 2]) / 2, boxes[:, 3]], 1) - 0.5
        for _ in range(draws):
            roll, pitch = random.normal(0, DEVIATIONS.tilt, 2)
            turn = Mount.of(mount.height_m, roll, pitch).matrix @ Mount.of(1.0).matrix.T
            moved = Mount(tuple((turn @ mount.matrix).reshape(-1)), mount.translation)
            noise = random.normal(0, 1, (len(truth), 2)) * std
            for name, pixels, use in (('points', exact, ~np.isnan(exact[:, 0])),
                                      ('boxes', of_box, frame['seen'])):  # fmt: skip
                # Where along its lower edge a box has its foot is an error that it has already.
                added = noise if name == 'points' else noise * (0, 1)
                places = locate(pixels + added, lens, moved, std, DEVIATIONS.tilt)
                for i in np.flatnonzero(use & (band < len(BANDS_M) - 1)):
                    key = (name, int(band[i]))
                    if places.known[i]:
                        inside.setdefault(key, []).append(_is_inside(places, i, truth[i]))
                    else:
                        unknown[key] = unknown.get(key, 0) + 1
    return [
        {
            'band_m': [BANDS_M[k], BANDS_M[k + 1]],
            **{
                name: {
                    'draws': len(inside.get((name, k), [])),
                    'without_place': unknown.get((name, k), 0),
                    'covered': float(np.mean(inside[name, k])) if (name, k) in inside else None,
                }
                for name in ('points', 'boxes')
            },
        }
        for k in range(len(BANDS_M) - 1)
    ]


def _is_inside(places: GroundPoints, i: int, truth: np.ndarray) -> bool:
    apart = (places.positions[i] - truth)[:2]
    return bool(apart @ np.linalg.solve(places.covariance[i, :2, :2], apart) < CHI2_95)


def times(frame: dict[str, Any], repeats: int) -> dict[str, float]:
    """Milliseconds of one core (median) for so many boxes, with distortion, and for lane markings.

    CPU time, so that it says the same on a busy machine.
    """
    cv2.setNumThreads(1)
    random = np.random.default_rng(0)
    lens = CameraModel(
        WIDTH, HEIGHT, 1158.8, 1154.1, 669.7, 388.1, 'plumb_bob',
        (-0.257, 0.0436, -0.0007, 0.0001, -0.115),
    )  # fmt: skip
    found = {}
    for count in (1, 50, 100, 1000):
        boxes = random.uniform((0, 300, 700, 420), (600, 400, 1280, 700), (count, 4))
        some = Detections(boxes.astype(np.float32), np.ones(count, np.float32), np.full(count, 2))
        found[f'place_{count}'] = _time_ms(
            lambda some=some: place(some, DETECTION, lens, frame['mount']), repeats
        )
    mask = np.ones((HEIGHT, WIDTH), np.uint8)
    for k in range(8):
        mask[420:, 150 * k + 40 : 150 * k + 48] = 0
    found['lane_lines'] = _time_ms(lambda: lane_lines(mask, 0, lens, frame['mount']), repeats)
    return found


def _time_ms(call: Callable[[], object], repeats: int) -> float:
    samples = []
    for _ in range(repeats):
        started = time.thread_time()
        call()
        samples.append((time.thread_time() - started) * 1e3)
    return round(float(np.median(samples)), 3)


def _quantile(values: np.ndarray, q: float) -> float | None:
    return round(float(np.quantile(values, q)), 4) if len(values) else None


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--drives', type=int, default=24)
    parser.add_argument('--frames', type=int, default=3, help='of each drive')
    parser.add_argument('--repeats', type=int, default=200)
    parser.add_argument('--json', type=Path)
    args = parser.parse_args()
    frames = []
    for seed in range(args.drives):
        config = DriveConfig(seed=seed, width=WIDTH, height=HEIGHT, frames=20 * args.frames,
                             scene=SCENES[seed % len(SCENES)])  # fmt: skip
        drive = Drive(config)
        frames += [objects_of(drive, 20 * k) for k in range(args.frames)]
    report = {
        'command': ' '.join(sys.argv),
        'environment': machine.describe(),
        'frames': len(frames),
        'seeds': [0, args.drives - 1],
        'deviations': {'foot': DEVIATIONS.foot, 'tilt_rad': DEVIATIONS.tilt},
        'errors': errors(frames),
        'coverage': coverage(frames, seed=1),
        'cpu_ms': times(frames[0], args.repeats),
    }
    for row, covered in zip(report['errors'], report['coverage'], strict=True):
        seen, everything = row['foot_seen'], row['all']
        print(f'{row["band_m"]} m: foot seen {seen["objects"]} objects, {seen["relative_median"]} '
              f'median, {seen["relative_p90"]} p90; all {everything["objects"]}, '
              f'{everything["relative_median"]}; covered {covered["points"]["covered"]} of points, '
              f'{covered["boxes"]["covered"]} of boxes')  # fmt: skip
    print(report['cpu_ms'])
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
