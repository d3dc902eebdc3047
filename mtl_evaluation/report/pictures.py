"""What a person looks at after a run: the video, and panels of single frames."""

from __future__ import annotations

import base64
import logging
import queue
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.metrics.average_precision import ScoredImage, at_iou_50, match
from mtl_evaluation.metrics.flaws import SHOWN_SCORE
from mtl_evaluation.truth.truth import Truth, TruthBoxes, class_ids, same_size
from mtl_perception import overlay
from mtl_perception.decode import Detections
from mtl_perception.pipeline import Frame, Result
from mtl_perception.tasks import UNLABELLED, Task

log = logging.getLogger(__name__)

Image = NDArray[np.uint8]
T = TypeVar('T')

VIDEO_WIDTH = 768
VP9_FRAMES = 400
"""VP9 plays in every browser and takes a quarter of a second a frame; above this, mp4v."""


@dataclass(frozen=True)
class Seen:
    """A frame looked at again: uint8 [H, W, 3] RGB, what was answered about it, what is true."""

    image: Image
    result: Result
    truth: Truth


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


def rgb_of(frame: Frame) -> Image:
    """Pixels as contiguous RGB."""
    pixels = frame.pixels if frame.order == 'rgb' else frame.pixels[..., ::-1]
    return np.ascontiguousarray(pixels)


def shown(result: Result) -> Result:
    """The same answer without weak detections."""
    detections = {}
    for name, found in result.detections.items():
        kept = found.scores >= SHOWN_SCORE
        detections[name] = Detections(found.boxes[kept], found.scores[kept], found.labels[kept])
    return Result(detections, result.masks, result.probabilities)


def truth_as_result(truth: Truth, tasks: Sequence[Task]) -> Result:
    """The truth in the shape of a perfect answer, for painting; its boxes have no score."""
    result = Result(masks=dict(truth.masks))
    for task in tasks:
        if task.kind == 'detection' and truth.boxes is not None:
            kept = ~truth.boxes.ignore
            labels = np.array(class_ids(task, truth.boxes.classes), np.int64)[kept]
            boxes = truth.boxes.boxes[kept]
            result.detections[task.name] = Detections(
                boxes, np.full(len(boxes), np.nan, np.float32), labels
            )
        elif task.kind == 'classification' and task.name in truth.labels:
            probabilities = np.zeros(len(task.classes), np.float32)
            probabilities[class_ids(task, [truth.labels[task.name]])] = 1
            result.probabilities[task.name] = probabilities
    return result


def panels(image: Image, result: Result, truth: Truth, tasks: Sequence[Task]) -> tuple[Panel, ...]:
    """Overlay, semantic mask, and where there is truth: the truth and the pixels that differ."""
    found = [Panel('Answer of the node', overlay.draw(image, shown(result), tasks))]
    if truth:
        painted = overlay.draw(image, truth_as_result(truth, tasks), tasks)
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
    found = Result(
        _only(shown(seen.result).detections, task), {}, _only(seen.result.probabilities, task)
    )
    panels = [
        Panel('predicted', overlay.draw(seen.image, found, [task], None)),
        Panel('truth', overlay.draw(seen.image, truth, [task], None)),
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
    return overlay.draw(image, Result(masks={task.name: mask}), [task], task.name)


def _box_errors(image: Image, found: Detections, truth: TruthBoxes, task: Task) -> Image:
    """Boxes by what became of them at IoU 0.5: missed red, false orange, found green."""
    labels = np.array(class_ids(task, truth.classes), np.int64)
    height, width = image.shape[:2]
    scored = ScoredImage(
        width, height, found.boxes.astype(np.float64), found.scores.astype(np.float64),
        found.labels.astype(np.int64), truth.boxes.astype(np.float64), labels, truth.ignore,
    )  # fmt: skip
    matches = match(scored, len(task.classes))
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
    picture = _scaled(image, width)
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    _, jpeg = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return f'data:image/jpeg;base64,{base64.b64encode(jpeg.tobytes()).decode()}'


def write_png(path: Path, image: Image) -> None:
    """Write RGB pixels; raises OSError when the file cannot be written."""
    if not cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR)):
        raise OSError(f'{path} cannot be written')


def _scaled(image: Image, width: int) -> Image:
    height, found = image.shape[:2]
    if found <= width:
        return image
    size = (width, round(height * width / found))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


class Video:
    """An mp4 being encoded in a thread of its own; all pictures are fitted into the first's size.

    VP9 where OpenCV can write it and there are few enough frames for it, else mp4v, which desktop
    players show and browsers do not; the log says which and why.
    """

    def __init__(self, path: Path, rate_hz: float, frames: int) -> None:
        self.path = path
        self.codec = ''
        self._rate_hz = rate_hz
        self._frames = frames
        self._size = (0, 0)
        self._writer: cv2.VideoWriter | None = None
        self._queue: queue.Queue[Image | None] = queue.Queue(8)
        self._thread = threading.Thread(target=self._encode, name='video', daemon=True)

    def __enter__(self) -> Video:
        """Start encoding."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Encode what is waiting and finish the file."""
        self._queue.put(None)
        self._thread.join()
        if self._writer is not None:
            self._writer.release()

    def add(self, image: Image) -> None:
        """Append one picture, RGB."""
        if self._writer is None:
            self._open(image)
        self._queue.put(_fitted(image, self._size))

    def _open(self, image: Image) -> None:
        height, width = _scaled(image, VIDEO_WIDTH).shape[:2]
        self._size = (max(2, width // 2 * 2), max(2, height // 2 * 2))
        codecs = ['vp09', 'mp4v']
        if self._frames > VP9_FRAMES:
            log.info('%d frames: mp4v instead of VP9, which would take long', self._frames)
            codecs.remove('vp09')
        for codec in codecs:
            fourcc = cv2.VideoWriter_fourcc(*codec)  # type: ignore[attr-defined]
            writer = cv2.VideoWriter(str(self.path), fourcc, self._rate_hz, self._size)
            if writer.isOpened():
                self._writer, self.codec = writer, codec
                return
            log.info('this OpenCV cannot write %s video; trying the next codec', codec)
        log.warning('no video: this OpenCV writes neither VP9 nor mp4v')
        self._writer = cv2.VideoWriter()

    def _encode(self) -> None:
        while (image := self._queue.get()) is not None:
            if self._writer is not None and self.codec:
                self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))


def plays_in_browsers(path: Path) -> bool:
    """Whether a video that `Video` wrote is VP9, which browsers show; mp4v they do not."""
    capture = cv2.VideoCapture(str(path))
    code = int(capture.get(cv2.CAP_PROP_FOURCC))
    capture.release()
    return code.to_bytes(4, 'little').lower() in (b'vp09', b'vp90')


def _fitted(image: Image, size: tuple[int, int]) -> Image:
    """Scaled into `size` (width, height) at its own aspect ratio, black around it."""
    width, height = size
    if (image.shape[1], image.shape[0]) == size:
        return image
    scale = min(width / image.shape[1], height / image.shape[0])
    inner = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    small = cv2.resize(image, inner, interpolation=cv2.INTER_AREA)
    canvas = np.zeros((height, width, 3), np.uint8)
    top, left = (height - inner[1]) // 2, (width - inner[0]) // 2
    canvas[top : top + inner[1], left : left + inner[0]] = small
    return canvas
