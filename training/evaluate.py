"""Evaluate a network or bundle.

    python -m training.evaluate models/hydranet_b0_demo --config training/configs/demo.yaml

Every number goes through the deployed path (letterbox, graph, decode) and `replay/metrics.py`. Each
source is scored by itself: their labels mean different things.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from mtl_perception import machine
from mtl_perception.bundle import BundleError, InputSpec
from mtl_perception.engines.base import EngineError
from mtl_perception.pipeline import Frame, Pipeline
from mtl_perception.replay.metrics import ClassificationMetric, DetectionMetric, SegmentationMetric
from mtl_perception.tasks import DRIVABLE, SEMANTIC, TASKS, UNLABELLED, Task
from training.config import ConfigError, RunConfig, load_config
from training.data.bdd100k import Bdd100kLayout, LayoutConfig, open_layouts
from training.data.sample import DatasetError, Sample
from training.module_engine import ModuleEngine, bundle_in_memory
from training.networks.hydranet import HydraNet
from training.tasks.segmentation import COARSE7

SCORE_THRESHOLD = 0.01
"""Low, so that the precision-recall curve is whole; the node's default is for people."""

HEADLINES = {
    'detection': ('AP50', 'AP'),
    'drivable': ('miou', 'two_class_miou'),
    'semantic': ('miou',),
    'coarse7': ('miou',),
    'weather': ('accuracy',),
    'scene': ('accuracy',),
    'timeofday': ('accuracy',),
}


COARSE = Task(
    'coarse7',
    'segmentation',
    (
        'drivable', 'non-drivable ground', 'living', 'vehicles', 'roadside objects',
        'far objects', 'sky',
    ),
)  # fmt: skip
COARSE_OF = np.full(256, UNLABELLED, np.uint8)
"""Semantic id, or id of a class set as in `training.tasks.segmentation`, -> coarse id."""
for _group, _members in enumerate(COARSE7):
    COARSE_OF[[*_members, len(SEMANTIC.classes) + _group]] = _group

M = TypeVar('M', DetectionMetric, SegmentationMetric, ClassificationMetric)


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
        scores = Scores(layout.config)
        for sample in _samples(layout, limit, progress):
            scores.update(sample, pipeline)
        results[layout.config.name] = {'images': scores.images, **scores.result()}
    return results


class Scores:
    """Metrics of one source, as fine as its labels are."""

    def __init__(self, source: LayoutConfig) -> None:
        """Empty; a metric begins with the first label of its task."""
        self.source = source
        self.images = 0
        self.metrics: dict[str, DetectionMetric | SegmentationMetric | ClassificationMetric] = {}

    def update(self, sample: Sample, pipeline: Pipeline) -> None:
        """Predict a sample for the tasks it labels and add what it says."""
        known = {task.name for task in pipeline.tasks}
        labelled = {*sample.boxes, *sample.masks, *sample.classes} & known
        result = pipeline(Frame(sample.image, 'rgb'), labelled)
        self.images += 1
        height, width = sample.image.shape[:2]
        for name in labelled & set(sample.boxes):
            truth = sample.boxes[name]
            self._metric(TASKS[name], DetectionMetric).update(
                sample.name,
                result.detections[name],
                truth.xyxy,
                truth.labels,
                truth.ignored,
                width=width,
                height=height,
            )
        for name in labelled & set(sample.masks):
            self._add_mask(name, result.masks[name], sample.masks[name])
        for name in labelled & set(sample.classes):
            self._metric(TASKS[name], ClassificationMetric).update(
                int(result.probabilities[name].argmax()), sample.classes[name]
            )

    def _add_mask(self, name: str, found: NDArray[np.uint8], truth: NDArray[np.uint8]) -> None:
        if name == SEMANTIC.name:
            self._metric(COARSE, SegmentationMetric).update(COARSE_OF[found], COARSE_OF[truth])
            if self.source.semantic_masks != 'sem_seg':
                return
        if name == DRIVABLE.name and not self.source.drivable_split:
            truth = np.where(truth == len(DRIVABLE.classes), np.uint8(0), truth)
        self._metric(TASKS[name], SegmentationMetric).update(found, truth)

    def _metric(self, task: Task, kind: type[M]) -> M:
        metric = self.metrics.setdefault(task.name, kind(task))
        assert isinstance(metric, kind)
        return metric

    def result(self) -> dict[str, dict[str, Any]]:
        """Values by task; without a drivable split only the two-class figure has a meaning."""
        results = {name: metric.result() for name, metric in self.metrics.items()}
        if DRIVABLE.name in results and not self.source.drivable_split:
            two_class = results[DRIVABLE.name]['two_class_miou']
            results[DRIVABLE.name] = {'two_class_miou': two_class}
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


def _samples(layout: Bdd100kLayout, limit: int | None, progress: bool) -> Iterator[Sample]:
    count = len(layout) if limit is None else min(limit, len(layout))
    indices = np.linspace(0, len(layout) - 1, count).round().astype(int)
    shown = track(indices, description=layout.config.name) if progress else indices
    for index in shown:
        yield layout.load(int(index))


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
            # A later card with these numbers changes the bundle's hash, not its graph's.
            'files': dict(pipeline.bundle.manifest.files),
            'engine': pipeline.info.name,
            'precision': pipeline.info.precision,
            'split': args.split,
            'seed': config.seed,
            'environment': machine.describe(),
            'results': results,
        }
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(record, indent=1) + '\n', 'utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(main())
