# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What suppression does to accuracy and to double boxes.

    PYTHONPATH=. python test/benchmarks/suppression.py models/hydranet_lite0 \
        training/configs/demo.yaml

Doubles: boxes of a score of at least 0.3 whose best truth box (IoU above 0.5) a better scored box
has already. Writes docs/results/suppression.json.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from unittest import mock

import checkout  # noqa: F401
import numpy as np
from rich.progress import track

from mtl_evaluation.metrics.detection import DetectionMetric
from mtl_perception import decode, machine
from mtl_perception.frame import Frame
from mtl_perception.pipeline import Pipeline
from mtl_perception.tasks import DETECTION
from training.config import load_config
from training.data.layout import open_layouts

RESULT = Path(__file__).parents[2] / 'docs' / 'results' / 'suppression.json'
VARIANTS = {
    'IoU 0.6 by class': (0.6, None),
    'IoU 0.5 by class': (0.5, None),
    'IoU 0.45 by class': (0.45, None),
    'IoU 0.5, between classes 0.7': (0.5, 0.7),
    'IoU 0.5, between classes 0.6': (0.5, 0.6),
}
SHOWN = 0.3
by_class = decode.suppress


def overlaps(a, b):
    """IoU [N, M]."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = np.prod(np.clip(high - low, 0, None), axis=-1)
    area_a, area_b = (np.prod(x[:, 2:] - x[:, :2], axis=1) for x in (a, b))
    return both / np.maximum(area_a[:, None] + area_b - both, 1e-9)


def between(iou):
    """Suppression by class, then among all that are left."""

    def suppress(boxes, labels, own):
        kept = by_class(boxes, labels, own)
        return kept[by_class(boxes[kept], np.zeros(len(kept), np.int64), iou)]

    return suppress


def doubles(found, truth) -> int:
    shown = found.boxes[found.scores >= SHOWN]
    if not len(shown) or not len(truth):
        return 0
    iou = overlaps(shown, truth)
    best = iou.argmax(1)[iou.max(1) > 0.5]
    return len(best) - len(set(best.tolist()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('model')
    parser.add_argument('config')
    parser.add_argument('--images', type=int, default=50, help='a source')
    args = parser.parse_args()
    pipeline = Pipeline.open(args.model, engine='onnxruntime', precision='fp32', build=True)
    results: dict = {}
    for layout in open_layouts(load_config(args.config).data, 'val'):
        samples = [
            layout.load(int(i))
            for i in np.linspace(0, len(layout) - 1, args.images).round().astype(int)
        ]
        samples = [s for s in samples if DETECTION.name in s.boxes]
        for name, (iou, cross) in track(VARIANTS.items(), layout.config.name) if samples else ():
            pipeline.thresholds = decode.Thresholds(0.01, iou, 300)
            metric, double, shown = DetectionMetric(DETECTION), 0, 0
            with mock.patch.object(decode.boxes, 'suppress', between(cross) if cross else by_class):
                for sample in samples:
                    result = pipeline(Frame(sample.image), {DETECTION.name})
                    found, truth = result.detections[DETECTION.name], sample.boxes[DETECTION.name]
                    height, width = sample.image.shape[:2]
                    metric.update(
                        sample.name, found, truth.xyxy, truth.labels, truth.ignored,
                        width=width, height=height,
                    )  # fmt: skip
                    double += doubles(found, truth.xyxy[~truth.ignored])
                    shown += int((found.scores >= SHOWN).sum())
            scores = {key: round(metric.result()[key], 4) for key in ('AP50', 'AP')}
            results.setdefault(layout.config.name, {})[name] = scores | {
                'shown': shown,
                'doubles': double,
            }
    record = {
        'command': shlex.join(['python', 'test/benchmarks/suppression.py', *sys.argv[1:]]),
        'bundle_hash': pipeline.bundle.hash,
        'environment': machine.describe(),
        'results': results,
    }
    RESULT.write_text(json.dumps(record, indent=1) + '\n', 'utf-8')
    print(json.dumps(results, indent=1))


if __name__ == '__main__':
    main()
