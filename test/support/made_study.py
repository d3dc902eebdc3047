# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""A study of made-up cells: the files that runs leave, without any training."""

import json
import random
from pathlib import Path

import yaml

from training.study.cells import EVALUATION, RUN, STATUS, plan
from training.study.config import load_study
from training.study.cost import COST

STUDY = {
    'name': 'made up',
    'run': {
        'data': [{'name': 'made', 'root': 'nowhere'}],
        'optimizer': {'steps': 90, 'batch_size': 4},
        'augment': {'height': 64, 'width': 96, 'input_height': 64, 'input_width': 96},
    },
    'trunks': {
        'pvt_v2_b0': {'trunk': 'pvt_v2_b0'},
        'regnet_bifpn': {'trunk': 'regnety_008', 'neck': 'bifpn'},
    },
    'tasks': {'all': ['semantic', 'detection', 'depth', 'weather']},
    'sharing': ['hard', 'cross_stitch', 'mtan'],
    'balancing': ['equal', 'UW', 'PCGrad', 'FAMO'],
    'exclude': [
        {'sharing': ['cross_stitch', 'mtan'], 'balancing': ['UW', 'PCGrad', 'FAMO']},
        {'trunk': ['regnet_bifpn'], 'sharing': ['cross_stitch', 'mtan']},
        {'trunk': ['regnet_bifpn'], 'balancing': ['UW', 'FAMO']},
    ],
    'seeds': [0, 1, 2],
    'reference': 'regnet_bifpn',
}
BASE = {'semantic': 0.40, 'detection': 0.22, 'depth': 2.4, 'weather': 0.9}
GAIN = {'semantic': 0.05, 'detection': -0.14, 'depth': 0.08, 'weather': 0.01}
COSTS = {'single': 1.0, 'hard': 1.25, 'cross_stitch': 3.9, 'mtan': 2.1}


def write_study(folder: Path, **changes) -> Path:
    """The study file; `changes` replace its keys, None takes one away."""
    values = {**STUDY, 'output': str(folder / 'study'), **changes}
    path = folder / 'study.yaml'
    path.write_text(
        yaml.safe_dump({key: value for key, value in values.items() if value is not None}), 'utf-8'
    )
    return path


def finish(cell, figures: dict, affinity: list | None = None) -> None:
    """Leave what a finished run leaves; figures: task -> figure -> value, of one data set."""
    cell.prepare()
    run = cell.folder / RUN
    run.mkdir(exist_ok=True)
    record = {'results': {'made': {'images': 10, **figures}}}
    (cell.folder / EVALUATION).write_text(json.dumps(record))
    (cell.folder / STATUS).write_text(json.dumps({'state': 'finished', 'training_s': 1.0}))
    (run / 'speed.json').write_text(json.dumps({'images_per_s': 20.0, 'peak_memory_mb': 900.0}))
    if affinity:
        (run / 'affinity.jsonl').write_text(''.join(json.dumps(x) + '\n' for x in affinity))


def figures_of(cell, noise: random.Random) -> dict:
    """Detection is hurt by sharing, the rest helped a little; PCGrad mends some of it."""
    multi = not cell.model.single
    mended = 0.6 if cell.balancing == 'PCGrad' else 1.0
    found = {}
    for task in cell.model.task_names:
        gain = multi * GAIN[task] * (mended if GAIN[task] < 0 else 1)
        gain += noise.gauss(0, 0.006) - 0.03 * (cell.model.trunk != 'pvt_v2_b0')
        value = BASE[task] * (1 - gain if task == 'depth' else 1 + gain)
        found[task] = {
            'semantic': {'miou': value},
            'detection': {'AP50': value, 'AP': 0.55 * value},
            'depth': {'abs_error': value, 'rel_error': value / 12, 'delta1': 1 / value},
            'weather': {'accuracy': value},
        }[task]
    return found


def affinity_of(cell, noise: random.Random) -> list[dict]:
    """Semantic and depth agree; detection pulls away from both as training goes on."""
    tasks = list(cell.model.task_names)
    lines = []
    for step in range(0, 90, 10):
        cosine = [[1.0] * len(tasks) for _ in tasks]
        ahead = [[2e-3] * len(tasks) for _ in tasks]
        for i, first in enumerate(tasks):
            for j, second in enumerate(tasks[:i]):
                pull = -0.004 * step if 'detection' in (first, second) else 0.25
                cosine[i][j] = cosine[j][i] = pull + noise.gauss(0, 0.03)
                ahead[i][j] = ahead[j][i] = 1e-3 * cosine[i][j]
        lines.append({'step': step, 'tasks': tasks, 'cosine': cosine, 'lookahead': ahead})
    return lines


def made_study(folder: Path, fail: int = 1, miss: int = 1, **changes):
    """A study file with nearly all of its cells finished; returns its path."""
    path = write_study(folder, **changes)
    study = load_study(path)
    cells = plan(study)
    noise = random.Random(0)
    multi = [cell for cell in cells if not cell.model.single and cell.model.sharing == 'mtan']
    failed, missed = multi[:fail], multi[fail : fail + miss]
    for cell in cells:
        if cell in failed:
            cell.prepare()
            status = {'state': 'failed', 'code': 1, 'error': 'exit code 1: error: out of luck'}
            (cell.folder / STATUS).write_text(json.dumps(status))
        elif cell not in missed:
            affinity = None if cell.model.single else affinity_of(cell, noise)
            finish(cell, figures_of(cell, noise), affinity)
    models = {}
    for model in dict.fromkeys(cell.model for cell in cells):
        size = COSTS[model.sharing] * (1.3 if model.trunk != 'pvt_v2_b0' else 1)
        models[model.id] = {
            'parameters': int(3.6e6 * size), 'gflop': 1.9 * size, 'memory_mb': 40.0 * size,
            'frame_ms': [20 * size + noise.random() for _ in range(9)],
        }  # fmt: skip
    cost = {'machine': {'load_average': [1.0, 1.0, 1.0]}, 'models': models}
    (study.output / COST).write_text(json.dumps(cost))
    return path
