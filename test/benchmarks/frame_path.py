# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Where the time of a frame goes in the live node, from the image message to the messages out.

    python test/benchmarks/frame_path.py --model /tmp/bundles/four_tasks --precision bf16

starts the node as a process, sends it rendered 1280x720 bgr8 frames over DDS one by one, listens to
every output, and reads the stages from /diagnostics. Writes docs/results/frame_path.json.
`test/benchmarks/engine_bundles.py` makes the four-task bundle.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from array import array
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import checkout  # noqa: F401
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'test' / 'support')]

ANSWER_S = 2.0
"""How long a frame is waited for, before the next one is sent."""
STAGES = ('image', 'letterbox', 'engine', 'decode', 'publish')


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description='where the time of a frame goes in the node')
    parser.add_argument('--model', default='hydranet_lite0')
    parser.add_argument('--engine', default='openvino')
    parser.add_argument('--precision', default='fp32')
    parser.add_argument('--frames', type=int, default=300)
    parser.add_argument('--json', type=Path, default=ROOT / 'docs/results/frame_path.json')
    args = parser.parse_args()
    from live_node import private_ros_environment

    from mtl_perception import machine, process, shared_memory
    from mtl_perception.bundle import Bundle, find_bundle

    process.tune_allocator()
    shared_memory.use_profile()
    bundle = Bundle.open(find_bundle(args.model))
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(private_ros_environment(Path(folder)))
        figures = measure(Path(folder), bundle, args)
    report = {
        'what': f'stages of the live node, {bundle.manifest.name}, 1280x720 bgr8, one by one, '
        f'every output subscribed to, {args.frames} frames',
        'command': f'python {" ".join(sys.argv)}',
        'machine': machine.describe(),
        'date': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        'bundle_hash': bundle.hash,
        **figures,
    }
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(report, indent=2) + '\n')
    print(json.dumps(figures, indent=2))
    print(f'written to {args.json}')
    return 0


def measure(folder: Path, bundle: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Stage times in milliseconds, over the last 300 frames at most."""
    from fault_runs import camera_values
    from live_node import NODE, NodeProcess, peer, stamped
    from sensor_msgs.msg import Image

    from mtl_perception import kinds
    from mtl_perception.node.messages import message_type
    from mtl_perception.node.topics import output_topic
    from mtl_scenes import Drive, DriveConfig

    drive = Drive(DriveConfig(0, 1280, 720, frames=10, rate_hz=2.0))
    pictures = [
        array('B', np.ascontiguousarray(drive[i].image[..., ::-1]).tobytes()) for i in range(10)
    ]
    topics = {
        output_topic('', task).replace('~', NODE, 1): message_type(kinds.of(task).message)
        for task in bundle.manifest.tasks
    }
    with (
        NodeProcess(
            folder, model=bundle.path.resolve(), engine=args.engine, precision=args.precision,
            autostart='true', build='true',
        ) as node,
        peer() as other,
    ):  # fmt: skip
        node.wait_for_output('active: listening', 600)
        heard = {topic: other.listen(topic, kind) for topic, kind in topics.items()}
        other.until(lambda: all(map(other.node.count_publishers, topics)), 'publishers')
        other.spin(1.0)
        for number in range(args.frames):
            message = Image(height=720, width=1280, encoding='bgr8', step=3840)
            message.data = pictures[number % len(pictures)]
            other.send(stamped(message, time.time()))
            other.until(lambda: all(heard.values()), f'answers to frame {number}', ANSWER_S)
            for messages in heard.values():
                messages.clear()
        values = camera_values(other)['']
    stages = {
        stage: {name: float(values[f'{stage}_ms_{name}']) for name in ('p50', 'p99')}
        for stage in STAGES
    }
    outside = sum(stages[stage]['p50'] for stage in STAGES if stage != 'engine')
    return {
        'processed': int(values['processed']),
        'replaced': int(values['replaced']),
        'stages_ms': stages,
        'outside_engine_ms_p50': round(outside, 2),
        'age_ms': {name: float(values[f'age_ms_{name}']) for name in ('p50', 'p99')},
    }


if __name__ == '__main__':
    sys.exit(main())
