# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Videos of painted frames, encoded while the frames come."""

from __future__ import annotations

import logging
import queue
import threading
from pathlib import Path

import cv2
import numpy as np

from mtl_evaluation.pictures.frames import Image, scaled

log = logging.getLogger(__name__)

VIDEO_WIDTH = 768
VP9_FRAMES = 400
"""VP9 plays in every browser and takes a quarter of a second per frame; above this, mp4v."""


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
        height, width = scaled(image, VIDEO_WIDTH).shape[:2]
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
