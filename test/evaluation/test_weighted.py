# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Figures under weights: those of the metrics themselves, of copies, and of the field's oracle."""

from __future__ import annotations

import numpy as np
import pytest
from made_runs import TASK_LIST, write_made_run
from test_average_precision import oracle, random_metric

from mtl_evaluation.compare.ratios import RatioTable
from mtl_evaluation.kinds import of
from mtl_evaluation.metrics.classification import ClassificationMetric
from mtl_evaluation.metrics.detection import DetectionMetric, DetectionTable
from mtl_evaluation.metrics.segmentation import SegmentationMetric
from mtl_evaluation.runs.run import merged
from mtl_perception.tasks import DETECTION, DRIVABLE, SEMANTIC, WEATHER


def pieces_of(metric: DetectionMetric) -> list[DetectionMetric]:
    """One metric per image."""
    found = []
    for key, image in sorted(metric.images.items()):
        found.append(DetectionMetric(metric.task))
        found[-1].images[key] = image
    return found


def masks(task, frames: int, seed: int) -> list[SegmentationMetric]:
    chance = np.random.default_rng(seed)
    found = []
    for _ in range(frames):
        truth = chance.choice([*range(len(task.classes) - 1), 255], (12, 16)).astype(np.uint8)
        answer = np.where(chance.random((12, 16)) < 0.7, truth, chance.integers(0, 4, (12, 16)))
        answer[0, :3] = 255
        found.append(SegmentationMetric(task))
        found[-1].update(answer.astype(np.uint8), truth)
    return found


def labels(frames: int, seed: int) -> list[ClassificationMetric]:
    chance = np.random.default_rng(seed)
    found = []
    for _ in range(frames):
        found.append(ClassificationMetric(WEATHER))
        found[-1].update(int(chance.integers(0, 4)), int(chance.integers(0, 3)))
    return found


def flat(result: dict, task) -> dict[str, float]:
    """A metric's result under the names of figures; NaN where it has none."""
    found = {name: result[name] for name in of(task).figure_names(task) if name in result}
    for key in ('iou', 'official_iou', 'f1'):
        found |= {f'{key}/{name}': value for name, value in result.get(key, {}).items()}
    for name, values in result.get('per_class', {}).items():
        found |= {f'{key}/{name}': values[key] for key in ('AP', 'AP50')}
    return {name: np.nan if value is None else value for name, value in found.items()}


def same(figures: dict, result: dict, task, sample: int = 0) -> None:
    expected = flat(result, task)
    assert len(expected) > 3
    for name, value in expected.items():
        assert np.array_equal(figures[name][sample], value, equal_nan=True), name


@pytest.mark.parametrize('seed', range(3))
def test_weights_of_one_are_faster_coco_eval(seed):
    metric = random_metric(seed)
    table = DetectionTable(DETECTION)
    for piece in pieces_of(metric):
        table.add(piece)

    figures = table.figures(np.ones((1, len(metric.images)), np.float32))

    precision = oracle(metric)
    there = precision[0, 0, :, 0] > -1
    assert figures['AP'][0] == pytest.approx(precision[:, :, there, 0].mean(), abs=1e-9)
    assert figures['AP50'][0] == pytest.approx(precision[0][:, there, 0].mean(), abs=1e-9)
    assert figures['AP75'][0] == pytest.approx(precision[5][:, there, 0].mean(), abs=1e-9)
    for label in np.flatnonzero(there):
        name = DETECTION.classes[label]
        expected = precision[:, :, label, 0].mean()
        assert figures[f'AP/{name}'][0] == pytest.approx(expected, abs=1e-9)


def test_any_whole_weights_are_copies_of_the_images():
    metric = random_metric(7)
    table = DetectionTable(DETECTION)
    for piece in pieces_of(metric):
        table.add(piece)
    weights = np.random.default_rng(0).integers(0, 4, (5, len(metric.images)))

    figures = table.figures(weights.astype(np.float32))

    for sample, times in enumerate(weights):
        same(figures, metric.ranked().result(times), DETECTION, sample)


