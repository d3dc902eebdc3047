# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Predictions in the forms that BDD100K's evaluator and its challenges take.

    FOLDER/det.json             [{name, labels: [{id, category, score, box2d: {x1, y1, x2, y2}}]}]
    FOLDER/drivable/NAME.png    0 direct, 1 alternative, 2 background
    FOLDER/sem_seg/NAME.png     19 train ids

Format: doc.bdd100k.com, pages `format` and `evaluate`. Boxes are in pixels of the image; at most
100 a class and image count. A mask has the size of its image, and its name with another suffix. An
image that is left out counts as one without boxes, and all of its pixels as wrong.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from PIL import Image

from mtl_perception.frame import Detections, Result
from mtl_perception.tasks import DETECTION, DRIVABLE, SEMANTIC
from training.data.sample import Sample

if TYPE_CHECKING:
    from typing_extensions import Self

BOXES = 'det.json'
MASKS = {DRIVABLE.name: 'drivable', SEMANTIC.name: 'sem_seg'}
"""Folder of a segmentation task's masks, as the toolkit names its own."""

TASKS = (DETECTION.name, *MASKS)
"""Tasks that have an official form."""


class OfficialWriter:
    """Writes one folder of predictions; use as a context manager. Raises OSError."""

    def __init__(self, folder: Path) -> None:
        """Begin, in a folder that may hold older predictions of the same images."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._boxes: TextIO | None = None
        self._ids = 0

    def __enter__(self) -> Self:
        """The writer."""
        return self

    def __exit__(self, *_: object) -> None:
        """Complete the list of frames."""
        if self._boxes is not None:
            self._boxes.write('\n]\n')
            self._boxes.close()

    def answered(self, sample: Sample, result: Result) -> None:
        """Write what was answered about a sample."""
        self.add(sample.name, result)

    def add(self, name: str, result: Result) -> None:
        """Write what was answered about the image of that file name."""
        found = result.detections.get(DETECTION.name)
        if found is not None:
            self._add_boxes(name, found)
        for task, kind in MASKS.items():
            if task in result.masks:
                path = self.folder / kind / f'{Path(name).stem}.png'
                path.parent.mkdir(exist_ok=True)
                Image.fromarray(result.masks[task]).save(path)

    def _add_boxes(self, name: str, found: Detections) -> None:
        labels = []
        for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True):
            self._ids += 1
            corners = dict(zip(('x1', 'y1', 'x2', 'y2'), map(float, box), strict=True))
            labels.append(
                {
                    'id': str(self._ids),
                    'category': DETECTION.classes[label],
                    'score': float(score),
                    'box2d': corners,
                }
            )
        if self._boxes is None:
            self._boxes = (self.folder / BOXES).open('w', encoding='utf-8')
            self._boxes.write('[\n')
        else:
            self._boxes.write(',\n')
        json.dump({'name': name, 'labels': labels}, self._boxes)
