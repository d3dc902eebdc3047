# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""How many pairs of point and class a detector has to hand on: counts, and AP by their number.

    PYTHONPATH=. python test/benchmarks/pairs.py models/hydranet_lite0 \
        --frames ../shared/data/bdd_samples/images

On the images below --frames, pairs above several scores are counted before and after suppression.
On the validation images of the bundle's sources whose boxes people drew, AP is taken with the best
100, 300 and 1000 pairs. Writes docs/results/pairs.json.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import checkout  # noqa: F401
import cv2
import numpy as np
from rich.progress import track

from mtl_evaluation.metrics.metrics import THRESHOLDS
from mtl_perception import machine
from mtl_perception.bundle import Bundle
from mtl_perception.frame import Frame
from training.config import load_config
from training.evaluate import evaluate_pipeline
from training.evaluation.model import torch_pipeline
from training.export import CONFIG, load_network
from training.tasks import detection

RESULT = Path(__file__).parents[2] / 'docs' / 'results' / 'pairs.json'
PAIRS = (100, 300, 1000)
SCORES = (0.001, 0.01, 0.05, 0.1, 0.3)
SUFFIXES = ('.jpg', '.png')


def counts(pipeline, folder: Path) -> dict:
    """Median and most pairs per frame above each score, before and after suppression."""
    found: dict[str, list[list[int]]] = {'before': [], 'after': []}
    paths = sorted(path for path in folder.rglob('*') if path.suffix in SUFFIXES)
    for path in track(paths, str(folder)):
        frame = Frame(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB))
        for when, iou in (('before', 1.0), ('after', THRESHOLDS.nms_iou)):
            pipeline.thresholds = replace(THRESHOLDS, nms_iou=iou, max_detections=max(PAIRS))
            scores = pipeline(frame, {'detection'}).detections['detection'].scores
            found[when].append([int((scores >= least).sum()) for least in SCORES])
    return {
        'frames': len(paths),
        **{
            when: {
                str(score): {'median': float(np.median(column)), 'most': max(column)}
                for score, column in zip(SCORES, zip(*rows, strict=True), strict=True)
            }
            for when, rows in found.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('model', type=Path)
    parser.add_argument('--frames', type=Path, required=True)
    args = parser.parse_args()
    network = load_network(bundle := Bundle.open(args.model))
    config = load_config(bundle.file(CONFIG))
    config.data = [source for source in config.data if source.box_classes and not source.train_only]
    record: dict = {
        'command': shlex.join(['python', 'test/benchmarks/pairs.py', *sys.argv[1:]]),
        'environment': machine.describe(),
        'bundle_hash': bundle.hash,
    }
    for pairs in PAIRS:
        with mock.patch.object(detection, 'TOP_K', pairs):
            pipeline = torch_pipeline(network, config)
            if pairs == max(PAIRS):
                record['frames'] = counts(pipeline, args.frames)
            wide = replace(THRESHOLDS, max_detections=pairs)
            with mock.patch('training.evaluate.THRESHOLDS', wide):
                results = evaluate_pipeline(pipeline, config, 'val', progress=True)
        for source, figures in results.items():
            if 'detection' in figures:
                kept = {key: figures['detection'][key] for key in ('AP50', 'AP')}
                record.setdefault('accuracy', {}).setdefault(source, {})[str(pairs)] = kept
    RESULT.write_text(json.dumps(record, indent=1) + '\n', 'utf-8')
    print(json.dumps(record, indent=1))


if __name__ == '__main__':
    main()
