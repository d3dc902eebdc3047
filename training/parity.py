# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Compare the engines with torch on the same frames: `python -m training.parity MODEL IMAGE ...`.

What is compared is what the node publishes: detections after thresholds and NMS, masks in source
pixels, probabilities. The reference is the bundle's network in torch, single precision.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from mtl_perception import machine
from mtl_perception.bundle import Bundle, BundleError, find_bundle
from mtl_perception.engines import Options, available, open_engine
from mtl_perception.engines.base import EngineError
from mtl_perception.frame import Detections, Frame
from mtl_perception.pipeline import Pipeline
from training.command import check_output, run
from training.config import ConfigError
from training.export import load_network
from training.module_engine import ModuleEngine

BOX_PX, SCORE, MASK_EQUAL = 0.5, 1e-3, 0.999
"""Limits: box edges in source pixels, scores and probabilities, share of equal mask pixels."""


@dataclass
class Parity:
    """The worst of all frames. `unmatched` detections have no twin of their class on one side."""

    frames: int = 0
    detections: int = 0
    unmatched: int = 0
    box_px: float = 0.0
    score: float = 0.0
    probability: float = 0.0
    mask_equal: float = 1.0

    @property
    def holds(self) -> bool:
        """Whether every limit is kept."""
        return (
            self.unmatched == 0
            and self.box_px <= BOX_PX
            and max(self.score, self.probability) <= SCORE
            and self.mask_equal >= MASK_EQUAL
        )


def reference(bundle: Bundle) -> Pipeline:
    """The bundle's own network in torch behind the deployed pipeline."""
    names = [output.name for output in bundle.manifest.outputs]
    return Pipeline(bundle, ModuleEngine(load_network(bundle), names))


def compare(expected: Pipeline, candidate: Pipeline, frames: Sequence[Frame]) -> Parity:
    """Run both over the frames and keep the largest differences."""
    worst = Parity()
    for frame in frames:
        ours, theirs = expected(frame), candidate(frame)
        worst.frames += 1
        for task, detections in ours.detections.items():
            for one, other in (
                (detections, theirs.detections[task]),
                (theirs.detections[task], detections),
            ):
                _compare_detections(one, other, expected.thresholds.score + SCORE, worst)
            worst.detections += len(detections.boxes)
        for task, mask in ours.masks.items():
            worst.mask_equal = min(worst.mask_equal, float((mask == theirs.masks[task]).mean()))
        for task, vector in ours.probabilities.items():
            difference = float(np.abs(vector - theirs.probabilities[task]).max())
            worst.probability = max(worst.probability, difference)
    return worst


def _compare_detections(
    one: Detections, other: Detections, threshold: float, worst: Parity
) -> None:
    """Each detection clear of the threshold against its nearest of the same class."""
    for box, score, label in zip(one.boxes, one.scores, one.labels, strict=True):
        if score < threshold:
            continue
        same = other.labels == label
        distance = np.abs(other.boxes[same] - box).max(axis=1, initial=0)
        if not len(distance) or distance.min() > 10 * BOX_PX:
            worst.unmatched += 1
            continue
        nearest = int(distance.argmin())
        worst.box_px = max(worst.box_px, float(distance[nearest]))
        worst.score = max(worst.score, abs(float(other.scores[same][nearest] - score)))


def main(argv: list[str] | None = None) -> int:
    """Command line; exit code 1 when a limit is not kept."""
    parser = argparse.ArgumentParser(prog='python -m training.parity', description=__doc__)
    parser.add_argument('model', help='bundle: folder or name')
    parser.add_argument('images', nargs='+', type=Path)
    parser.add_argument('--json', type=Path, help='write the result here')
    args = parser.parse_args(argv)
    try:
        check_output('--json', args.json)
        bundle = Bundle.open(find_bundle(args.model))
        frames = [Frame(_read(path), 'bgr') for path in args.images]
        expected = reference(bundle)
        results = {}
        for name, found in available(bundle).items():
            if found.usable:
                engine = open_engine(bundle, name, Options(precision='fp32'), build=True)
                results[name] = compare(expected, Pipeline(bundle, engine), frames)
    except (BundleError, ConfigError, EngineError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    for name, parity in results.items():
        print(
            f'{name:12} {"ok" if parity.holds else "DIFFERS"}: {parity.frames} frames, '
            f'{parity.detections} detections ({parity.unmatched} unmatched), boxes within '
            f'{parity.box_px:.4f} px, scores {parity.score:.1e}, probabilities '
            f'{parity.probability:.1e}, masks at least {parity.mask_equal:.4%} equal'
        )
    if args.json:
        record = {
            'command': 'python -m training.parity ' + ' '.join(argv or sys.argv[1:]),
            'bundle_hash': bundle.hash,
            'environment': machine.describe(),
            'results': {name: asdict(parity) for name, parity in results.items()},
        }
        args.json.write_text(json.dumps(record, indent=1) + '\n', 'utf-8')
    return 0 if all(parity.holds for parity in results.values()) else 1


def _read(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))
    if image is None:
        raise OSError(f'{path} does not decode as an image')
    return image


if __name__ == '__main__':
    sys.exit(run(main))
