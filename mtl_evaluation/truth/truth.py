"""What is known about a frame, and how it is scored.

A task that a frame's truth does not mention is unlabelled there: it adds nothing to any metric.
That is not the same as labelled and empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.metrics.classification import ClassificationMetric
from mtl_evaluation.metrics.metrics import (
    DetectionMetric,
    Metric,
    SegmentationMetric,
    metric_for,
)
from mtl_perception.pipeline import Result
from mtl_perception.tasks import Task


@dataclass(frozen=True)
class TruthBoxes:
    """Labelled objects of one frame: float32 [N, 4] xyxy source pixels, N class names.

    ignore bool [N]: there is something, but it is not scored (crowds, merged boxes).
    """

    boxes: NDArray[np.float32]
    classes: tuple[str, ...]
    ignore: NDArray[np.bool_]

    @classmethod
    def none(cls) -> TruthBoxes:
        """A frame that was labelled and holds no object."""
        return cls(np.zeros((0, 4), np.float32), (), np.zeros(0, bool))


@dataclass(frozen=True)
class Truth:
    """Labels of one frame by task name; a missing key or None is unlabelled.

    masks: uint8 [H, W] class ids, 255 = unlabelled pixel. labels: class name a classification task.
    """

    boxes: TruthBoxes | None = None
    masks: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether anything at all is known."""
        return self.boxes is not None or bool(self.masks) or bool(self.labels)


class Scores:
    """One metric a task over the frames that have both a prediction and a truth for it."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        """A metric for every task."""
        self.metrics: dict[str, Metric] = {task.name: metric_for(task) for task in tasks}

    def update(self, frame: str, result: Result, truth: Truth, size: tuple[int, int]) -> None:
        """Add one frame; `size` is its width and height.

        Raises ValueError when the truth names classes, or holds ids, that the task does not have.
        """
        for name, metric in self.metrics.items():
            if isinstance(metric, DetectionMetric):
                found = result.detections.get(name)
                if found is not None and truth.boxes is not None:
                    labels = class_ids(metric.task, truth.boxes.classes)
                    metric.update(
                        frame, found, truth.boxes.boxes, labels, truth.boxes.ignore,
                        width=size[0], height=size[1],
                    )  # fmt: skip
            elif isinstance(metric, SegmentationMetric):
                mask, expected = result.masks.get(name), truth.masks.get(name)
                if mask is not None and expected is not None:
                    metric.update(mask, same_size(expected, mask))
            elif isinstance(metric, ClassificationMetric):
                found_class, expected_name = result.probabilities.get(name), truth.labels.get(name)
                if found_class is not None and expected_name is not None:
                    label = class_ids(metric.task, (expected_name,))[0]
                    metric.update(int(found_class.argmax()), label)

    def merge(self, other: Scores) -> None:
        """Add another bag's frames; raises ValueError when tasks differ."""
        if self.metrics.keys() != other.metrics.keys():
            raise ValueError(f'tasks differ: {sorted(self.metrics)} and {sorted(other.metrics)}')
        for name, metric in self.metrics.items():
            metric.merge(other.metrics[name])  # type: ignore[arg-type]

    def result(self) -> dict[str, dict[str, Any]]:
        """By task: `kind` and the metric's result; `frames` 0 where nothing was measured."""
        return {
            name: {'kind': metric.task.kind, **metric.result()}
            for name, metric in self.metrics.items()
        }


def class_ids(task: Task, names: Iterable[str]) -> list[int]:
    """Ids of class names; raises ValueError naming the stranger and the task's table."""
    ids = {name: index for index, name in enumerate(task.classes)}
    try:
        return [ids[name] for name in names]
    except KeyError as error:
        raise ValueError(
            f'the truth names class {error.args[0]!r}, task {task.name} has '
            f'{", ".join(task.classes)}: bag and model were made with different class tables'
        ) from None


def same_size(truth: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The truth mask at the prediction's size: some data sets store it at another one."""
    if truth.shape == prediction.shape:
        return truth
    height, width = prediction.shape
    return np.asarray(cv2.resize(truth, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)
