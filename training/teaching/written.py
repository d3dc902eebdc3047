# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The labels of one task of one source, as they are written to disk and counted."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mtl_perception.tasks import UNLABELLED, Task
from training.tasks.segmentation import GROUPS
from training.teaching.rules import SoftMask

Label = list[dict[str, Any]] | NDArray[np.uint8] | SoftMask | tuple[str, float] | None
"""Of one image: boxes, a mask, an attribute and its probability; None where nobody knows."""


class Written:
    """Writes as it goes; `finish` writes the list of frames, where there is one.

    images: that have a label. sure: boxes, pixels or images by class. unsure: boxes or pixels.
    """

    def __init__(self, task: Task, folder: Path, split: str) -> None:
        """Labels go below `folder`."""
        self.task, self.folder, self.split = task, folder, split
        self.images, self.unsure = 0, 0
        self.sure: Counter[str] = Counter()
        self._frames: list[dict[str, Any]] = []

    def write(self, name: str, label: Label) -> None:
        """The label of the image of that name."""
        if label is None:
            return
        self.images += 1
        if isinstance(label, np.ndarray):
            self._mask(name, label)
        elif isinstance(label, SoftMask):
            self._mask(name, label.mask)
            self._save('confidence', name, label.confidence)
        elif isinstance(label, tuple):
            value, probability = label
            self.sure[value] += 1
            attributes = {self.task.name: value}
            self._frames.append({'name': name, 'attributes': attributes, 'score': probability})
        else:
            self._frames.append({'name': name, 'attributes': {}, 'labels': label})
            for box in label:
                sure = not (box['attributes']['crowd'] or box['attributes']['classUnsure'])
                self.unsure += not sure
                self.sure.update([box['category']] if sure else [])

    def finish(self) -> None:
        """Write the list of frames."""
        if self._frames:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f'det_{self.split}.json'
            path.write_text(json.dumps(self._frames) + '\n', 'utf-8')

    def counts(self) -> dict[str, Any]:
        """For the report."""
        return {'images': self.images, 'sure': dict(self.sure), 'unsure': self.unsure}

    def _mask(self, name: str, mask: NDArray[np.uint8]) -> None:
        self._save('masks', name, mask)
        names = [
            *self.task.classes,
            *('|'.join(self.task.classes[i] for i in g) for g in GROUPS.get(self.task.name, ())),
        ]
        for value, count in zip(*np.unique(mask, return_counts=True), strict=True):
            if value == UNLABELLED:
                self.unsure += int(count)
            else:
                self.sure[names[value]] += int(count)

    def _save(self, kind: str, name: str, values: NDArray[np.uint8]) -> None:
        path = self.folder / kind / self.split / Path(name).with_suffix('.png')
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(path)
