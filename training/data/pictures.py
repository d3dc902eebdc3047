"""Image files as arrays: size without decoding, decoding at reduced size, truncation found."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from training.data.sample import DatasetError

SHRINKS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
"""A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size for a fraction of the time (libjpeg)."""

JPEG_BEGIN, JPEG_END = b'\xff\xd8', b'\xff\xd9'
TAIL = 1024
"""Bytes in which the end of a whole JPEG is looked for; some cameras pad their files."""
ORIENTATION, TRANSPOSED = 0x0112, 5
"""EXIF tag; values from 5 on swap width and height, which OpenCV applies when it decodes."""


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height from the file's header; raises DatasetError when it is no image."""
    try:
        with Image.open(path) as file:
            width, height = file.size
            orientation = file.getexif().get(ORIENTATION)
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise DatasetError(f'{path} is not readable as an image: {error}') from error
    # Text or bytes are no orientation; where OpenCV turns the image yet, `Layout.load` says so.
    swapped = isinstance(orientation, int) and orientation >= TRANSPOSED
    return (height, width) if swapped else (width, height)


def largest_shrink(scale: float) -> int:
    """How far a picture may be shrunk while decoding when it is to be resized by `scale`."""
    return max(shrink for shrink in SHRINKS if shrink == 1 or shrink * scale <= 1)


def read_picture(path: Path, shrink: int = 1) -> NDArray[np.uint8]:
    """RGB uint8 [ceil(H / shrink), ceil(W / shrink), 3]; other files than JPEG come unshrunk.

    Raises DatasetError when the file does not decode, or is a JPEG without its end: a decoder
    paints the missing part grey and says nothing.
    """
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DatasetError(f'{path} is not readable: {error}') from error
    if is_jpeg(data):
        if JPEG_END not in data[-TAIL:].tobytes():
            raise DatasetError(f'{path} is a truncated JPEG ({len(data)} bytes, no end marker)')
    else:
        shrink = 1
    image = cv2.imdecode(data, SHRINKS[shrink]) if len(data) else None
    if image is None:
        raise DatasetError(f'{path} does not decode as an image')
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image), np.uint8)


def is_jpeg(data: NDArray[np.uint8]) -> bool:
    """Whether a file's bytes begin as a JPEG does."""
    return data[:2].tobytes() == JPEG_BEGIN
