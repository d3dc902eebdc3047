# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Copy a data set with its images encoded anew, in BDD100K's layout also at a smaller width.

Masks and maps shrink with their images, by the nearest pixel; boxes and polygons of Scalabel files
by the same factors. In other layouts images keep their size, because their labels do.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2

SKIPPED = {'test'}
"""Splits that nothing here reads."""
CORNERS = ('x1', 'y1', 'x2', 'y2')

Factors = dict[str, tuple[float, float]]
"""Image name without suffix -> what its x and y coordinates are multiplied by."""


def copy_source(root: Path, target: Path, quality: int, width: int | None = None) -> None:
    """Copy all splits but `test`; width: of images that are wider, None for all as they are.

    A JPEG that gets no smaller by that stays as it is.
    """
    paths = [path for path in sorted(root.rglob('*')) if path.is_file()]
    paths = [path for path in paths if not SKIPPED.intersection(path.relative_to(root).parts)]
    factors: Factors = {}
    # Label files last: by then the factors are known.
    for path in sorted(paths, key=lambda path: path.suffix == '.json'):
        copied = target / path.relative_to(root)
        copied.parent.mkdir(parents=True, exist_ok=True)
        content = None
        if path.suffix.lower() in ('.jpg', '.jpeg'):
            content = _photograph(path, quality, width, factors)
        elif path.suffix == '.png' and width:
            content = _labels(path, width)
        elif path.suffix == '.json' and factors:
            content = json.dumps(_scaled(json.loads(path.read_text('utf-8')), factors)).encode()
        if content is None:
            shutil.copyfile(path, copied)
        else:
            copied.write_bytes(content)


def _photograph(path: Path, quality: int, width: int | None, factors: Factors) -> bytes | None:
    image = cv2.imread(str(path))
    if image is None:
        return None
    size = _size(image, width)
    if size is not None:
        factors[path.stem] = (size[0] / image.shape[1], size[1] / image.shape[0])
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    encoded = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    return encoded if size is not None or len(encoded) < path.stat().st_size else None


def _labels(path: Path, width: int) -> bytes | None:
    labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    size = None if labels is None else _size(labels, width)
    if labels is None or size is None:
        return None
    smaller = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)
    return cv2.imencode('.png', smaller)[1].tobytes()


def _size(image: Any, width: int | None) -> tuple[int, int] | None:
    """(Width, height) to shrink to; None for an image that is not wider."""
    tall, wide = image.shape[:2]
    if width is None or wide <= width:
        return None
    return width, round(tall * width / wide)


def _scaled(node: Any, factors: Factors, by: tuple[float, float] = (1.0, 1.0)) -> Any:
    """Scalabel frames with their coordinates scaled; everything else as it is."""
    if isinstance(node, list):
        return [_scaled(value, factors, by) for value in node]
    if not isinstance(node, dict):
        return node
    if isinstance(node.get('name'), str):
        by = factors.get(Path(node['name']).stem, by)
    if node.keys() >= set(CORNERS):
        return node | {key: node[key] * by[i % 2] for i, key in enumerate(CORNERS)}
    if isinstance(node.get('vertices'), list):
        return node | {'vertices': [[x * by[0], y * by[1]] for x, y in node['vertices']]}
    return {key: _scaled(value, factors, by) for key, value in node.items()}
