# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Boxes of several views or teachers as one list: weighted boxes fusion.

Solovyev et al., "Weighted boxes fusion", Image and Vision Computing 2021: boxes of one class that
overlap are one object; its box is their mean, weighted by score. Changed: a source adds at most one
box to an object, and the score is divided by the number of sources that could see the object, not
by all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtl_perception.frame import Detections
from training.teaching.views import View

SAME_OBJECT = 0.55
"""IoU from which boxes of one class are one object, as in the paper."""


@dataclass
class _Cluster:
    """Boxes of one object: their sources, corners and scores."""

    label: int
    sources: list[int]
    boxes: list[NDArray[np.float32]]
    scores: list[float]

    @property
    def box(self) -> NDArray[np.float32]:
        return np.average(self.boxes, axis=0, weights=self.scores).astype(np.float32)


@dataclass(frozen=True)
class Fused:
    """Objects, best score first; sources: for each the indices of those that found it."""

    found: Detections
    sources: tuple[tuple[int, ...], ...]


def averaged(seen: Sequence[tuple[View, Detections]], width: int, height: int) -> Detections:
    """Objects of one image from several views, each with its boxes in pixels of the image."""
    if len(seen) == 1:
        return seen[0][1]
    rectangles = np.array(
        [[v.left, v.top, v.left + v.width, v.top + v.height] for v, _ in seen], np.float32
    ).clip(0, [width, height, width, height])

    def watching(box: NDArray[np.float32]) -> int:
        inside = (rectangles[:, :2] <= box[:2] + 1).all(1) & (rectangles[:, 2:] >= box[2:] - 1).all(
            1
        )
        return int(inside.sum())

    clusters = _clusters([found for _, found in seen])
    scores = [sum(c.scores) / max(watching(c.box), len(c.sources)) for c in clusters]
    return _sorted(clusters, scores).found


def fused(found: Sequence[Detections]) -> Fused:
    """Objects of several teachers; the score is the mean of those that found it."""
    clusters = _clusters(found)
    return _sorted(clusters, [float(np.mean(cluster.scores)) for cluster in clusters])


def overlaps(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """IoU of xyxy boxes [N, 4] and [M, 4], float32 [N, M]."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = (high - low).clip(0).prod(-1)
    area_a, area_b = (a[:, 2:] - a[:, :2]).prod(-1), (b[:, 2:] - b[:, :2]).prod(-1)
    return (shared / np.maximum(area_a[:, None] + area_b - shared, 1e-6)).astype(np.float32)


def _clusters(found: Sequence[Detections]) -> list[_Cluster]:
    entries = [
        (float(score), source, int(label), box)
        for source, each in enumerate(found)
        for box, score, label in zip(each.boxes, each.scores, each.labels, strict=True)
    ]
    clusters: list[_Cluster] = []
    for score, source, label, box in sorted(entries, key=lambda entry: -entry[0]):
        best, partner = SAME_OBJECT, None
        for cluster in clusters:
            if cluster.label == label and source not in cluster.sources:
                iou = float(overlaps(cluster.box[None], box[None])[0, 0])
                if iou > best:
                    best, partner = iou, cluster
        if partner is None:
            clusters.append(_Cluster(label, [source], [box], [score]))
        else:
            partner.sources.append(source)
            partner.boxes.append(box)
            partner.scores.append(score)
    return clusters


def _sorted(clusters: Sequence[_Cluster], scores: Sequence[float]) -> Fused:
    order = sorted(range(len(clusters)), key=lambda i: -scores[i])
    ranked = [clusters[i] for i in order]
    boxes = np.array([cluster.box for cluster in ranked], np.float32).reshape(-1, 4)
    return Fused(
        Detections(
            boxes,
            np.array([scores[i] for i in order], np.float32),
            np.array([cluster.label for cluster in ranked], np.int64),
        ),
        tuple(tuple(sorted(cluster.sources)) for cluster in ranked),
    )
