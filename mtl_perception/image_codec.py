"""Image bytes as they come over the wire -> a checked uint8 frame, or ImageError.

Everything is validated before any conversion: what reaches OpenCV has the size that its header
says. rgb8 and bgr8 are views of the message's own memory, padded rows included; the rest is
converted to RGB. Encodings as in `sensor_msgs/image_encodings.hpp`, and `nv12` as camera drivers
publish it: luma rows of `step` bytes and half as many rows of interleaved chroma behind them.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from mtl_perception.frame import Frame
from mtl_perception.text import one_line, quoted

MAX_SIDE = 16384
MAX_PIXELS = 1 << 26
"""A header beyond these (64 Mpixel) is refused before anything of its size is allocated."""

MAX_SCANS = 64
"""Scans of a JPEG: a progressive one has about ten. Each makes the decoder walk the whole picture
again, also where a scan holds nothing, so that their number is the time that it takes."""

Bytes = bytes | bytearray | memoryview | array | NDArray[np.uint8]


class ImageError(Exception):
    """An image that cannot be used: what is wrong with it, expected, found."""


@dataclass(frozen=True)
class Encoding:
    """How one raw encoding lies in memory and becomes RGB.

    channels: bytes per pixel in a (luma) row. order: of a plain colour image, taken as it is. code:
    the OpenCV conversion to RGB otherwise. even_*: what subsampled chroma or a Bayer pattern needs.
    """

    channels: int
    order: Literal['rgb', 'bgr'] | None = None
    code: int = -1
    even_width: bool = False
    even_height: bool = False
    chroma_rows: bool = False


def _bayer(code: int) -> Encoding:
    return Encoding(1, code=code, even_width=True, even_height=True)


_UYVY = Encoding(2, code=cv2.COLOR_YUV2RGB_UYVY, even_width=True)
_YUYV = Encoding(2, code=cv2.COLOR_YUV2RGB_YUY2, even_width=True)

ENCODINGS: dict[str, Encoding] = {
    'rgb8': Encoding(3, order='rgb'),
    'bgr8': Encoding(3, order='bgr'),
    'rgba8': Encoding(4, code=cv2.COLOR_RGBA2RGB),
    'bgra8': Encoding(4, code=cv2.COLOR_BGRA2RGB),
    'mono8': Encoding(1, code=cv2.COLOR_GRAY2RGB),
    'yuv422': _UYVY,
    'uyvy': _UYVY,
    'yuv422_yuy2': _YUYV,
    'yuyv': _YUYV,
    'nv12': Encoding(
        1, code=cv2.COLOR_YUV2RGB_NV12, even_width=True, even_height=True, chroma_rows=True
    ),
    'bayer_rggb8': _bayer(cv2.COLOR_BayerRGGB2RGB),
    'bayer_bggr8': _bayer(cv2.COLOR_BayerBGGR2RGB),
    'bayer_gbrg8': _bayer(cv2.COLOR_BayerGBRG2RGB),
    'bayer_grbg8': _bayer(cv2.COLOR_BayerGRBG2RGB),
}


def decode_raw(
    encoding: str, height: int, width: int, step: int, is_bigendian: int, data: Bytes
) -> Frame:
    """Fields of a `sensor_msgs/Image` -> Frame; raises ImageError, never anything else.

    `step` is bytes per row; the data must be exactly `step * height` bytes (nv12: half as much
    again). `is_bigendian` says nothing about 8-bit pixels and is ignored, as every driver sets it
    differently. The frame of rgb8 and bgr8 shares memory with `data`.
    """
    layout = ENCODINGS.get(encoding)
    if layout is None:
        raise ImageError(
            f'unsupported encoding {quoted(encoding)}; supported: {", ".join(ENCODINGS)}. '
            f'Put image_proc before this node for other ones.'
        )
    if (layout.even_width and width % 2) or (layout.even_height and height % 2):
        raise ImageError(f'{encoding} image is {width}x{height}, expected even sizes')
    rows = height * 3 // 2 if layout.chroma_rows else height
    flat = check_layout(encoding, height, width, step, data, layout.channels, rows)
    shape = (rows, width, layout.channels) if layout.channels > 1 else (rows, width)
    strides = (step, layout.channels, 1)[: len(shape)]
    pixels: NDArray[np.uint8] = np.ndarray(shape, np.uint8, flat, 0, strides)
    if layout.order is not None:
        return Frame(pixels, layout.order)
    return Frame(_opencv(lambda: cv2.cvtColor(pixels, layout.code), f'{encoding} to RGB'), 'rgb')


def check_layout(
    encoding: str, height: int, width: int, step: int, data: Bytes, pixel_bytes: int, rows: int
) -> NDArray[np.uint8]:
    """The bytes [rows * step], once height, width, step and their count are known to fit together.

    pixel_bytes: of one pixel in a row. rows: of `step` bytes each. Raises ImageError.
    """
    _check_size(height, width, encoding)
    if step < width * pixel_bytes:
        raise ImageError(
            f'step is {step} bytes, expected at least {width * pixel_bytes} for {width} pixels of '
            f'{encoding}'
        )
    flat = _flat(data)
    if flat.size != step * rows:
        raise ImageError(
            f'data is {"truncated" if flat.size < step * rows else "too long"}: expected '
            f'{step * rows} bytes ({rows} rows of {step}) for {width}x{height} {encoding}, '
            f'found {flat.size}'
        )
    return flat


def decode_compressed(format: str, data: Bytes) -> Frame:
    """Fields of a `sensor_msgs/CompressedImage` -> Frame; raises ImageError, never anything else.

    JPEG and PNG, told apart by their content: drivers write anything into `format`. Sizes are read
    from the header and checked before decoding. Pixels as stored: EXIF orientation is ignored.
    Damage inside JPEG scan data that still ends well is not detected (libjpeg conceals it).
    """
    flat = _flat(data)
    head = flat[:8].tobytes()
    if 'compressedDepth' in format:
        raise ImageError(f'format {quoted(format)} is a depth image, expected a colour JPEG or PNG')
    if head.startswith(b'\xff\xd8'):
        kind, (width, height) = 'JPEG', _jpeg_size(flat)
    elif head == b'\x89PNG\r\n\x1a\n':
        kind, (width, height) = 'PNG', _png_size(flat)
    else:
        raise ImageError(
            f'neither JPEG nor PNG: format {quoted(format)}, {flat.size} bytes starting with '
            f'{head.hex() or "nothing"}. Use another image_transport in the driver, or republish.'
        )
    _check_size(height, width, kind)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = _opencv(lambda: cv2.imdecode(flat, flags), kind)
    if pixels is None or pixels.shape != (height, width, 3):
        raise ImageError(f'broken {kind}: {width}x{height} by its header, cannot be decoded')
    return Frame(pixels, 'bgr')


def _flat(data: Bytes) -> NDArray[np.uint8]:
    """The same bytes as a one-dimensional uint8 view."""
    try:
        empty = len(data) == 0
        flat = np.zeros(0, np.uint8) if empty else np.frombuffer(data, np.uint8)
    except (TypeError, ValueError, BufferError) as error:
        # ROS 2 Lyrical hands over a rosidl Buffer where a driver keeps pixels on a device.
        raise ImageError(
            f'image data is a {type(data).__name__}, whose bytes are not in main memory; let the '
            f'driver publish images without a buffer backend (uint8[] on the CPU)'
        ) from error
    if empty:
        raise ImageError('no image data: 0 bytes')
    return flat


def _check_size(height: int, width: int, what: str) -> None:
    if height < 1 or width < 1:
        raise ImageError(f'{what} image is {width}x{height}, expected at least 1x1')
    if max(height, width) > MAX_SIDE or height * width > MAX_PIXELS:
        raise ImageError(
            f'{what} image is {width}x{height}, expected sides of at most {MAX_SIDE} and at most '
            f'{MAX_PIXELS} pixels'
        )


def _opencv(convert: Callable[[], Any], what: str) -> Any:
    try:
        return convert()
    except cv2.error as error:
        raise ImageError(f'OpenCV cannot convert {what}: {one_line(str(error))}') from error


def _png_size(flat: NDArray[np.uint8]) -> tuple[int, int]:
    """Width and height by the IHDR chunk, which the PNG specification puts first; checks IEND."""
    head = flat[:24].tobytes()
    if len(head) < 24 or head[12:16] != b'IHDR' or b'IEND' not in flat[-64:].tobytes():
        raise ImageError(f'broken PNG: first or last chunk missing in {flat.size} bytes')
    return int.from_bytes(head[16:20], 'big'), int.from_bytes(head[20:24], 'big')


def _jpeg_size(flat: NDArray[np.uint8]) -> tuple[int, int]:
    """Width and height by the frame header (ITU-T T.81, B.2.2); checks that the scan has an end.

    Old OpenCV fills a truncated JPEG with grey and says nothing, hence the look for the end marker.
    """
    data = flat.tobytes()
    size: tuple[int, int] | None = None
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        length = int.from_bytes(data[at + 2 : at + 4], 'big')
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and length >= 8:
            frame = data[at + 5 : at + 9]
            size = int.from_bytes(frame[2:4], 'big'), int.from_bytes(frame[:2], 'big')
        at += 2 + length
        if marker == 0xDA:  # start of scan: what follows is entropy-coded
            break
    else:
        raise ImageError(f'broken JPEG: no scan in {flat.size} bytes')
    # Within coded data 0xFF is followed by 0, a restart or a marker: this counts markers only.
    scans = 1 + data.count(b'\xff\xda', at)
    if scans > MAX_SCANS:
        raise ImageError(
            f'JPEG of {scans} scans, expected at most {MAX_SCANS}: decoding would take too long'
        )
    if size is None or data.rfind(b'\xff\xd9', at) < 0:
        raise ImageError(f'broken JPEG: truncated, no end marker in {flat.size} bytes')
    return size
