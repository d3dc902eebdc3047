# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Accuracy of several pipelines on labelled images, for `mtl-perception compile --rate --data`.

What answers is the deployed pipeline; average precision and mIoU are replay's own, by which
`--check` measures engines as well (`accuracy.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

from mtl_evaluation.bench.accuracy import measurable, points
from mtl_evaluation.bench.frames import images, read_bgr
from mtl_evaluation.metrics.metrics import THRESHOLDS
from mtl_evaluation.scores import Scores
from mtl_perception.bundle import Bundle
from mtl_perception.engines import EngineError
from mtl_perception.frame import Frame
from mtl_perception.pipeline import Pipeline
from mtl_perception.rate_search import Accuracy

TIMED = 8
"""Images that are timed, spread over all."""


def load(bundle: Bundle, path: Path, limit: int) -> tuple[list[Frame], Accuracy, str]:
    """Frames to time, the function that measures accuracy, and what the images are.

    path: a folder of images with `labels/` beside it, or a data set in BDD100K layout, of which the
    val split is taken; at most `limit` images. Raises SourceError, LabelError, and EngineError when
    no image has labels for a task of the bundle.
    """
    found = images(path, 'val', limit)
    if not any(measurable(bundle, found.labels.truth(each.name)) for each in found.paths):
        raise EngineError(
            f'{path}: none of {len(found.paths)} images has boxes or masks for a task of '
            f'{bundle.manifest.name}; accuracy needs labels beside the images (docs/data.md)'
        )

    def accuracy(pipelines: Sequence[Pipeline]) -> Sequence[Mapping[str, float]]:
        scores = [Scores(bundle.manifest.tasks) for _ in pipelines]
        kept = [pipeline.thresholds for pipeline in pipelines]
        for pipeline in pipelines:
            pipeline.thresholds = THRESHOLDS
        for each in track(found.paths, 'accuracy', console=Console(stderr=True), transient=True):
            pixels, truth = read_bgr(each), found.labels.truth(each.name)
            for pipeline, score in zip(pipelines, scores, strict=True):
                result = pipeline(Frame(pixels, 'bgr'))
                score.update(each.name, result, truth, pixels.shape[1::-1])
        for pipeline, thresholds in zip(pipelines, kept, strict=True):
            pipeline.thresholds = thresholds
        return [points(score.result()) for score in scores]

    chosen = found.paths[:: max(1, len(found.paths) // TIMED)][:TIMED]
    return [Frame(read_bgr(each), 'bgr') for each in chosen], accuracy, found.description
