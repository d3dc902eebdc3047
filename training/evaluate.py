"""Evaluate a network or bundle: `python -m training.evaluate MODEL --config training/configs/demo.yaml`.

Every number goes through the deployed path (letterbox, graph, decode) and `replay/metrics.py`. Each
source is scored by itself: their labels mean different things.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from mtl_perception.bundle import BundleError, InputSpec
from mtl_perception.engines.base import EngineError
from mtl_perception.pipeline import Frame, Pipeline
from mtl_perception.replay.metrics import ClassificationMetric, DetectionMetric, SegmentationMetric
from mtl_perception.tasks import DRIVABLE, SEMANTIC, TASKS
from training.config import ConfigError, RunConfig, load_config
from training.data.bdd100k import Bdd100kLayout, open_layouts
from training.data.sample import DatasetError, Sample
from training.module_engine import ModuleEngine, bundle_in_memory
from training.networks.hydranet import HydraNet
from training.tasks.segmentation import COARSE7

SCORE_THRESHOLD = 0.01
"""Low, so that the precision-recall curve is whole; the node's default is for people."""

HEADLINES = {
    'detection': ('AP50', 'AP'),
    'drivable': ('two_class_miou', 'miou'),
    'semantic': ('miou', 'coarse7_miou'),
    'weather': ('accuracy',),
    'scene': ('accuracy',),
    'timeofday': ('accuracy',),
}


def evaluate_network(
    network: HydraNet, config: RunConfig, split: str, limit: int | None = None
) -> dict[str, Any]:
    """Metrics by source and task of a network in eval mode; `limit` images a source."""
    spec = InputSpec(
        config.augment.input_height, config.augment.input_width, config.augment.letterbox_colour
    )
    bundle = bundle_in_memory(network, spec)
    engine = ModuleEngine(network, [output.name for output in bundle.manifest.outputs])
    return evaluate_pipeline(Pipeline(bundle, engine), config, split, limit)


