# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What `adaptive_size` does under a load that is switched on and off, in the live node.

    mtl-perception compile MODEL --rate 10
    python test/benchmarks/adaptation.py --model MODEL --rate 10 --images FOLDER

starts the node as a process, sends it 1280x720 bgr8 frames over DDS at the rate (of a folder of
consecutive pictures, or rendered ones), and starts busy processes in the middle. Every second it
notes the input size, frames answered and replaced, and the age of the answers. The same again
with a fixed size. Writes docs/results/adaptation.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from array import array
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import checkout  # noqa: F401
import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'test' / 'support')]

BUSY = 'while True: pass'
CAMERA = (1280, 720)


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description='adaptive_size under a load that comes and goes')
    parser.add_argument('--model', default='hydranet_lite0')
    parser.add_argument('--rate', type=float, default=10.0)
    parser.add_argument('--images', type=Path, help='folder of consecutive pictures')
    parser.add_argument('--phases', type=float, nargs=3, default=(20, 40, 60),
                        help='seconds before, under and after the load')  # fmt: skip
    parser.add_argument('--busy', type=int, default=os.cpu_count(), help='processes of the load')
    parser.add_argument('--json', type=Path, default=ROOT / 'docs/results/adaptation.json')
    args = parser.parse_args()
    from live_node import private_ros_environment

    from mtl_perception import machine, process, shared_memory
    from mtl_perception.bundle import Bundle, find_bundle

    process.tune_allocator()
    shared_memory.use_profile()
    bundle = Bundle.open(find_bundle(args.model))
    frames = pictures(args.images)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(private_ros_environment(Path(folder)))
        runs = {
            name: measure(Path(folder), bundle, frames, args, adaptive)
            for name, adaptive in (('adaptive', True), ('fixed', False))
        }
    report = {
        'what': f'{bundle.manifest.name} at {args.rate:g} Hz, load of {args.busy} busy processes '
        f'after {args.phases[0]:g} s for {args.phases[1]:g} s',
        'frames': str(args.images) if args.images else 'generated drive',
        'command': f'python {" ".join(sys.argv)}',
        'machine': machine.describe(),
        'date': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        'bundle_hash': bundle.hash,
        'runs': runs,
    }
    args.json.write_text(json.dumps(report, indent=1) + '\n')
    print(f'written to {args.json}')
    return 0


def pictures(folder: Path | None) -> list[array[int]]:
    """Up to 100 frames, bgr8 bytes of the camera's size; there and back, so that they go on."""
    if folder is None:
        from mtl_scenes import Drive, DriveConfig

        drive = Drive(DriveConfig(0, *CAMERA, frames=20, rate_hz=10.0))
        found = [drive[i].image[..., ::-1] for i in range(20)]
    else:
        paths = sorted(p for p in folder.iterdir() if p.suffix in ('.jpg', '.jpeg', '.png'))[:100]
        found = [cv2.resize(cv2.imread(str(path)), CAMERA) for path in paths]
    frames = [array('B', np.ascontiguousarray(image).tobytes()) for image in found]
    return frames + frames[-2:0:-1]


def measure(
    folder: Path, bundle: Any, frames: list[array[int]], args: argparse.Namespace, adaptive: bool
) -> dict[str, Any]:
    """Sums by phase, and what was seen each second."""
    from diagnostic_msgs.msg import DiagnosticArray
    from live_node import NODE, NodeProcess, peer, stamped
    from sensor_msgs.msg import Image
    from vision_msgs.msg import Detection2DArray

    names = ('before', 'under', 'after')
    begin, end = args.phases[0], args.phases[0] + args.phases[1]
    seconds: list[dict[str, Any]] = []
    busy: list[subprocess.Popen[bytes]] = []
    with (
        NodeProcess(
            folder, model=bundle.path.resolve(), autostart='true', target_rate_hz=args.rate,
            adaptive_size=str(adaptive).lower(), diagnostics_period_s=0.5,
        ) as node,
        peer() as other,
    ):  # fmt: skip
        node.wait_for_output('active: listening', 600)
        heard = other.listen(f'{NODE}/detections', Detection2DArray)
        diagnostics = other.listen('/diagnostics', DiagnosticArray)
        other.spin(2.0)
        started = time.monotonic()
        sent = 0
        try:
            while (now := time.monotonic() - started) < sum(args.phases):
                if begin <= now < end and not busy:
                    busy = [
                        subprocess.Popen([sys.executable, '-c', BUSY]) for _ in range(args.busy)
                    ]
                if now >= end and busy:
                    _stop(busy)
                message = Image(height=CAMERA[1], width=CAMERA[0], encoding='bgr8')
                message.step = 3 * CAMERA[0]
                message.data = frames[sent % len(frames)]
                other.send(stamped(message, time.time()))
                sent += 1
                other.spin(max(0.0, sent / args.rate - (time.monotonic() - started)))
                if sent % round(args.rate) == 0:
                    statuses = diagnostics[-1].status
                    values = {item.key: item.value for s in statuses for item in s.values}
                    seconds.append({
                        'second': round(time.monotonic() - started),
                        'phase': names[(now >= begin) + (now >= end)],
                        'input': values['input'],
                        'sent': sent,
                        'answered': len(heard),
                        'replaced': int(values['replaced']),
                        'age_ms_p99': float(values['age_ms_p99']),
                    })  # fmt: skip
                    print(json.dumps(seconds[-1]), flush=True)
        finally:
            _stop(busy)
        log = [
            line
            for line in node.output.splitlines()
            if 'input becomes' in line or 'again (step' in line
        ]
    return {'phases': _by_phase(seconds), 'log': log, 'seconds': seconds}


def _stop(busy: list[subprocess.Popen[bytes]]) -> None:
    for process in busy:
        process.kill()
        process.wait()
    busy.clear()


def _by_phase(seconds: list[dict[str, Any]]) -> dict[str, Any]:
    """Sent and answered in each phase, and the sizes that ran, in order."""
    phases: dict[str, Any] = {}
    before = {'sent': 0, 'answered': 0}
    for name in dict.fromkeys(row['phase'] for row in seconds):
        rows = [row for row in seconds if row['phase'] == name]
        phases[name] = {
            **{key: rows[-1][key] - before[key] for key in before},
            'sizes': list(dict.fromkeys(row['input'] for row in rows)),
            'last_age_ms_p99': rows[-1]['age_ms_p99'],
        }
        before = {key: rows[-1][key] for key in before}
    return phases


if __name__ == '__main__':
    sys.exit(main())
