# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""PVTv2-B0 without ImageNet weights: what distillation, teachers and resizing give, step by step.

    PYTHONPATH=. python test/benchmarks/without_imagenet.py [--seeds 0 1 2] [--only scratch ...]

training/configs/ablation/without_imagenet.yaml from scratch, then with one more step each time, all
for the same number of optimizer steps of as many images; and stride 4 for boxes beside the second
of them. Every run lies below runs/without_imagenet/ and is begun or resumed. Writes
docs/results/without_imagenet.json after each; what is there under the same schedule stays.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import asdict
from itertools import product
from pathlib import Path

import checkout  # noqa: F401
from ablation import schedule, show, trained  # beside this file

from mtl_perception import machine
from training.config import load_config
from training.study.significance import compare

ROOT = Path(__file__).parents[2]
RESULT = ROOT / 'docs' / 'results' / 'without_imagenet.json'
PEOPLE = ROOT / 'training' / 'configs' / 'ablation' / 'without_imagenet.yaml'
TEACHERS = PEOPLE.with_name('without_imagenet_teachers.yaml')
DISTILLED = ['network.trunk_weights=docs/studies/real_roads/initial/pvt_v2_b0.safetensors']
RESIZING = [
    'stages=[{until: 0.4, augment: {height: 64, width: 96}}, {until: 0.8}, '
    '{until: 1.0, augment: {height: 144, width: 240}}]'
]
"""40 % of the steps at 0.4 of the area, 20 % at 2.25 times: the same pixels in all, to 1 %."""

P2 = ['network.detection.levels=p2-p5']

VARIANTS = {
    'scratch': (PEOPLE, []),
    'distilled': (PEOPLE, DISTILLED),
    'teachers': (TEACHERS, DISTILLED),
    'resizing': (TEACHERS, DISTILLED + RESIZING),
    'p2': (PEOPLE, DISTILLED + P2),
}
BEFORE = {
    'distilled': 'scratch', 'teachers': 'distilled', 'resizing': 'teachers', 'p2': 'distilled',
}  # fmt: skip
"""The variant that each adds one step to."""


def differences(results: dict[str, dict[str, dict]]) -> dict[str, dict[str, dict]]:
    """Every figure of every variant against the variant before, paired by seed."""
    found: dict[str, dict[str, dict]] = {}
    for after, before in BEFORE.items():
        rows = [results[name] for name in (before, after)]
        seeds = sorted(rows[0].keys() & rows[1].keys())
        figures = [set(row[seed]['val']) for row in rows for seed in seeds]
        found[after] = {}
        for figure in sorted(set.intersection(*figures)) if figures else ():
            values = [{int(seed): row[seed]['val'][figure] for seed in seeds} for row in rows]
            found[after][figure] = asdict(compare(*values))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--only', nargs='+', choices=VARIANTS, default=[*VARIANTS])
    parser.add_argument('--json', type=Path, default=RESULT)
    args = parser.parse_args()
    record = {
        'command': shlex.join(['python', 'test/benchmarks/without_imagenet.py', *sys.argv[1:]]),
        'environment': machine.describe(),
        'schedule': schedule(load_config(PEOPLE), []),
    }
    results: dict[str, dict[str, dict]] = {name: {} for name in VARIANTS}
    if args.json.is_file():
        earlier = json.loads(args.json.read_text('utf-8'))
        results |= earlier['results'] if earlier['schedule'] == record['schedule'] else {}
    for seed, name in product(args.seeds, args.only):
        if str(seed) not in results[name]:
            path, changes = VARIANTS[name]
            run = [f'seed={seed}', f'output=runs/without_imagenet/{name}_{seed}']
            results[name][str(seed)] = trained(load_config(path, [*changes, *run]))
        kept = record | {'results': results, 'differences': differences(results)}
        args.json.write_text(json.dumps(kept, indent=1) + '\n', 'utf-8')
    show({f'{name}, {seed}': row for name, seeds in results.items() for seed, row in seeds.items()})


if __name__ == '__main__':
    main()
