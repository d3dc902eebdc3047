# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""A command of a GPU day: `python -m tools.gpu_day.day train|finish|engines PACK --output FOLDER`.

Every part runs in a process of its own, and the JSON is written after each: what fails or takes too
long affects no other part.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TAIL = 12
"""Lines of a failed part that are kept."""
DRY = (
    'accelerator=cpu', 'precision=32-true', 'workers=0', 'log_every=1', 'validate_images=2',
    'augment={height: 64, width: 96, input_height: 64, input_width: 96}',
    'network={trunk: resnet10t, neck_channels: 16, init_from: ""}',
    'optimizer={batch_size: 2, warmup_steps: 1}',
)  # fmt: skip


class Day:
    """Parts of one command, and what is known of them."""

    def __init__(self, name: str, output: Path, minutes: float) -> None:
        """The JSON is `output/NAME.json`."""
        self.path = output / f'{name}.json'
        self.ends = time.monotonic() + 60 * minutes
        self.record: dict[str, Any] = {'command': ' '.join(sys.argv), 'parts': {}}

    @property
    def left_s(self) -> float:
        """Seconds until the command has to be done."""
        return self.ends - time.monotonic()

    def run(
        self, name: str, command: Sequence[str], reserve_s: float = 0, stopped: bool = False
    ) -> bool:
        """Run a part until `reserve_s` before the end; whether it did what it should.

        stopped: it is meant to be stopped by the time, as a training that resumes.
        """
        begun, limit = time.monotonic(), max(1.0, self.left_s - reserve_s)
        with Utilisation() as utilisation:
            try:
                done = subprocess.run(
                    [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                    text=True, timeout=limit, check=False,
                )  # fmt: skip
                code, text = done.returncode, done.stdout
            except subprocess.TimeoutExpired as error:
                code, text = None, (error.stdout or b'').decode(errors='replace')
        good = code == 0 or (code is None and stopped)
        self.record['parts'][name] = {
            'command': ' '.join(command),
            'seconds': round(time.monotonic() - begun, 1),
            'exit_code': 'stopped at its time' if code is None else code,
            'gpu_utilisation': utilisation.mean,
            'last_lines': text.splitlines()[-TAIL:],
        }
        self.write()
        print(f'{name}: {"done" if good else "failed"}, {self.left_s:.0f} s left', flush=True)
        return good

    def keep(self, name: str, path: Path) -> None:
        """Add a JSON that a part wrote."""
        if path.is_file():
            self.record[name] = json.loads(path.read_text('utf-8'))
            self.write()

    def write(self) -> None:
        """What is known so far."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.record, indent=1) + '\n', 'utf-8')


class Utilisation:
    """Mean share of time in which the GPU worked, by nvidia-smi once per second; None without."""

    def __enter__(self) -> Utilisation:
        """Begin to look."""
        self.seen: list[float] = []
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.done.set()
        self.thread.join()

    @property
    def mean(self) -> float | None:
        """In [0, 1]."""
        return round(sum(self.seen) / len(self.seen) / 100, 3) if self.seen else None

    def _look(self) -> None:
        query = ['nvidia-smi', '--query-gpu=utilization.gpu', '--format=csv,noheader,nounits']
        if shutil.which(query[0]) is None:
            return
        while not self.done.wait(1):
            answer = subprocess.run(query, capture_output=True, text=True, check=False)
            self.seen.extend(float(word) for word in answer.stdout.split()[:1])


def install(day: Day, pack: Path) -> None:
    """The wheels of the pack, if it has any."""
    wheels = sorted(str(path) for path in (pack / 'wheels').glob('*.whl'))
    if wheels:
        day.run('install', ['-m', 'pip', 'install', '--no-index', '--no-deps', *wheels])


def train(day: Day, args: argparse.Namespace) -> None:
    """Data rate, then training until the time is up."""
    config, run = str(args.pack / 'config.yaml'), args.output / 'run'
    steps = ['--batches', '1', '--steps', '1'] if args.dry_run else []
    rate = args.output / 'rate.json'
    command = ['-m', 'training.data.rate', config, *args.overrides, *steps, '--json', str(rate)]
    day.run('data rate', command, reserve_s=day.left_s * 0.7)
    day.keep('data_rate', rate)
    _train(day, args, config, run, reserve_s=20)


def finish(day: Day, args: argparse.Namespace) -> None:
    """Training goes on, evaluation of the best weights, export."""
    config, run = str(args.pack / 'config.yaml'), args.output / 'run'
    reserve = day.left_s * 0.4
    _train(day, args, config, run, reserve)
    result, bundle = args.output / 'evaluation.json', args.output / 'bundle'
    command = ['-m', 'training.evaluate', str(run), '--latency', '0', '--json', str(result)]
    day.run('evaluation', [*command, '--limit', '2' if args.dry_run else '200'], reserve / 3)
    day.keep('evaluation', result)
    metrics = ['--metrics', str(result)] if result.is_file() else []
    day.run('export', ['-m', 'training.export', str(run), str(bundle), *metrics], reserve_s=10)


def _train(
    day: Day, args: argparse.Namespace, config: str, run: Path, reserve_s: float
) -> None:  # fmt: skip
    every = ['optimizer.steps=2', 'checkpoint_every=1', 'validate_every=2'] if args.dry_run else []
    command = ['-m', 'training.train', config, *args.overrides, f'output={run}', *every]
    day.run('training', command, reserve_s, stopped=True)
    day.keep('speed', run / 'speed.json')


def engines(day: Day, args: argparse.Namespace) -> None:
    """Latencies of networks in torch, and of the exported bundle in the engines that are there."""
    result = args.output / 'latency.json'
    size = ['--height', '64', '--width', '96', '--runs', '3'] if args.dry_run else []
    trunks = ['resnet10t'] if args.dry_run else ['pvt_v2_b0', 'pvt_v2_b2', 'tf_efficientnet_lite0']
    command = ['-m', 'tools.gpu_day.latency', '--trunks', *trunks, *size, '--json', str(result)]
    day.run('latency', command, reserve_s=day.left_s * 0.4)
    day.keep('latency', result)
    bundle, bench = args.output / 'bundle', args.output / 'bench.json'
    if bundle.is_dir():
        frames = ['--frames', '3', '--engine', 'onnxruntime:fp32'] if args.dry_run else []
        command = ['-m', 'tools.gpu_day.bench', str(bundle), '--json', str(bench), *frames]
        day.run('bench', command, reserve_s=10)
        day.keep('bench', bench)


COMMANDS = {'train': train, 'finish': finish, 'engines': engines}


def main(argv: list[str] | None = None) -> int:
    """Command line; exit code 1 when any part failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('command', choices=COMMANDS)
    parser.add_argument('pack', type=Path, help='folder that pack.py wrote')
    parser.add_argument('overrides', nargs='*', metavar='key=value', help='of the configuration')
    parser.add_argument('--output', type=Path, required=True)
    parser.add_argument('--minutes', type=float, default=9, help='that it may take (default: 9)')
    parser.add_argument('--dry-run', action='store_true', help='tiny sizes on a CPU')
    args = parser.parse_intermixed_args(argv)
    if not (args.pack / 'config.yaml').is_file():
        print(f'error: {args.pack} holds no config.yaml; make it with pack.py', file=sys.stderr)
        return 1
    if args.dry_run:
        args.overrides = [*DRY, *args.overrides]
    day = Day(args.command, args.output, args.minutes)
    install(day, args.pack)
    COMMANDS[args.command](day, args)
    from mtl_perception import machine  # the wheels are installed by now

    day.record['environment'] = machine.describe()
    day.write()
    codes = [part['exit_code'] for part in day.record['parts'].values()]
    return 0 if all(code in (0, 'stopped at its time') for code in codes) else 1


if __name__ == '__main__':
    sys.exit(main())
