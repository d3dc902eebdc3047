# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Our figures against the official BDD100K toolkit on the same predictions, equal to 4 digits."""

from __future__ import annotations

import json

import numpy as np
import pytest
from block_data import write_block_data
from PIL import Image

pytest.importorskip('torch', reason='training extras are not installed')

from mtl_evaluation.metrics.detection import DetectionMetric
from mtl_evaluation.metrics.segmentation import SegmentationMetric
from mtl_evaluation.truth.labels import truth_boxes
from mtl_evaluation.truth.truth import class_ids
from mtl_perception.frame import Detections, Result
from mtl_perception.tasks import DETECTION, DRIVABLE, SEMANTIC, Task
from training import evaluate, oracle
from training.evaluation.official import BOXES, MASKS, OfficialWriter
from training.oracle import EQUAL, PYTHON, Figure, Job, figures, official_scores, official_truth

pytestmark = pytest.mark.skipif(
    not PYTHON.is_file(), reason='the official toolkit is not installed: run `make oracle`'
)

WIDTH, HEIGHT = 1280, 720
CATEGORIES = ['car'] * 6 + ['truck', 'bus', 'pedestrian', 'rider', 'traffic sign'] + [
    'person', 'motor', 'bike', 'van', 'caravan', 'other vehicle', 'other person', 'trailer',
]  # fmt: skip
"""As a label file spells them: of 2020 and 2018, and those that are mapped but not scored."""


def hard_frames(rng):
    """Crowds, ignored categories, tiny and huge and cut-off boxes, empty frames; no train."""
    frames = []
    for number in range(40):
        labels = []
        for index in range(0 if number % 9 == 4 else int(rng.integers(1, 14))):
            x, y = rng.uniform(-5, WIDTH - 10), rng.uniform(-5, HEIGHT - 10)
            wide, high = rng.choice([6, 20, 70, 200, 700]) * rng.uniform(0.6, 1.4, 2)
            corners = np.clip([x, y, x + wide, y + high], 0, [WIDTH, HEIGHT] * 2)
            labels.append(
                {
                    'id': str(index),
                    'category': str(rng.choice(CATEGORIES)),
                    'attributes': {
                        'crowd': bool(rng.random() < 0.15),
                        'occluded': bool(rng.random() < 0.3),
                        'truncated': bool(corners[2] == WIDTH),
                    },
                    'box2d': dict(zip(('x1', 'y1', 'x2', 'y2'), corners.tolist(), strict=True)),
                }
            )
        if number == 5:  # the only truth of its class is not scored
            labels.append(
                {
                    'id': 'c', 'category': 'train', 'attributes': {'crowd': True},
                    'box2d': {'x1': 100, 'y1': 100, 'x2': 400, 'y2': 300},
                }
            )  # fmt: skip
        frames.append({'name': f'{number:08x}-{number:08x}.jpg', 'labels': labels})
    return frames


def hard_detections(truth, rng, number):
    """Near misses, exact copies, doubles, confusions, ties, more than 100 of a class."""
    boxes = np.repeat(truth.boxes, 3, axis=0).astype(np.float64)
    size = np.maximum(boxes[:, 2:] - boxes[:, :2], 1)
    boxes += rng.normal(0, 0.08, boxes.shape) * np.concatenate([size, size], 1)
    boxes[::5] = np.repeat(truth.boxes, 3, axis=0)[::5]
    labels = np.repeat(class_ids(DETECTION, truth.classes), 3)
    labels = np.where(rng.random(len(labels)) < 0.15, 2, labels)
    extra = 260 if number == 7 else int(rng.integers(0, 9))
    corners = rng.uniform(0, 600, (extra, 2))
    boxes = np.concatenate([boxes, np.concatenate([corners, corners + 60], 1)])
    labels = np.concatenate([labels, np.full(extra, 2)]).astype(np.int64)
    scores = rng.integers(1, 25, len(boxes)) / 25  # ties within and between images
    order = np.argsort(-scores, kind='stable')
    boxes = boxes.astype(np.float32)
    return Detections(boxes[order], scores[order].astype(np.float32), labels[order])


def hard_masks(task: Task, rng):
    """Pairs of truth and prediction: noise, unlabelled areas, a class that the truth lacks."""
    classes = len(task.classes)
    for number in range(6):
        truth = rng.integers(0, classes - 2 if classes > 3 else classes, (60, 80)).astype(np.uint8)
        found = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, classes)).astype(
            np.uint8
        )
        truth[:, : 10 * number] = 255
        found[-4:] = 255 if number == 3 else 0
        yield truth, found


