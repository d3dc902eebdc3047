# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""How many camera frames are lost between a publisher process and the node, over real DDS.

    python test/benchmarks/transport_loss.py

publishes 300 bgr8 frames of 1280x720 at 30 Hz, once with the Fast DDS profile of this package and
once without, and compares with the node's own `received` counter in /diagnostics. Writes
docs/results/transport_loss.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import threading
import time
from array import array
from contextlib import ExitStack
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import checkout  # noqa: F401
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'test' / 'support')]

PLAIN_PROFILE = '<?xml version="1.0"?><dds><profiles/></dds>'


def main() -> int:
    """Measure both transports, each in a fresh pair of processes."""
    parser = argparse.ArgumentParser(description='frames lost between a publisher and the node')
    parser.add_argument('--model', default='tiny', help='bundle; tiny: that of the tests')
    parser.add_argument('--engine', default='auto')
    parser.add_argument('--frames', type=int, default=300)
    parser.add_argument('--rate', type=float, default=30.0, help='frames per second')
    parser.add_argument('--width', type=int, default=1280)
    parser.add_argument('--height', type=int, default=720)
    parser.add_argument('--out', type=Path, default=ROOT / 'docs/results/transport_loss.json')
    parser.add_argument('--one', choices=('profile', 'plain'), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(_measure(arguments)))
        return 0
    runs = {name: _in_fresh_process(name) for name in ('profile', 'plain')}
    report = {
        'what': f'{arguments.frames} bgr8 frames of {arguments.width}x{arguments.height} at '
        f'{arguments.rate:g} Hz, best effort, depth 5, publisher and node in two processes',
        'command': f'python {" ".join(sys.argv)}',
        'model': arguments.model,
        'runs': runs,
        'machine': {
            'cpu': _cpu(),
            'cores': os.cpu_count(),
            'load_1min': round(os.getloadavg()[0], 2),
            'system': platform.platform(),
            'python': platform.python_version(),
            'rclpy': version('ros-jazzy-rclpy'),
        },
        'date': datetime.now(timezone.utc).isoformat(timespec='seconds'),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2) + '\n')
    for name, run in runs.items():
        print(
            f'{name:8} sent {run["sent"]}  received {run["received"]}  lost {run["lost"]}  '
            f'stamp to detections p50 {run["latency_ms_p50"]} p99 {run["latency_ms_p99"]} ms'
        )
    print(f'written to {arguments.out}')
    return 0


def _in_fresh_process(name: str) -> dict[str, Any]:
    """The middleware reads its profile once per process."""
    import subprocess

    from mtl_perception.shared_memory import PROFILE_VARIABLES, use_profile

    environment = {k: v for k, v in os.environ.items() if k not in PROFILE_VARIABLES}
    with tempfile.TemporaryDirectory() as folder:
        if name == 'profile' and use_profile(environment) is None:
            sys.exit('the Fast DDS profile config/fastdds_shm.xml is not there')
        if name == 'plain':
            plain = Path(folder) / 'plain.xml'
            plain.write_text(PLAIN_PROFILE)
            environment[PROFILE_VARIABLES[0]] = str(plain)
        environment |= {
            'ROS_DOMAIN_ID': str(1 + os.getpid() % 100),
            'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
            'ROS_LOG_DIR': folder,
        }
        command = [sys.executable, *sys.argv, '--one', name]
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
    return json.loads(done.stdout.splitlines()[-1])


def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    from live_node import BEST_EFFORT, NODE, NodeProcess, Peer, values
    from sensor_msgs.msg import Image
    from tiny_bundle import write_tiny_bundle
    from vision_msgs.msg import Detection2DArray

    from mtl_perception import process

    process.tune_allocator()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        model = arguments.model
        if model == 'tiny':
            model = write_tiny_bundle(Path(folder) / 'tiny')
        node = stack.enter_context(
            NodeProcess(
                Path(folder), autostart='true', build='true', model=model,
                engine=arguments.engine, diagnostics_period_s=0.5,
            )
        )  # fmt: skip
        node.wait_for_output('active: listening', 600)
        peer = Peer()
        latency_ms: list[float] = []

        def on_detections(message: Detection2DArray) -> None:
            stamp = message.header.stamp
            latency_ms.append((time.time() - stamp.sec - stamp.nanosec / 1e9) * 1e3)

        peer.node.create_subscription(Detection2DArray, f'{NODE}/detections', on_detections, 50)
        publisher = peer.node.create_publisher(Image, f'{NODE}/image', BEST_EFFORT)
        peer.until(publisher.get_subscription_count, 'subscription of the node')
        peer.until(
            lambda: peer.node.count_publishers(f'{NODE}/detections'), 'publisher of the node'
        )
        peer.spin(1.0)
        stop = threading.Event()
        spinner = threading.Thread(target=lambda: _spin(peer, stop))
        spinner.start()
        sent = _publish(publisher, arguments)
        time.sleep(1.5)
        stop.set()
        spinner.join()
        camera = values(peer.diagnostics()['perception: camera'])
        peer.close()
        node.stop()
    p50, p99 = np.percentile(latency_ms or [float('nan')], (50, 99))
    received = int(camera['received'])
    return {
        'sent': sent,
        'received': received,
        'lost': sent - received,
        'processed': int(camera['processed']),
        'replaced': int(camera['replaced']),
        'latency_ms_p50': round(float(p50), 2),
        'latency_ms_p99': round(float(p99), 2),
        'node_stages_ms': {key: float(value) for key, value in camera.items() if '_ms_p' in key},
    }


def _spin(peer: Any, stop: threading.Event) -> None:
    while not stop.is_set():
        peer.spin(0.05)


def _publish(publisher: Any, arguments: argparse.Namespace) -> int:
    """Publish at the given rate; frames differ, the message is reused as a camera driver would."""
    from sensor_msgs.msg import Image

    height, width = arguments.height, arguments.width
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    start_s = time.monotonic() + 0.1
    for number in range(arguments.frames):
        pixels[:8] = number % 256
        message = Image(height=height, width=width, encoding='bgr8', step=3 * width)
        message.data = array('B', pixels.tobytes())
        time.sleep(max(0.0, start_s + number / arguments.rate - time.monotonic()))
        now_ns = time.time_ns()
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(now_ns, 10**9)
        message.header.frame_id = 'camera'
        publisher.publish(message)
    return int(arguments.frames)


def _cpu() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(':', 1)[1].strip() for line in lines if 'model name' in line), '')


if __name__ == '__main__':
    sys.exit(main())
