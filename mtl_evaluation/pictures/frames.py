# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""A frame with its result and truth, in the form that is painted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from mtl_evaluation import kinds
from mtl_evaluation.kinds import detection
from mtl_evaluation.truth.truth import Truth
from mtl_perception.camera_model import CameraModel, GeometryError
from mtl_perception.frame import Detections, Frame, Result
from mtl_perception.objects import place
from mtl_perception.tasks import Task

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Seen:
    """A frame looked at again: uint8 [H, W, 3] RGB, what was answered about it, what is true."""

    image: Image
    result: Result
    truth: Truth


def rgb_of(frame: Frame) -> Image:
    """Pixels as contiguous RGB."""
    pixels = frame.pixels if frame.order == 'rgb' else frame.pixels[..., ::-1]
    return np.ascontiguousarray(pixels)


def shown(result: Result) -> Result:
    """The same answer without weak detections."""
    answers = dict(result.answers)
    for name, found in answers.items():
        if isinstance(found, Detections):
            answers[name] = detection.shown(found)
    # Tracks are of shown detections, and these are the first ones.
    return Result(answers, result.tracks)


def placed(
    result: Result, tasks: Sequence[Task], camera: CameraModel | None, truth: Truth, image: Image
) -> Result:
    """The result with the places of its detections on the road, where lens and mount are known.

    camera: of images of any size; the mount is the one that the truth tells (generated drives).
    """
    if camera is None or truth.places is None:
        return result
    height, width = image.shape[:2]
    try:
        lens = camera.for_image(width, height)
    except GeometryError:
        return result
    for task in tasks:
        found = result.answers.get(task.name)
        if isinstance(found, Detections):
            result.places[task.name] = place(found, task, lens, truth.places.mount)
    return result


def truth_as_result(truth: Truth, tasks: Sequence[Task]) -> Result:
    """The truth in the shape of a perfect answer, for painting; its boxes have no score."""
    known = {task.name: kinds.of(task).truth(truth, task) for task in tasks}
    return Result(
        {
            task.name: kinds.of(task).as_answer(known[task.name], task)
            for task in tasks
            if known[task.name] is not None
        }
    )


def as_labelled(tasks: Sequence[Task]) -> list[Task]:
    """The tasks of a truth, which is believed whatever a model was taught."""
    return [replace(task, taught=None, threshold=0.0) for task in tasks]


def scaled(image: Image, width: int) -> Image:
    """At most `width` pixels wide, at its own aspect ratio."""
    height, found = image.shape[:2]
    if found <= width:
        return image
    size = (width, round(height * width / found))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