@pytest.fixture(scope='module')
def scored(tmp_path_factory):
    """Name -> (our figures, official ones) of every hard case; one process of the toolkit."""
    root = tmp_path_factory.mktemp('oracle')
    rng = np.random.default_rng(3)
    labels = root / 'labels'
    frames = hard_frames(rng)
    (labels / 'det_20').mkdir(parents=True)
    (labels / 'det_20' / 'det_val.json').write_text(json.dumps(frames))
    ours, jobs = {}, {}
    metrics = {
        'detections': DetectionMetric(DETECTION),
        'nothing found': DetectionMetric(DETECTION),
    }
    for case, metric in metrics.items():
        with OfficialWriter(root / case) as writer:
            for number, frame in enumerate(frames):
                truth = truth_boxes(frame['labels'])
                found = hard_detections(truth, rng, number)
                if case == 'nothing found':
                    found = Detections(found.boxes[:0], found.scores[:0], found.labels[:0])
                writer.add(frame['name'], Result({DETECTION.name: found}))
                metric.update(
                    frame['name'], found, truth.boxes, class_ids(DETECTION, truth.classes),
                    truth.ignore, width=WIDTH, height=HEIGHT,
                )  # fmt: skip
        ours[case] = metric.result()
        scratch = root / f'{case} truth'
        scratch.mkdir()
        predictions = root / case / BOXES
        truth = official_truth(labels, 'val', DETECTION.name, predictions, scratch)
        jobs[case] = Job(DETECTION.name, truth, predictions)
    for task in (DRIVABLE, SEMANTIC):
        folder = labels / MASKS[task.name] / 'masks' / 'val'
        folder.mkdir(parents=True)
        metric = SegmentationMetric(task)
        with OfficialWriter(root / 'masks') as writer:
            for number, (truth, found) in enumerate(hard_masks(task, rng)):
                Image.fromarray(truth).save(folder / f'{number}.png')
                writer.add(f'{number}.jpg', Result({task.name: found}))
                writer.add('unlabelled.jpg', Result({task.name: found}))
                metric.update(found, truth)
        ours[task.name] = metric.result()
        scratch = root / f'{task.name} truth'
        scratch.mkdir()
        predictions = root / 'masks' / MASKS[task.name]
        truth = official_truth(labels, 'val', task.name, predictions, scratch)
        jobs[task.name] = Job(task.name, truth, predictions)
    official = official_scores(list(jobs.values()))
    return {
        case: (ours[case], list(figures(job.task, ours[case], scores)))
        for (case, job), scores in zip(jobs.items(), official, strict=True)
    }


@pytest.mark.parametrize('case', ['detections', 'drivable', 'semantic'])
def test_every_figure_is_the_official_one(scored, case):
    _, rows = scored[case]

    measured = [row for row in rows if row.ours is not None]
    assert len(measured) > (2 if case == 'drivable' else 15)
    assert 0.05 < measured[0].ours < 0.95
    assert {row.name: row for row in rows if row.difference >= EQUAL} == {}


def test_the_hard_cases_are_hard(scored):
    ours, rows = scored['detections']

    assert ours['ignored'] > 20
    assert ours['objects']['train'] == 0
    assert {'AP train', 'AP50 train'} <= {row.name for row in rows if row.ours is None}
    semantic, _ = scored['semantic']
    assert semantic['iou']['bicycle'] is None
    drivable, _ = scored['drivable']
    assert drivable['official_miou'] != pytest.approx(drivable['miou'], abs=0.01)


def test_nothing_found_is_zero_and_not_unmeasured(scored):
    """Where nothing at all is found the toolkit calls a class zero that has only crowds."""
    _, rows = scored['nothing found']

    differing = {row.name for row in rows if row.difference >= EQUAL}
    assert differing == {f'{key} train' for key in ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl')}
    assert rows[0] == Figure('AP', 0.0, 0.0)


def test_an_evaluation_is_held_against_the_toolkit(tmp_path, tiny_bundle, capsys, monkeypatch):
    """The whole way of a user: evaluate, let the toolkit score what was written, compare."""
    data = write_block_data(tmp_path / 'data')
    config = tmp_path / 'config.yaml'
    config.write_text(
        f'name: b\noutput: u\ntasks: [semantic]\ndata: [{{name: blocks, root: "{data}"}}]\n'
    )
    run = tmp_path / 'run'
    arguments = [tiny_bundle, '--config', config, '--engine', 'onnxruntime', '--latency', '0']
    arguments += ['--output', run, '--official']
    monkeypatch.setattr(evaluate, 'write_report', lambda *_, **__: 'none')
    assert evaluate.main([str(argument) for argument in arguments]) == 0
    scored = []

    def once(jobs, real=oracle.official_scores):
        if not scored:
            scored.append(real(jobs))
        return scored[0]

    monkeypatch.setattr(oracle, 'official_scores', once)

    assert oracle.main([str(run), '--json', str(tmp_path / 'oracle.json')]) == 0

    assert capsys.readouterr().out.count(' equal: ') == 3
    record = json.loads((tmp_path / 'oracle.json').read_text())
    assert record['toolkit']['bdd100k'] == '1.0.1' and record['toolkit']['scalabel'] == '0.3.1'
    assert 0.1 < record['figures']['blocks detection']['AP50']['official'] < 0.95
    changed = json.loads((run / 'evaluation.json').read_text())
    changed['results']['blocks']['semantic']['miou'] += 1e-4
    (run / 'evaluation.json').write_text(json.dumps(changed))
    assert oracle.main([str(run)]) == 1
    assert 'DIFFERS' in capsys.readouterr().out
    assert oracle.main([str(tmp_path)]) == 1
    assert 'evaluation.json' in capsys.readouterr().err
