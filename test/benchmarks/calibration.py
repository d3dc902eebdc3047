# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Our undistortion on photographs of a real lens: a chessboard calibration, and four pixels.

    python test/benchmarks/calibration.py ../shared/data/calibration \
        --json docs/results/calibration.json

OpenCV finds the corners and calibrates (plumb_bob). What is measured is `geometry.py`: the corners,
undistorted by it, against the board projected by a pinhole, and four pixels of the raw image as
places on the ground, 1.3 m below a level camera, against OpenCV's.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mtl_perception import machine
from mtl_perception.camera_model import CameraModel
from mtl_perception.geometry import Mount, on_ground

COLUMNS, ROWS = 9, 6
SIZE = (1280, 720)
PIXELS = np.array([[100.0, 640], [1250, 560], [640, 600], [300, 700]])
HEIGHT_M = 1.3


def corners_of(folder: Path) -> dict[str, np.ndarray]:
    """Corners [54, 2] by photograph, of those on which all are seen."""
    found = {}
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 30, 1e-3)
    for path in sorted(folder.glob('*.jpg')):
        grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        seen, corners = cv2.findChessboardCorners(grey, (COLUMNS, ROWS))
        if seen and grey.shape[::-1] == SIZE:
            found[path.name] = cv2.cornerSubPix(grey, corners, (11, 11), (-1, -1), criteria)
    return found


def measure(folder: Path) -> dict[str, Any]:
    """Calibrate, and compare."""
    corners = corners_of(folder)
    board = np.zeros((COLUMNS * ROWS, 3), np.float32)
    board[:, :2] = np.mgrid[:COLUMNS, :ROWS].T.reshape(-1, 2)
    rms, k, d, turns, shifts = cv2.calibrateCamera(
        [board] * len(corners), list(corners.values()), SIZE, None, None
    )
    lens = (*SIZE, k[0, 0], k[1, 1], k[0, 2], k[1, 2])
    camera = CameraModel(*lens, 'plumb_bob', tuple(d.reshape(-1).tolist()))
    pinhole = CameraModel(*lens)
    errors: dict[str, list[np.ndarray]] = {'undistorted': [], 'as_a_pinhole': []}
    for turn, shift, seen in zip(turns, shifts, corners.values(), strict=True):
        expected = pinhole.project(board @ cv2.Rodrigues(turn)[0].T + shift.reshape(3))
        pixels = seen.reshape(-1, 2).astype(float)
        errors['undistorted'].append(pinhole.project(camera.rays(pixels)) - expected)
        errors['as_a_pinhole'].append(pixels - expected)
    mount = Mount.of(HEIGHT_M)
    ours = on_ground(PIXELS, camera, mount)[:, 0]
    flat = cv2.undistortPoints(PIXELS[:, None], k, d).reshape(-1, 2)
    theirs = HEIGHT_M / flat[:, 1]
    ignored = on_ground(PIXELS, pinhole, mount)[:, 0]
    return {
        'photographs': len(corners),
        'opencv': {'rms_px': rms, 'k': k.tolist(), 'd': d.reshape(-1).tolist()},
        'rms_px': {
            name: float(np.sqrt((np.concatenate(values) ** 2).sum(1).mean()))
            for name, values in errors.items()
        },
        'ground_m': [
            {
                'pixel': pixel,
                'ours': float(a),
                'opencv': float(b),
                'relative': float(a / b - 1),
                'distortion_ignored': float(c),
            }
            for pixel, a, b, c in zip(PIXELS.tolist(), ours, theirs, ignored, strict=True)
        ],
        'largest_relative': float(np.abs(ours / theirs - 1).max()),
    }


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('folder', type=Path)
    parser.add_argument('--json', type=Path)
    args = parser.parse_args()
    found = measure(args.folder)
    rms = found['rms_px']
    print(f'{found["photographs"]} photographs: {rms["undistorted"]:.3f} px rms through our '
          f'undistortion, {rms["as_a_pinhole"]:.1f} without')  # fmt: skip
    for row in found['ground_m']:
        print(f'{row["pixel"]}: {row["ours"]:.3f} m, OpenCV {row["opencv"]:.3f} m, with the '
              f'distortion ignored {row["distortion_ignored"]:.2f} m')  # fmt: skip
    if args.json:
        report = {'command': ' '.join(sys.argv), 'environment': machine.describe(), **found}
        args.json.write_text(json.dumps(report, indent=2) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
