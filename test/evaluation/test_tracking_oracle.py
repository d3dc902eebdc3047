# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Tracking figures against TrackEval on the same files, equal to 4 digits."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mtl_evaluation.metrics.tracking import TrackedFrame, TrackingMetric
from mtl_evaluation.truth.label_files import scalabel_frames
from mtl_evaluation.truth.labels import truth_boxes
from mtl_evaluation.truth.truth import TruthBoxes, class_ids
from mtl_perception.tasks import DETECTION

PYTHON = Path(__file__).parents[2] / '.cache' / 'oracle' / 'bin' / 'python'
EQUAL = 5e-5

pytestmark = pytest.mark.skipif(
    not any(PYTHON.parents[1].glob('lib/python3*/site-packages/trackeval')),
    reason='TrackEval is not installed: run `make oracle`',
)

DRIVER = """
import contextlib, io, json, sys
from trackeval import datasets, metrics
job = json.load(sys.stdin)
with contextlib.redirect_stdout(io.StringIO()):
    dataset = getattr(datasets, job['dataset'])({'PRINT_CONFIG': False, **job['config']})
    measures = [metrics.HOTA(), metrics.CLEAR({'PRINT_CONFIG': False}),
                metrics.Identity({'PRINT_CONFIG': False})]
    found = {}
    for name in job['classes']:
        results = [{} for _ in measures]
        for sequence in dataset.seq_list:
            raw = dataset.get_raw_seq_data('ours', sequence)
            data = dataset.get_preprocessed_seq_data(raw, name)
            for measure, result in zip(measures, results):
                result[sequence] = measure.eval_sequence(data)
        of_class = {}
        for measure, result in zip(measures, results):
            for key, value in measure.combine_sequences(result).items():
                of_class[key] = float(value.mean() if hasattr(value, 'mean') else value)
        found[name] = of_class
json.dump(found, sys.stdout)
"""
SAME = {
    'HOTA': 'HOTA', 'DetA': 'DetA', 'AssA': 'AssA', 'LocA': 'LocA', 'IDF1': 'IDF1', 'MOTA': 'MOTA',
    'MOTP': 'MOTP', 'id_switches': 'IDSW', 'fragments': 'Frag', 'mostly_tracked': 'MT',
    'mostly_lost': 'ML',
}  # fmt: skip
"""Our name of a figure: theirs."""

Frame = list[tuple[int, str, tuple[float, float, float, float]]]
"""Identity, class, box xyxy."""


