# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Panels of single frames: what was found, what is true, and where they differ."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2

from mtl_evaluation import kinds
from mtl_evaluation.kinds.base import Panel
from mtl_evaluation.kinds.segmentation import errors, tinted
from mtl_evaluation.pictures.frames import (
    Image,
    Seen,
    as_labelled,
    scaled,
    shown,
    truth_as_result,
)
from mtl_evaluation.truth.truth import Truth, same_size
from mtl_perception import overlay
from mtl_perception.frame import Result
from mtl_perception.tasks import Task


@dataclass(frozen=True)
class Example:
    """One frame of the gallery."""

    index: int
    time_s: float
    caption: str
    panels: tuple[Panel, ...]


def panels(image: Image, result: Result, truth: Truth, tasks: Sequence[Task]) -> tuple[Panel, ...]:
    """Overlay, semantic mask, and where there is truth: the truth and the pixels that differ."""
    found = [Panel('Answer of the node', overlay.draw(image, shown(result), tasks))]
    if truth:
        painted = overlay.draw(image, truth_as_result(truth, tasks), as_labelled(tasks))
        found.append(Panel('Ground truth', painted))
    for task in tasks:
        mask = result.masks.get(task.name)
        if task.name == 'drivable' or mask is None:
            continue
        found.append(Panel(f'{task.name}, predicted', tinted(image, mask, task)))
        if task.name in truth.masks:
            expected = same_size(truth.masks[task.name], mask)
            found.append(Panel(f'{task.name}, wrong pixels in red', errors(image, mask, expected)))
    return tuple(found)


def task_panels(seen: Seen, task: Task) -> tuple[Panel, ...]:
    """What was answered and what is true, at one task, side by side; then what differs."""
    kind = kinds.of(task)
    answer, truth = shown(seen.result).answers.get(task.name), kind.truth(seen.truth, task)
    return tuple(kind.panels(seen.image, answer, truth, task))


def as_data_uri(image: Image, width: int = 640, quality: int = 82) -> str:
    """JPEG of at most `width` pixels as a data URI."""
    picture = scaled(image, width)
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    _, jpeg = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return f'data:image/jpeg;base64,{base64.b64encode(jpeg.tobytes()).decode()}'


def write_png(path: Path, image: Image) -> None:
    """Write RGB pixels; raises OSError when the file cannot be written."""
    if not cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR)):
        raise OSError(f'{path} cannot be written')
