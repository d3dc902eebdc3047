"""What a replayed frame costs beside the engine: `python test/benchmarks/replay_overhead.py BAG`.

The command's own stages (`stages_ms` of run.json), but in CPU time of the thread that replays:
other programs disturb it less than wall time. And the CPU time of the child process that parses the
bag and decodes its images, over all frames. Writes docs/results/replay_overhead.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
import types
from pathlib import Path

from mtl_perception import machine, pipeline
from mtl_perception.cli import main as command
from mtl_perception.replay.runs import bag_replay
from mtl_perception.replay.runs.run import Run

RESULT = Path(__file__).parents[2] / 'docs' / 'results' / 'replay_overhead.json'


def measure(bag: str, model: str) -> dict[str, object]:
    """Milliseconds of CPU a frame: least and median by stage, and the mean of the parser.

    own: what replay adds to the node's way of a frame (reading, scoring, hashing, storing);
    pipeline: letterbox and decoding of the engine's outputs.
    """
    cpu_clock = types.SimpleNamespace(perf_counter=time.thread_time)
    bag_replay.time = pipeline.time = cpu_clock
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        command(['replay', bag, '--model', model, '--output', folder, '--no-report'])
        run = Run.open(folder)
        summary, record = run.summary, next(run.records())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    frames = summary['frames']['processed']
    seconds = (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
    figures = {}
    for rank in ('min', 'p50'):
        stages = {n: s[rank] for n, s in summary['stages_ms'].items() if n != 'engine'}
        pipeline_ms = sum(stages[name] for name in ('letterbox', 'decode'))
        figures[rank] = {
            'own': round(sum(stages.values()) - pipeline_ms, 2),
            'pipeline': round(pipeline_ms, 2),
            'stages': {name: round(value, 2) for name, value in stages.items()},
        }
    return {
        'bag': bag,
        'size': list(record.size),
        'labels': sorted(record.pieces),
        'frames': frames,
        'cpu_ms': figures,
        'cpu_ms_parser_mean': round(1e3 * seconds / frames, 2),
        'records_bytes_per_frame': round(summary['cost']['bytes_per_frame']),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('bags', nargs='+')
    parser.add_argument('--model', default='hydranet_lite0_demo')
    args = parser.parse_args()
    record = {
        'command': f'python test/benchmarks/replay_overhead.py {" ".join(args.bags)}',
        'unit': 'ms of CPU time a frame',
        'environment': machine.describe(),
        'bags': [measure(bag, args.model) for bag in args.bags],
    }
    RESULT.write_text(json.dumps(record, indent=1) + '\n', 'utf-8')
    print(json.dumps(record['bags'], indent=1))


if __name__ == '__main__':
    main()
