# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Panels of single frames: what was found, what is true, and where they differ."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.metrics.average_precision import ScoredImage, at_iou_50
from mtl_evaluation.pictures.frames import (
    Image,
    Seen,
    as_labelled,
    scaled,
    shown,
    truth_as_result,
)
from mtl_evaluation.truth.truth import Truth, TruthBoxes, class_ids, same_size
from mtl_perception import overlay
from mtl_perception.frame import Detections, Result
from mtl_perception.tasks import UNLABELLED, Task

T = TypeVar('T')


@dataclass(frozen=True)
class Panel:
    """One picture of a frame, uint8 [H, W, 3] RGB, and what it shows."""

    title: str
    image: Image


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
        if task.kind != 'segmentation' or task.name == 'drivable' or mask is None:
            continue
        found.append(Panel(f'{task.name}, predicted', _tinted(image, mask, task)))
        if task.name in truth.masks:
            expected = same_size(truth.masks[task.name], mask)
            found.append(Panel(f'{task.name}, wrong pixels in red', _errors(image, mask, expected)))
    return tuple(found)


def task_panels(seen: Seen, task: Task) -> tuple[Panel, ...]:
    """What was answered and what is true, at one task, side by side; then what differs."""
    truth = truth_as_result(seen.truth, [task])
    if task.kind == 'segmentation':
        return _mask_panels(seen, task, truth)
    found = Result(_only(shown(seen.result).answers, task))
    panels = [
        Panel('predicted', overlay.draw(seen.image, found, [task], None)),
        Panel('truth', overlay.draw(seen.image, truth, as_labelled([task]), None)),
    ]
    if task.name in found.detections and seen.truth.boxes is not None:
        panels.append(
            Panel(
                'missed red, false orange, found green',
                _box_errors(seen.image, found.detections[task.name], seen.truth.boxes, task),
            )
        )
    return tuple(panels)


def _mask_panels(seen: Seen, task: Task, truth: Result) -> tuple[Panel, ...]:
    mask = seen.result.masks.get(task.name)
    if mask is None:
        return ()
    panels = [Panel('predicted', _painted(seen.image, mask, task))]
    if task.name in truth.masks:
        expected = same_size(truth.masks[task.name], mask)
        panels.append(Panel('truth', _painted(seen.image, expected, task)))
        panels.append(Panel('wrong pixels in red', _errors(seen.image, mask, expected)))
    return tuple(panels)


def _only(answers: Mapping[str, T], task: Task) -> dict[str, T]:
    return {name: value for name, value in answers.items() if name == task.name}


def _painted(image: Image, mask: NDArray[np.uint8], task: Task) -> Image:
    """The mask on the picture; strongly, unless its table leaves classes unpainted."""
    if all(any(colour) for colour in task.colours):
        return _tinted(image, mask, task)
    return overlay.draw(image, Result({task.name: mask}), [task], task.name)


def _box_errors(image: Image, found: Detections, truth: TruthBoxes, task: Task) -> Image:
    """Boxes by what became of them at IoU 0.5: missed red, false orange, found green."""
    labels = np.array(class_ids(task, truth.classes), np.int64)
    height, width = image.shape[:2]
    scored = ScoredImage(
        width, height, found.boxes.astype(np.float64), found.scores.astype(np.float64),
        found.labels.astype(np.int64), truth.boxes.astype(np.float64), labels, truth.ignore,
    )  # fmt: skip
    matches = scored.matches
    wrong = ~at_iou_50(matches.right) & ~at_iou_50(matches.ignored)
    missed = ~truth.ignore & (matches.taken_by < 0)
    got = ~truth.ignore & (matches.taken_by >= 0)
    painted = np.asarray(cv2.addWeighted(image, 0.6, np.zeros_like(image), 0.4, 0), np.uint8)
    line = max(1, round(height / 300))
    for boxes, colour, thick in (
        (truth.boxes[got], (70, 210, 120), line),
        (found.boxes[wrong], (255, 160, 40), line + 1),
        (truth.boxes[missed], (245, 60, 70), line + 1),
    ):
        for left, top, right, bottom in np.round(boxes).astype(int).tolist():
            cv2.rectangle(painted, (left, top), (right, bottom), colour, thick, cv2.LINE_AA)
    return painted


def _tinted(image: Image, mask: NDArray[np.uint8], task: Task) -> Image:
    table = np.zeros((256, 3), np.uint8)
    table[: len(task.colours)] = task.colours
    return np.asarray(cv2.addWeighted(image, 0.35, table[mask], 0.65, 0), np.uint8)


def _errors(image: Image, mask: NDArray[np.uint8], truth: NDArray[np.uint8]) -> Image:
    """Wrong pixels red, unlabelled ones dark, right ones as grey as the picture."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    painted = np.repeat(grey[..., None], 3, 2)
    painted[truth == UNLABELLED] //= 4
    wrong = (mask != truth) & (truth != UNLABELLED)
    red = np.array([235, 45, 60], np.float32)
    painted[wrong] = (0.35 * painted[wrong] + 0.65 * red).astype(np.uint8)
    return np.asarray(painted, np.uint8)


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