def official(job: dict[str, object]) -> dict[str, dict[str, float]]:
    """What TrackEval says, by class."""
    clean = {
        k: v for k, v in os.environ.items() if 'ROS_WHEELS' not in k and k != 'LD_LIBRARY_PATH'
    }
    done = subprocess.run(
        [PYTHON, '-c', DRIVER], input=json.dumps(job), capture_output=True, text=True, env=clean,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def drive(
    random: np.random.Generator, frames: int, classes: list[str]
) -> Iterator[tuple[Frame, Frame]]:
    """Truth and tracks: misses, false boxes, switches, swaps, confusions, empty frames."""
    count = int(random.integers(5, 16))
    place, size = random.uniform(20, 700, (count, 2)), random.uniform(20, 140, (count, 2))
    speed, kind = random.normal(0, 5, (count, 2)), random.choice(classes, count)
    track, unused = random.permutation(count) + 1, 100
    for number in range(frames):
        place += speed
        there, seen = random.random(count) < 0.85, random.random(count) < 0.75
        there[:] &= number != 5
        seen[:] &= number not in (8, 9)
        for i in np.flatnonzero(random.random(count) < 0.04):
            track[i], unused = unused, unused + 1
        if random.random() < 0.2:
            a, b = random.choice(count, 2, replace=False)
            track[a], track[b] = track[b], track[a]
        truth, tracks = [], []
        for i in range(count):
            box = np.round(np.concatenate([place[i], place[i] + size[i]]), 2)
            if there[i]:
                truth.append((i + 1, str(kind[i]), tuple(box)))
            if seen[i]:
                off = np.round(box + random.normal(0, 8, 4), 2)
                off[2:] = np.maximum(off[2:], off[:2] + 3)
                named = kind[i] if random.random() < 0.9 else random.choice(classes)
                tracks.append((int(track[i]), str(named), tuple(off)))
        yield truth, tracks


def ours(files: list[tuple[Path, Path]]) -> dict[str, dict[str, float]]:
    """Our figures by class; a sequence is a file of truth and one of tracks."""
    metric = TrackingMetric(DETECTION)
    for truth_file, tracks_file in files:
        frames = []
        pairs = zip(scalabel_frames(truth_file), scalabel_frames(tracks_file), strict=True)
        for pair in pairs:
            truth, tracks = (truth_boxes(frame['labels'], 'clip') for frame in pair)
            frames.append(compared(truth, tracks))
        metric.update(str(truth_file), frames)
    return metric.result()['per_class']


def compared(truth: TruthBoxes, tracks: TruthBoxes) -> TrackedFrame:
    numbers = [[int(name.rpartition('/')[2]) for name in boxes.ids] for boxes in (truth, tracks)]
    labels = [class_ids(DETECTION, boxes.classes) for boxes in (truth, tracks)]
    return TrackedFrame.of(
        truth.boxes.astype(np.float64), numbers[0], labels[0], truth.ignore,
        tracks.boxes.astype(np.float64), numbers[1], labels[1],
    )  # fmt: skip


def check(found: dict[str, dict[str, float]], expected: dict[str, dict[str, float]]) -> None:
    for name, figures in expected.items():
        values = {key: found[name][key] for key in SAME}
        assert values == pytest.approx({key: figures[SAME[key]] for key in SAME}, abs=EQUAL), name
    assert sum(figures['IDSW'] for figures in expected.values()) > 5


def test_mot_challenge(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    truth, tracks = tmp_path / 'truth', tmp_path / 'tracks' / 'ours' / 'data'
    tracks.mkdir(parents=True)
    files, names = [], []
    for length in (30, 45, 12):
        name = f'MOT17-{length}'
        (truth / name / 'gt').mkdir(parents=True)
        (truth / name / 'seqinfo.ini').write_text(
            f'[Sequence]\nname={name}\nseqLength={length}\nimExt=.png\n'
        )
        lines: list[list[str]] = [[], []]
        for number, both in enumerate(drive(random, length, ['pedestrian']), start=1):
            for side, boxes in enumerate(both):
                for identity, _, (x1, y1, x2, y2) in boxes:
                    # An occluder and a car that is not scored change nothing.
                    place = f'{x1},{y1},{x2 - x1:.2f},{y2 - y1:.2f}'
                    tail = '-1,-1,-1' if side else '1,1'
                    lines[side].append(f'{number},{identity},{place},1,{tail}')
            lines[0].append(f'{number},900,1,1,40,40,0,10,1')
            lines[0].append(f'{number},901,2000,1,40,40,0,3,1')
        lines[1].append(f'{length},777,3000,0,5,5,1,-1,-1,-1')
        files.append((truth / name / 'gt' / 'gt.txt', tracks / f'{name}.txt'))
        for path, text in zip(files[-1], lines, strict=True):
            path.write_text('\n'.join(text) + '\n')
        names.append(name)
    (tmp_path / 'seqmap').write_text('\n'.join(['name', *names]) + '\n')

    found = ours(files)

    config = {
        'GT_FOLDER': str(truth), 'TRACKERS_FOLDER': str(tmp_path / 'tracks'),
        'TRACKERS_TO_EVAL': ['ours'], 'SEQMAP_FILE': str(tmp_path / 'seqmap'),
        'SKIP_SPLIT_FOL': True,
        'BENCHMARK': 'MOT17',
    }  # fmt: skip
    job = {'dataset': 'MotChallenge2DBox', 'config': config, 'classes': ['pedestrian']}
    check(found, official(job))


def test_bdd100k(tmp_path: Path) -> None:
    """Several classes, confusions between them, crowds and categories that are not scored."""
    random = np.random.default_rng(2)
    classes = ['pedestrian', 'rider', 'car', 'truck']
    truth, tracks = tmp_path / 'truth', tmp_path / 'tracks' / 'ours' / 'data'
    files = []
    for folder in (truth, tracks):
        folder.mkdir(parents=True)
    for clip in ('b1c66a42', '00091078', 'cafe0000'):
        frames: tuple[list[dict[str, object]], ...] = ([], [])
        for number, both in enumerate(drive(random, int(random.integers(15, 40)), classes)):
            for side, boxes in enumerate(both):
                labels = [label(*box, random=random, truth=side == 0) for box in boxes]
                frames[side].append(
                    {
                        'name': f'{clip}-{number:07d}.jpg', 'videoName': clip, 'index': number,
                        'frameIndex': number, 'labels': labels,
                    }
                )  # fmt: skip
        files.append((truth / f'{clip}.json', tracks / f'{clip}.json'))
        for path, content in zip(files[-1], frames, strict=True):
            path.write_text(json.dumps(content))

    found = ours(files)

    config = {
        'GT_FOLDER': str(truth), 'TRACKERS_FOLDER': str(tmp_path / 'tracks'),
        'TRACKERS_TO_EVAL': ['ours'],
    }  # fmt: skip
    check(found, official({'dataset': 'BDD100K', 'config': config, 'classes': classes}))


def label(
    identity: int, name: str, box: tuple[float, ...], random: np.random.Generator, truth: bool
) -> dict[str, object]:
    """A Scalabel label; of the truth some are crowds or of a category that is not scored."""
    crowd = truth and random.random() < 0.1
    if truth and random.random() < 0.1:
        name = str(random.choice(['other vehicle', 'other person', 'trailer']))
    return {
        'id': str(identity), 'category': name,
        # TrackEval reads the name of 2018, the toolkit of 2020 the other one.
        'attributes': {'crowd': crowd, 'Crowd': crowd},
        'box2d': dict(zip(('x1', 'y1', 'x2', 'y2'), map(float, box), strict=True)),
    }  # fmt: skip
