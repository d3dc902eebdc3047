# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Hold an evaluation against the official BDD100K toolkit: `python -m training.oracle RUN`.

RUN is the output folder of `python -m training.evaluate --output RUN --official`. The toolkit
scores the same predictions against the same labels; every figure must be equal to 4 digits. It
lives in an environment of its own, which `make oracle` makes, and runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtl_evaluation.truth.label_files import LabelError, read_json, scalabel_frames
from mtl_perception import machine
from mtl_perception.tasks import DETECTION, DRIVABLE, SEMANTIC
from training.command import check_output, run
from training.data.bdd_folders import find_box_file
from training.evaluation.official import BOXES, MASKS

PYTHON = Path(__file__).parents[1] / '.cache' / 'oracle' / 'bin' / 'python'
EQUAL = 5e-5
"""Largest difference of two figures, as fractions, that are equal to 4 digits."""

TOOLKIT_NAMES = {DETECTION.name: 'det', DRIVABLE.name: 'drivable', SEMANTIC.name: 'sem_seg'}

_DRIVER = """
import json, runpy, sys
for arguments in json.load(sys.stdin):
    sys.argv = ['bdd100k.eval.run', *arguments]
    runpy.run_module('bdd100k.eval.run', run_name='__main__')
"""
"""The toolkit's own command, several times in one process: it takes seconds to be imported."""


class OracleError(Exception):
    """The toolkit is not there, or could not score: what, found, next step."""


@dataclass(frozen=True)
class Job:
    """One thing to score: a task, its truth and its predictions in the toolkit's forms."""

    task: str
    truth: Path
    predictions: Path


@dataclass(frozen=True)
class Figure:
    """One figure, as fractions; None where there is nothing to measure."""

    name: str
    ours: float | None
    official: float | None

    @property
    def difference(self) -> float:
        """Absolute; infinite when only one of the two measured something."""
        if self.ours is None or self.official is None:
            return 0.0 if self.ours is self.official else math.inf
        return abs(self.ours - self.official)


