# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Runs made of thin air, with known truth: a drive whose difficulty comes and goes, and answers
that go wrong in proportion. Two runs with one `drive` are over the same labelled frames."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from mtl_evaluation.metrics.classification import ClassificationMetric
from mtl_evaluation.metrics.detection import DetectionMetric
from mtl_evaluation.metrics.segmentation import SegmentationMetric
from mtl_evaluation.metrics.temporal import StabilityTracker
from mtl_evaluation.runs.run import FrameRecord, Run
from mtl_evaluation.runs.tracks import CameraTrackers
from mtl_evaluation.runs.writer import RunWriter
from mtl_evaluation.truth.truth import Truth, TruthBoxes
from mtl_perception.frame import Detections, Result
from mtl_perception.tasks import TASKS

CLASSES = ('pedestrian', 'car', 'truck', 'traffic sign')
SIZE = (320, 192)
SCALE = 4
PERIOD_NS = 100_000_000
START_NS = 1_700_000_000_000_000_000
TASK_LIST = tuple(TASKS[name] for name in ('detection', 'drivable', 'semantic', 'timeofday'))


def made_truth(drive: int, index: int) -> Truth:
    """A street that moves slowly: boxes that drift, a road that sways."""
    objects = np.random.default_rng([drive, index // 40])
    count = int(objects.integers(2, 7))
    labels = objects.choice(len(CLASSES), count, p=(0.2, 0.5, 0.1, 0.2))
    size = np.stack([objects.uniform(12, 70, count), objects.uniform(10, 90, count)], 1)
    place = objects.uniform(0, 1, (count, 2)) * (np.array(SIZE) - size)
    speed = objects.uniform(-0.6, 0.6, (count, 2))
    low = np.clip(place + speed * (index % 40), 0, np.array(SIZE) - size)
    boxes = TruthBoxes(
        np.concatenate([low, low + size], 1).astype(np.float32),
        tuple(CLASSES[label] for label in labels),
        objects.random(count) < 0.05,
        tuple(f'{index // 40}-{number}' for number in range(count)),
    )
    return Truth(
        boxes, made_masks(index), {'timeofday': 'night' if (index // 20) % 3 == 2 else 'daytime'}
    )


def made_masks(index: int) -> dict[str, np.ndarray]:
    height, width = SIZE[1] // SCALE, SIZE[0] // SCALE
    y, x = np.mgrid[:height, :width]
    middle = width * (0.5 + 0.15 * np.sin(index / 25))
    road = (y > height // 2) & (abs(x - middle) < (y - height // 2) * 1.2)
    left = road & (x < middle)
    drivable = np.where(left, 1, np.where(road, 0, 2)).astype(np.uint8)
    semantic = np.full((height, width), 2, np.uint8)
    semantic[: height // 4] = 10
    semantic[height // 2 :] = 1
    semantic[road] = 0
    semantic[:, :2] = 255
    return {'drivable': drivable, 'semantic': semantic}


def made_result(truth: Truth, drive: int, index: int, error: float, model: int) -> Result:
    """Answers that miss, invent and smear more the larger `error` is; the same for one model."""
    hard = 0.5 + 0.5 * np.sin(index / 17 + drive)
    chance = np.random.default_rng([drive, index, model])
    rate = error * (0.5 + hard)
    found = chance.random(len(truth.boxes.boxes)) > rate
    labels = np.array([TASKS['detection'].classes.index(name) for name in truth.boxes.classes], int)
    boxes = truth.boxes.boxes[found] + chance.normal(0, 1 + 6 * rate, (found.sum(), 4))
    extra = chance.poisson(4 * rate)
    corner = chance.uniform(0, 220, (extra, 2))
    invented = np.concatenate([corner, corner + chance.uniform(10, 90, (extra, 2))], 1)
    scores = np.concatenate([chance.beta(6, 2, found.sum()), chance.beta(2, 4, extra)])
    order = np.argsort(-scores)
    detections = Detections(
        np.concatenate([boxes, invented]).astype(np.float32)[order],
        scores.astype(np.float32)[order],
        np.concatenate([labels[found], chance.integers(0, 4, extra)])[order],
    )
    masks = {}
    for name, mask in truth.masks.items():
        shift = round(10 * rate * chance.uniform(0.5, 1.5))
        smeared = np.roll(mask, shift, 1)
        masks[name] = np.where(smeared == 255, 0, smeared).astype(np.uint8)
    right = TASKS['timeofday'].classes.index(truth.labels['timeofday'])
    answer = right if chance.random() > 0.7 * rate else (right + 1) % 3
    probabilities = np.full(3, 0.1, np.float32)
    probabilities[answer] = 0.8
    return Result({'detection': detections, **masks, 'timeofday': probabilities})


def write_made_run(
    path: Path,
    frames: int = 200,
    error: float = 0.15,
    model: int = 0,
    bags: tuple[str, ...] = ('town',),
    skip: tuple[int, ...] = (),
    bags_described: tuple = (),
    **summary: object,
) -> Run:
    """A run over `frames` frames of each bag; a bag's name decides its drive."""
    with RunWriter(path, TASK_LIST, bags=bags_described) as writer:
        for bag in bags:
            drive = sum(bag.encode())
            stability, trackers = StabilityTracker(TASK_LIST), CameraTrackers(TASK_LIST)
            for index in range(frames):
                if index in skip:
                    continue
                truth = made_truth(drive, index)
                result = made_result(truth, drive, index, error, model)
                writer.add(record_of(bag, index, truth, result, stability, trackers))
        about = {'name': f'made_{model}', 'bundle_hash': f'{model:064x}', 'engine': 'none'}
        return writer.finish({'model': about, **summary})


def record_of(bag, index, truth, result, stability, trackers=None) -> FrameRecord:
    stamp = START_NS + index * PERIOD_NS
    key = f'{bag}#{index:09d}'
    detection = DetectionMetric(TASKS['detection'])
    labels = [TASKS['detection'].classes.index(name) for name in truth.boxes.classes]
    detection.update(
        key, result.detections['detection'], truth.boxes.boxes, labels, truth.boxes.ignore,
        width=SIZE[0], height=SIZE[1],
    )  # fmt: skip
    pieces = {'detection': detection}
    for name, mask in truth.masks.items():
        pieces[name] = SegmentationMetric(TASKS[name])
        pieces[name].update(result.masks[name], mask)
    pieces['timeofday'] = ClassificationMetric(TASKS['timeofday'])
    label = TASKS['timeofday'].classes.index(truth.labels['timeofday'])
    pieces['timeofday'].update(int(result.probabilities['timeofday'].argmax()), label)
    answers = np.concatenate(
        [result.detections['detection'].scores, [result.masks['semantic'].sum()]]
    )
    return FrameRecord(
        bag, '', index, stamp, '', SIZE, hashlib.sha256(answers.tobytes()).hexdigest(),
        dict(truth.labels), {'engine': 20.0 + index % 7, 'decode': 2.0},
        pieces, stability.update(index, stamp, result, truth),
        tracks=trackers.update(stamp, result, truth, SIZE) if trackers else {},
    )  # fmt: skip
