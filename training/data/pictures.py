# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Image files as arrays: size without decoding, decoding at reduced size, truncation found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
PNG_BEGIN, PNG_BITS = b'\x89PNG\r\n\x1a\n', 24
"""First bytes of a PNG, and where its header says bits per sample."""
DARK = 1 << 12
"""Of 16 bits: below this an image is data of 12 bits or fewer, not a dark picture."""
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

    Raises DatasetError when the file does not decode; when it is a JPEG without its end, of which a
    decoder paints the missing part grey and says nothing; and when it has 16 bits but uses so few
    of them that 8 would be black.
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
    if is_png_of_16_bits(data):
        largest = int(cv2.imdecode(data, cv2.IMREAD_UNCHANGED).max())
        if 0 < largest < DARK:
            raise DatasetError(
                f'{path} is a PNG of 16 bits with no value above {largest}, of 65535: data of '
                f'{largest.bit_length()} bits, as 8 of the 16 it would be black. Scale them to the '
                f'full range, or save 8 bits'
            )
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image), np.uint8)


def read_values(path: Path) -> NDArray[Any] | None:
    """An image file as it is stored (BGR), whatever its path; None when it does not decode."""
    try:
        data = np.fromfile(path, np.uint8)
    except OSError:
        return None
    return cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None


def write_picture(path: Path, values: NDArray[Any], *parameters: int) -> None:
    """Write as `cv2.imwrite`, to any path; raises OSError, also when the disk is full."""
    coded, data = cv2.imencode(path.suffix, values, parameters)
    if not coded:
        raise OSError(f'{path} cannot be written as {path.suffix or "a file without suffix"}')
    path.write_bytes(data.tobytes())


def is_png_of_16_bits(data: NDArray[np.uint8]) -> bool:
    """Whether a file's bytes begin as a PNG of 16 bits per sample does."""
    return data[:8].tobytes() == PNG_BEGIN and len(data) > PNG_BITS and data[PNG_BITS] == 16


def is_jpeg(data: NDArray[np.uint8]) -> bool:
    """Whether a file's bytes begin as a JPEG does."""
    return data[:2].tobytes() == JPEG_BEGIN