def evaluate_pipeline(
    pipeline: Pipeline, config: RunConfig, split: str, limit: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Metrics by source and task through any engine."""
    pipeline.thresholds = type(pipeline.thresholds)(score=SCORE_THRESHOLD, max_detections=300)
    results: dict[str, Any] = {}
    for layout in open_layouts(config.data, split):
        scores = Scores()
        for sample in _samples(layout, limit, progress):
            scores.update(sample, pipeline)
        results[layout.config.name] = {'images': scores.images, **scores.result()}
    return results


class Scores:
    """Metrics of one source: fine labels by class, coarse labels by their class sets."""

    def __init__(self) -> None:
        """Empty; a metric begins with the first label of its task."""
        self.images = 0
        self.detection: dict[str, DetectionMetric] = {}
        self.segmentation: dict[str, SegmentationMetric] = {}
        self.classification: dict[str, ClassificationMetric] = {}
        self.coarse = np.zeros((len(COARSE7), len(COARSE7)), np.int64)
        self.road = np.zeros((2, 2), np.int64)

    def update(self, sample: Sample, pipeline: Pipeline) -> None:
        """Predict a sample for the tasks it labels and add what it says."""
        known = {task.name for task in pipeline.bundle.manifest.tasks}
        labelled = {*sample.boxes, *sample.masks, *sample.classes} & known
        result = pipeline(Frame(sample.image, 'rgb'), labelled)
        self.images += 1
        height, width = sample.image.shape[:2]
        for name in labelled & set(sample.boxes):
            truth, found = sample.boxes[name], result.detections[name]
            metric = self.detection.setdefault(name, DetectionMetric(TASKS[name]))
            metric.update(
                sample.name, found, truth.xyxy, truth.labels, truth.ignored, width, height
            )
        for name in labelled & set(sample.masks):
            self._mask(name, result.masks[name], sample.masks[name])
        for name in labelled & set(sample.classes):
            self.classification.setdefault(name, ClassificationMetric(TASKS[name])).update(
                int(result.probabilities[name].argmax()), sample.classes[name]
            )

    def _mask(self, name: str, found: np.ndarray, truth: np.ndarray) -> None:
        classes = len(TASKS[name].classes)
        labelled = truth != 255
        fine = labelled & (truth < classes)
        if name == SEMANTIC.name:
            coarse_of = np.zeros(256, np.int64)
            for group, members in enumerate(COARSE7):
                coarse_of[list(members)] = group
                coarse_of[classes + group] = group
            _count(self.coarse, coarse_of[truth[labelled]], coarse_of[found[labelled]])
        if name == DRIVABLE.name:
            background = DRIVABLE.classes.index('background')
            _count(
                self.road,
                (truth[labelled] != background).astype(np.int64),
                (found[labelled] != background).astype(np.int64),
            )
        if fine.any() and not (labelled & ~fine).any():
            self.segmentation.setdefault(name, SegmentationMetric(TASKS[name])).update(found, truth)

    def result(self) -> dict[str, dict[str, Any]]:
        """Values by task."""
        metrics: Mapping[str, Any] = {
            **self.detection, **self.segmentation, **self.classification,
        }  # fmt: skip
        results = {name: dict(metric.result()) for name, metric in metrics.items()}
        if self.coarse.any():
            results.setdefault(SEMANTIC.name, {})['coarse7_miou'] = _miou(self.coarse)
        if self.road.any():
            values = results.setdefault(DRIVABLE.name, {})
            values['two_class_miou'] = _miou(self.road)
            values['drivable_iou'] = float(_iou(self.road)[1])
        return results


def headline(results: Mapping[str, Any]) -> dict[str, float]:
    """The few numbers a person watches: `source/task/metric` -> value."""
    return {
        f'{source}/{task}/{key}': float(values[task][key])
        for source, values in results.items()
        for task, keys in HEADLINES.items()
        for key in keys
        if isinstance(values.get(task), dict) and values[task].get(key) is not None
    }


def environment() -> dict[str, str]:
    """Machine and versions, kept with every number."""
    return {
        'machine': platform.processor() or platform.machine(),
        'system': platform.platform(),
        'python': platform.python_version(),
        'torch': torch.__version__,
        'numpy': np.__version__,
    }


def _samples(layout: Bdd100kLayout, limit: int | None, progress: bool) -> Iterator[Sample]:
    count = len(layout) if limit is None else min(limit, len(layout))
    indices = np.linspace(0, len(layout) - 1, count).round().astype(int)
    shown = track(indices, description=layout.config.name) if progress else indices
    for index in shown:
        yield layout.load(int(index))


def _count(confusion: np.ndarray, truth: np.ndarray, found: np.ndarray) -> None:
    size = len(confusion)
    confusion += np.bincount(truth * size + found, minlength=size * size).reshape(size, size)


def _iou(confusion: np.ndarray) -> np.ndarray:
    hits = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - hits
    return np.where(union > 0, hits / np.maximum(union, 1), np.nan)


def _miou(confusion: np.ndarray) -> float:
    """Mean over the classes that the truth has."""
    return float(_iou(confusion)[confusion.sum(1) > 0].mean())


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog='python -m training.evaluate', description=__doc__)
    parser.add_argument('model', help='bundle folder')
    parser.add_argument('--config', required=True, help='YAML with the data sets')
    parser.add_argument('--split', default='val')
    parser.add_argument('--engine', default='auto')
    parser.add_argument('--limit', type=int, help='images a source')
    parser.add_argument('--json', type=Path, help='write everything here')
    args = parser.parse_args(argv)
    try:
        config = load_config(args.config)
        pipeline = Pipeline.open(args.model, engine=args.engine, precision='fp32', build=True)
        results = evaluate_pipeline(pipeline, config, args.split, args.limit, progress=True)
    except (ConfigError, DatasetError, BundleError, EngineError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    for name, value in headline(results).items():
        print(f'{name:40} {value:.4f}')
    if args.json:
        record = {
            'command': 'python -m training.evaluate ' + ' '.join(argv or sys.argv[1:]),
            'bundle': pipeline.bundle.manifest.name,
            'bundle_hash': pipeline.bundle.hash,
            'engine': pipeline.info.name,
            'precision': pipeline.info.precision,
            'split': args.split,
            'seed': config.seed,
            'environment': environment(),
            'results': results,
        }
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(record, indent=1) + '\n', 'utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(main())