@pytest.mark.parametrize('task', [SEMANTIC, DRIVABLE])
def test_masks_under_weights_are_copies_of_the_frames(task):
    pieces = masks(task, 6, seed=1)
    table = of(task).table(task)
    for piece in pieces:
        table.add(piece)
    weights = np.array([[1, 1, 1, 1, 1, 1], [0, 3, 1, 0, 2, 0]], np.float32)

    figures = table.figures(weights)

    for sample, times in enumerate(weights.astype(int)):
        whole = SegmentationMetric(task)
        for piece, count in zip(pieces, times, strict=True):
            for _ in range(count):
                whole.merge(piece)
        same(figures, whole.result(), task, sample)


def test_labels_under_weights_are_copies_of_the_frames():
    pieces = labels(20, seed=2)
    table = of(WEATHER).table(WEATHER)
    for piece in pieces:
        table.add(piece)
    weights = np.random.default_rng(3).integers(0, 3, (4, 20))

    figures = table.figures(weights.astype(np.float32))

    for sample, times in enumerate(weights):
        whole = ClassificationMetric(WEATHER)
        for piece, count in zip(pieces, times, strict=True):
            for _ in range(count):
                whole.merge(piece)
        same(figures, whole.result(), WEATHER, sample)


@pytest.mark.parametrize('kind', ['detection', 'segmentation', 'classification'])
def test_chosen_frames_are_as_if_the_others_were_not_there(kind):
    task, pieces = {
        'detection': (DETECTION, pieces_of(random_metric(3))),
        'segmentation': (DRIVABLE, masks(DRIVABLE, 25, 4)),
        'classification': (WEATHER, labels(25, 5)),
    }[kind]
    table, part = of(task).table(task), of(task).table(task)
    chosen = np.arange(0, len(pieces), 3)
    for place, piece in enumerate(pieces):
        table.add(piece)
        if place in chosen:
            part.add(piece)
    weights = np.random.default_rng(6).integers(0, 3, (3, len(pieces))).astype(np.float32)

    whole, alone = table.figures(weights, chosen), part.figures(weights[:, chosen])

    assert whole.keys() == alone.keys() == set(of(task).figure_names(task))
    for name in whole:
        assert np.array_equal(whole[name], alone[name], equal_nan=True), name


def test_only_what_is_asked_for_is_ranked():
    table = DetectionTable(DETECTION)
    for piece in pieces_of(random_metric(4)):
        table.add(piece)

    figures = table.figures(np.ones((1, 25), np.float32), wanted={'AP50/car'})

    assert 'AP50/car' in figures
    assert 'AP' not in figures


def test_ratios_are_what_the_run_says_of_itself(tmp_path):
    run = write_made_run(tmp_path / 'run', frames=40)
    for task in TASK_LIST:
        table = RatioTable(of(task).ratio_names(task))
        for record in run.records():
            piece = record.pieces.get(task.name)
            table.add(of(task).ratios(task, piece, record.stability))
        figures = table.figures(np.ones((1, 40), np.float32))
        for name, value in run.summary['temporal'].get(task.name, {}).items():
            if name in figures:
                assert figures[name][0] == pytest.approx(value, abs=1e-9), (task.name, name)
        if task.kind == 'detection':
            for band, value in run.summary['road'][task.name]['height_px'].items():
                expected = np.nan if value['recall'] is None else value['recall']
                assert figures[f'recall/{band}'][0] == pytest.approx(expected, nan_ok=True)


def test_tables_of_a_run_give_its_figures(tmp_path):
    run = write_made_run(tmp_path / 'run', frames=30)
    metrics = merged(run.records(), run.tasks)
    for task in run.tasks:
        table = of(task).table(task)
        for record in run.records():
            table.add(record.pieces[task.name])
        same(table.figures(np.ones((1, 30), np.float32)), metrics[task.name].result(), task)
        same(table.figures(np.ones((1, 30), np.float32)), run.summary['accuracy'][task.name], task)