def official_scores(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """What `python -m bdd100k.eval.run` writes for each job, in percent; raises OracleError."""
    if not PYTHON.is_file():
        raise OracleError(f'there is no {PYTHON}: run `make oracle` to install the toolkit')
    # Left behind by the ROS 2 wheels, they would break another environment's Python.
    left_out = ('_ROS_WHEELS_BOOTSTRAP_COMPLETE', 'LD_LIBRARY_PATH', 'PYTHONPATH')
    environment = {key: value for key, value in os.environ.items() if key not in left_out}
    with tempfile.TemporaryDirectory() as scratch:
        files = [Path(scratch) / f'{number}.json' for number in range(len(jobs))]
        arguments = [
            ['-t', TOOLKIT_NAMES[job.task], '-g', str(job.truth), '-r', str(job.predictions),
             '--nproc', '1', '--out-file', str(file)]
            for job, file in zip(jobs, files, strict=True)
        ]  # fmt: skip
        done = subprocess.run(
            [PYTHON, '-I', '-c', _DRIVER], input=json.dumps(arguments),
            capture_output=True, text=True, env=environment, check=False,
        )  # fmt: skip
        if done.returncode:
            raise OracleError(
                f'the official toolkit failed on {[job.task for job in jobs]}:\n'
                + '\n'.join(done.stderr.splitlines()[-5:])
            )
        return [json.loads(file.read_text('utf-8')) for file in files]


def figures(task: str, ours: Mapping[str, Any], official: Mapping[str, Any]) -> Iterator[Figure]:
    """Pair a metric's `result()` with what the toolkit wrote about the same task."""
    if task == DETECTION.name:
        for key in ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl'):
            of_class, overall = official[key]
            yield Figure(key, ours[key], _fraction(overall['OVERALL']))
            for name, values in ours['per_class'].items():
                yield Figure(f'{key} {name}', values[key], _fraction(of_class[name]))
        return
    prefix = 'official_' if task == DRIVABLE.name else ''
    of_class, mean = official['IoU']
    yield Figure('mIoU', ours[f'{prefix}miou'], _fraction(mean['AVERAGE']))
    for name, value in ours[f'{prefix}iou'].items():
        # The toolkit writes 0 for a class that the truth lacks, and leaves it out of the mean too.
        if value is not None:
            yield Figure(f'IoU {name}', value, _fraction(of_class[name]))
    if task == SEMANTIC.name:
        yield Figure('pixel accuracy', ours['pixel_accuracy'], _fraction(official['pAcc']))


def _fraction(percent: float) -> float | None:
    return None if math.isnan(percent) else percent / 100


def official_truth(labels: Path, split: str, task: str, predictions: Path, scratch: Path) -> Path:
    """The labels of the predicted images in the toolkit's form, written or linked in `scratch`.

    A box that is likely several objects (`suspectMerged`, which BDD100K does not have) is a crowd.
    """
    if task == DETECTION.name:
        names = {frame['name'] for frame in read_json(predictions)}
        found = find_box_file(labels.parent, split)
        if found is None:
            raise OracleError(f'no boxes of split {split!r} under {labels}')
        frames = [_official_frame(f) for f in scalabel_frames(found) if f['name'] in names]
        truth = scratch / BOXES
        truth.write_text(json.dumps(frames), 'utf-8')
        return truth
    truth = scratch / MASKS[task]
    truth.mkdir()
    masks = (labels / MASKS[task] / 'masks' / split).absolute()
    for mask in predictions.glob('*.png'):
        if (masks / mask.name).is_file():  # images without any label are answered too
            (truth / mask.name).symlink_to(masks / mask.name)
    return truth


def _official_frame(frame: Mapping[str, Any]) -> dict[str, Any]:
    labels = []
    for number, label in enumerate(frame.get('labels') or []):
        if label.get('box2d'):
            attributes = label.get('attributes') or {}
            crowd = bool(attributes.get('crowd')) or bool(attributes.get('suspectMerged'))
            kept = {key: label[key] for key in ('category', 'box2d')}
            labels.append({'id': str(number), 'attributes': {'crowd': crowd}, **kept})
    return {'name': frame['name'], 'labels': labels}


def check(run: Path, record: Mapping[str, Any]) -> dict[str, list[Figure]]:
    """Figures by `source task` of an evaluation, of which `record` is evaluation.json.

    Raises OracleError and LabelError.
    """
    jobs: dict[str, tuple[Job, Mapping[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for source in record['data']:
            name, predictions = source['name'], run / 'official' / source['name']
            for task, ours in record['results'][name].items():
                file = predictions / MASKS.get(task, BOXES)
                # Labels without a drivable split have no official figure.
                rough = task == DRIVABLE.name and 'official_miou' not in ours
                if task not in TOOLKIT_NAMES or rough or not file.exists():
                    continue
                folder = Path(scratch) / name / task
                folder.mkdir(parents=True)
                labels = Path(source['root']).expanduser() / 'labels'
                truth = official_truth(labels, record['split'], task, file, folder)
                jobs[f'{name} {task}'] = Job(task, truth, file), ours
        if not jobs:
            raise OracleError(
                f'{run} has no predictions in official forms: evaluate with --official'
            )
        scores = official_scores([job for job, _ in jobs.values()])
    return {
        name: list(figures(job.task, ours, official))
        for (name, (job, ours)), official in zip(jobs.items(), scores, strict=True)
    }


def main(argv: list[str] | None = None) -> int:
    """Command line; exit code 1 when a figure differs."""
    parser = argparse.ArgumentParser(prog='python -m training.oracle', description=__doc__)
    parser.add_argument('run', type=Path, help='output folder of training.evaluate --official')
    parser.add_argument('--json', type=Path, help='write every figure here')
    args = parser.parse_args(argv)
    try:
        check_output('--json', args.json)
        evaluation = read_json(args.run / 'evaluation.json')
        found = check(args.run, evaluation)
    except (OracleError, LabelError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    worst = {name: max(rows, key=lambda row: row.difference) for name, rows in found.items()}
    for name, row in worst.items():
        print(
            f'{name:24} {"equal" if row.difference < EQUAL else "DIFFERS"}: {len(found[name])} '
            f'figures, largest difference {row.difference:.1e} ({row.name}: {row.ours}, official '
            f'{row.official})'
        )
    if args.json:
        record = {
            'command': 'python -m training.oracle ' + ' '.join(argv or sys.argv[1:]),
            'evaluation': evaluation['command'],
            'toolkit': toolkit_versions(),
            'environment': machine.describe(),
            'largest_difference': {name: row.difference for name, row in worst.items()},
            'figures': {
                name: {row.name: {'ours': row.ours, 'official': row.official} for row in rows}
                for name, rows in found.items()
            },
        }
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(record, indent=1) + '\n', 'utf-8')
    return 0 if all(row.difference < EQUAL for row in worst.values()) else 1


def toolkit_versions() -> dict[str, str]:
    """What scored: versions of the toolkit's packages, by their metadata on disk."""
    wanted = ('bdd100k', 'scalabel', 'pycocotools', 'numpy')
    site = next(PYTHON.parents[1].glob('lib/python*/site-packages'))
    found = (path.name.removesuffix('.dist-info') for path in site.glob('*.dist-info'))
    versions = dict(name.split('-', 1) for name in found)
    return {name: versions[name] for name in wanted}


if __name__ == '__main__':
    sys.exit(run(main))
