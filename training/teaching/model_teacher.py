# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""A model as a teacher: a bundle or a training run, asked about several views of an image.

The averaged weights of the last round are a run like any other, so self-training by rounds (Xie et
al., "Noisy Student", CVPR 2020) with an averaged teacher (Tarvainen and Valpola, NeurIPS 2017)
needs nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mtl_perception import kinds
from mtl_perception.bundle import MANIFEST
from mtl_perception.decode.answers import calibrated
from mtl_perception.decode.boxes import detection
from mtl_perception.decode.contract import Thresholds
from mtl_perception.frame import Detections, Frame
from mtl_perception.letterbox import Letterbox
from mtl_perception.tasks import Task
from training.data.teacher_labels import can_be_taught
from training.evaluation.model import RUN_CONFIG, open_model
from training.teaching.boxes import averaged
from training.teaching.knowledge import Knowledge, Place, checked_tasks
from training.teaching.views import View, views

BOXES = Thresholds(score=0.05, nms_iou=0.6, max_detections=300)
"""Which boxes of a model count at all; the rules say which are written."""


def is_model(folder: Path) -> bool:
    """Whether a folder is a bundle or a training run."""
    return (folder / RUN_CONFIG).is_file() or (folder / MANIFEST).is_file()


class ModelTeacher:
    """The average over the views of `views.py`."""

    def __init__(
        self, name: str, path: str, tasks: Sequence[str], scales: Sequence[float], flip: bool
    ) -> None:
        """Open the model; raises TeachError for tasks that it lacks, and what `open_model` does."""
        model = open_model(path)
        self.name = name
        self.identity = dict(model.identity)
        self._pipeline = model.pipeline
        self._scales, self._flip = scales, flip
        self._own = {task.name: task for task in model.pipeline.tasks if can_be_taught(task)}
        self.tasks = checked_tasks(name, path, tasks, self._own)

    def __call__(self, place: Place, image: NDArray[np.uint8]) -> Knowledge:
        """What it knows about uint8 [H, W, 3] RGB; raises EngineError."""
        height, width = image.shape[:2]
        manifest = self._pipeline.bundle.manifest
        boxes: dict[str, list[tuple[View, Detections]]] = {}
        masks: dict[str, NDArray[np.float32]] = {}
        classes: dict[str, list[NDArray[np.float32]]] = {}
        for view in views(width, height, self._scales, self._flip):
            seen = view.cut(image, manifest.input.letterbox_colour)
            ran = self._pipeline.infer(Frame(seen))
            for name in self.tasks:
                task, specs = self._own[name], manifest.outputs_of(name)
                tensors = {meaning: ran.outputs[spec.name] for meaning, spec in specs.items()}
                if kinds.of(task).has_boxes:
                    found = detection(task, specs, tensors, ran.letterbox, BOXES)
                    boxes.setdefault(name, []).append((view, view.boxes(found, width, height)))
                elif kinds.of(task).is_mask:
                    shape = (len(task.classes), height, width)
                    total = masks.setdefault(name, np.zeros(shape, np.float32))
                    view.add(_probabilities(task, specs, tensors, ran.letterbox), total)
                elif view.width >= width:  # a part of the image need not show its scene
                    classes.setdefault(name, []).append(_believed(task, tensors['probabilities']))
        return Knowledge(
            {name: averaged(found, width, height) for name, found in boxes.items()},
            {name: total / np.maximum(total.sum(0), 1e-6) for name, total in masks.items()},
            {name: np.mean(rows, axis=0, dtype=np.float32) for name, rows in classes.items()},
        )


def _believed(task: Task, probabilities: NDArray[Any]) -> NDArray[np.float32]:
    """Calibrated, and none for classes that no real data taught the model: float32 [C]."""
    taught = np.array([name in task.believed for name in task.classes], np.float32)
    return calibrated(probabilities.astype(np.float32), task.temperature) * taught


def _probabilities(
    task: Task, specs: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], box: Letterbox
) -> NDArray[np.float32]:
    """Class probabilities of every pixel of a view, float32 [C, height, width]."""
    if 'class_map' in tensors:
        cells = np.eye(len(task.classes), dtype=np.float32)[tensors['class_map']].transpose(2, 0, 1)
        stride = specs['class_map'].stride
    else:
        logits = tensors['logits'].astype(np.float32)
        powers = np.exp(logits - logits.max(0))
        cells, stride = powers / powers.sum(0), specs['logits'].stride
    # As in decode/maps.py: pixel x lies at cell ((x + 0.5) * scale + pad) / stride - 0.5.
    to_cells = np.array([
        [box.scale_x / stride, 0, (0.5 * box.scale_x + box.pad_left) / stride - 0.5],
        [0, box.scale_y / stride, (0.5 * box.scale_y + box.pad_top) / stride - 0.5],
    ])  # fmt: skip
    size = (box.source_width, box.source_height)
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    planes = [
        cv2.warpAffine(plane, to_cells, size, flags=how, borderMode=cv2.BORDER_REPLICATE)
        for plane in np.ascontiguousarray(cells)
    ]
    return np.stack(planes).astype(np.float32)
