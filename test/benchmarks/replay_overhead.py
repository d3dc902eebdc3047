# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What a replayed frame costs beside the engine: `python test/benchmarks/replay_overhead.py BAG`.

cpu_ms: CPU time of the two threads that answer and measure, by stage, and of the process that
parses the bag. wall_ms: by how much a frame takes longer than the engine alone takes for the same
pictures, once with the engine on all cores, which it then shares with everything else, and once
with its answers given again after 20 ms in which no core works, as beside an accelerator. Writes
docs/results/replay_overhead.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
import types
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from mtl_evaluation.runs import bag_replay
from mtl_evaluation.runs.bag_replay import BagJob, Interrupted, replay_bag
from mtl_evaluation.runs.cost import PIPELINE
from mtl_evaluation.runs.fleet import EngineSettings
from mtl_evaluation.runs.part import FrameRecord, Part
from mtl_evaluation.runs.run import part_file
from mtl_perception import machine, pipeline
from mtl_perception.engines.base import Engine
from mtl_perception.pipeline import Pipeline

RESULT = Path(__file__).parents[2] / 'docs' / 'results' / 'replay_overhead.json'
ACCELERATOR_S = 0.02
WARM_UP = 5


class Tape:
    """An engine that keeps what it was asked and what it answered."""

    def __init__(self, engine: Engine) -> None:
        self.info = engine.info
        self.engine = engine
        self.batches: list[np.ndarray] = []
        self.answers: list[dict[str, Any]] = []

    def run(self, batch: np.ndarray) -> dict[str, Any]:
        answer = self.engine.run(batch)
        self.batches.append(batch.copy())
        self.answers.append(answer)
        return answer


class Accelerator:
    """Gives the answers of a tape again, and needs no core for it."""

    def __init__(self, tape: Tape) -> None:
        self.info = tape.info
        self._answers = iter(tape.answers)

    def run(self, batch: np.ndarray) -> dict[str, Any]:
        time.sleep(ACCELERATOR_S)
        return next(self._answers)


def replayed(bag: Path, opened: Pipeline, frames: int) -> tuple[list[FrameRecord], int]:
    """Records of the first frames after the warm-up, and the bytes that they take on disk."""

    def enough(done: int, total: int) -> None:
        if done == frames:
            raise Interrupted

    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        (run / 'frames').mkdir()
        with suppress(Interrupted):
            replay_bag(BagJob('bag', bag), run, opened, enough)
        file = part_file(run, 'bag')
        part = Part(file, 'bag', opened.tasks)
        records = list(part.records())
        part.close()
        return records[WARM_UP:], file.stat().st_size


def frame_ms(records: list[FrameRecord]) -> dict[str, float]:
    """Wall time of a frame: median and mean of the measuring thread's stages together."""
    whole = [
        sum(value for name, value in record.timings_ms.items() if name not in PIPELINE)
        for record in records
    ]
    return {'p50': statistics.median(whole), 'mean': statistics.mean(whole)}


def engine_ms(engine: Engine, batches: list[np.ndarray]) -> dict[str, float]:
    """The engine alone on the same pictures."""
    times = []
    for batch in batches:
        began = time.perf_counter()
        engine.run(batch)
        times.append(1e3 * (time.perf_counter() - began))
    times = times[WARM_UP:]
    return {'p50': statistics.median(times), 'mean': statistics.mean(times)}


def cpu_ms(bag: Path, opened: Pipeline, frames: int) -> dict[str, Any]:
    """CPU time a frame: least and median by stage, and the mean of the parser.

    own: what replay adds to the node's way of a frame (reading, scoring, hashing, storing);
    pipeline: letterbox and decoding of the engine's outputs.
    """
    wall = types.SimpleNamespace(perf_counter=time.perf_counter)
    bag_replay.time = pipeline.time = types.SimpleNamespace(perf_counter=time.thread_time)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    records, size = replayed(bag, opened, frames)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    bag_replay.time = pipeline.time = wall
    seconds = (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
    count = len(records) + WARM_UP
    found: dict[str, Any] = {}
    for name, rank in (('min', min), ('p50', statistics.median)):
        stages = {
            stage: rank([record.timings_ms[stage] for record in records])
            for stage in records[0].timings_ms
            if stage != 'engine'
        }
        beside = stages['letterbox'] + stages['decode']
        found[name] = {
            'own': sum(stages.values()) - beside,
            'pipeline': beside,
            'stages': stages,
        }
    return found | {'parser_mean': 1e3 * seconds / count, 'records_bytes_per_frame': size / count}


def measure(bag: Path, model: str, frames: int) -> dict[str, Any]:
    """Everything about one bag."""
    with EngineSettings(model).open() as opened:
        engine = opened.engine
        cpu = cpu_ms(bag, opened, frames)
        opened.engine = tape = Tape(engine)
        records, _ = replayed(bag, opened, frames)
        alone = engine_ms(engine, tape.batches)
        opened.engine = Accelerator(tape)
        beside_sleep, _ = replayed(bag, opened, frames)
        opened.engine = engine
    shared, waiting = frame_ms(records), frame_ms(beside_sleep)
    slept = statistics.mean(record.timings_ms['engine'] for record in beside_sleep)
    return {
        'bag': str(bag),
        'size': list(records[0].size),
        'labels': sorted(records[0].pieces),
        'frames': len(records),
        'wall_ms': {
            'engine_on_all_cores': {
                'frame': shared,
                'engine_alone': alone,
                'outside_engine': {key: shared[key] - alone[key] for key in alone},
            },
            'engine_on_no_core': {
                'frame': waiting,
                'engine': slept,
                'outside_engine': {key: value - slept for key, value in waiting.items()},
            },
        },
        'cpu_ms': cpu,
    }


def rounded(value: Any) -> Any:
    """With two decimals everywhere."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 2) if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('bags', nargs='+', type=Path)
    parser.add_argument('--model', default='models/hydranet_lite0')
    parser.add_argument('--frames', type=int, default=150)
    args = parser.parse_args()
    record = {
        'command': f'python test/benchmarks/replay_overhead.py {" ".join(map(str, args.bags))}',
        'unit': 'ms per frame',
        'environment': machine.describe(),
        'bags': [rounded(measure(bag, args.model, args.frames)) for bag in args.bags],
    }
    RESULT.write_text(json.dumps(record, indent=1) + '\n', 'utf-8')
    print(json.dumps(record['bags'], indent=1))


if __name__ == '__main__':
    main()
