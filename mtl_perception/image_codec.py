# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Image bytes as they come over the wire -> a checked uint8 frame, or ImageError.

Everything is validated before any conversion: what reaches OpenCV has the size that its header
says. rgb8 and bgr8 are views of the message's own memory, padded rows included; the rest is
converted to RGB. Encodings as in `sensor_msgs/image_encodings.hpp`; nv12, nv21 and nv24 as camera
drivers publish them: luma rows of `step` bytes, and interleaved chroma behind them.
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
    the OpenCV conversion to RGB otherwise, -1 for none. even_*: what subsampled chroma or a Bayer
    pattern needs. chroma: bytes of interleaved chroma behind the luma, for each byte of luma.
    bits: of a sample; 16 are scaled to 8.
    """

    channels: int
    order: Literal['rgb', 'bgr'] | None = None
    code: int = -1
    even_width: bool = False
    even_height: bool = False
    chroma: float = 0.0
    bits: int = 8

    def rows(self, height: int) -> int:
        """Rows of `step` bytes that an image of so many lines has."""
        return int(height * (1 + self.chroma))


def _bayer(code: int, bits: int = 8) -> Encoding:
    return Encoding(bits // 8, code=code, even_width=True, even_height=True, bits=bits)


def _semi_planar(code: int) -> Encoding:
    return Encoding(1, code=code, even_width=True, even_height=True, chroma=0.5)


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
    # As OpenCV names its matrices: colour is in its order.
    '8UC1': Encoding(1, code=cv2.COLOR_GRAY2RGB),
    '8UC3': Encoding(3, order='bgr'),
    '8UC4': Encoding(4, code=cv2.COLOR_BGRA2RGB),
    'nv12': _semi_planar(cv2.COLOR_YUV2RGB_NV12),
    'nv21': _semi_planar(cv2.COLOR_YUV2RGB_NV21),
    'nv24': Encoding(1, chroma=2.0),
    'bayer_rggb8': _bayer(cv2.COLOR_BayerRGGB2RGB),
    'bayer_bggr8': _bayer(cv2.COLOR_BayerBGGR2RGB),
    'bayer_gbrg8': _bayer(cv2.COLOR_BayerGBRG2RGB),
    'bayer_grbg8': _bayer(cv2.COLOR_BayerGRBG2RGB),
    'mono16': Encoding(2, code=cv2.COLOR_GRAY2RGB, bits=16),
    'rgb16': Encoding(6, order='rgb', bits=16),
    'bgr16': Encoding(6, order='bgr', bits=16),
    'rgba16': Encoding(8, code=cv2.COLOR_RGBA2RGB, bits=16),
    'bgra16': Encoding(8, code=cv2.COLOR_BGRA2RGB, bits=16),
    'bayer_rggb16': _bayer(cv2.COLOR_BayerRGGB2RGB, 16),
    'bayer_bggr16': _bayer(cv2.COLOR_BayerBGGR2RGB, 16),
    'bayer_gbrg16': _bayer(cv2.COLOR_BayerGBRG2RGB, 16),
    'bayer_grbg16': _bayer(cv2.COLOR_BayerGRBG2RGB, 16),
}

# ITU-R BT.601 in video range, as OpenCV converts the subsampled encodings: Y, U, V, 1 -> R, G, B.
_YUV_TO_RGB = np.array(
    [
        [1.164, 0.0, 1.596, -222.9],
        [1.164, -0.392, -0.813, 135.6],
        [1.164, 2.017, 0.0, -276.8],
    ]
)


def decode_raw(
    encoding: str, height: int, width: int, step: int, is_bigendian: int, data: Bytes
) -> Frame:
    """Fields of a `sensor_msgs/Image` -> Frame; raises ImageError, never anything else.

    `step` is bytes per row; the data must be exactly `step * height` bytes (nv12 and nv21: half as
    much again, nv24: three times as much). `is_bigendian` says nothing about 8-bit pixels and is
    ignored there, as every driver sets it differently; 16 bits are scaled to 8, whole range to
    whole range. The frame of rgb8 and bgr8 shares memory with `data`.
    """
    layout = ENCODINGS.get(encoding)
    if layout is None:
        raise ImageError(
            f'unsupported encoding {quoted(encoding)}; supported: {", ".join(ENCODINGS)}. '
            f'Put image_proc before this node for other ones.'
        )
    if (layout.even_width and width % 2) or (layout.even_height and height % 2):
        raise ImageError(f'{encoding} image is {width}x{height}, expected even sizes')
    rows = layout.rows(height)
    flat = check_layout(encoding, height, width, step, data, layout.channels, rows)
    if encoding == 'nv24':
        return Frame(_nv24(flat, height, width, step), 'rgb')
    samples = layout.channels * 8 // layout.bits
    shape = (rows, width, samples) if samples > 1 else (rows, width)
    strides = (step, layout.channels, layout.bits // 8)[: len(shape)]
    kind = np.dtype(np.uint8 if layout.bits == 8 else '>u2' if is_bigendian else '<u2')
    pixels: NDArray[Any] = np.ndarray(shape, kind, flat, 0, strides)
    if layout.bits == 16:
        pixels = _opencv(lambda: cv2.convertScaleAbs(_native(pixels), alpha=255 / 65535), encoding)
    if layout.order is not None:
        return Frame(pixels, layout.order)
    return Frame(_opencv(lambda: cv2.cvtColor(pixels, layout.code), f'{encoding} to RGB'), 'rgb')


def _native(pixels: NDArray[Any]) -> NDArray[np.uint16]:
    """The same samples in this machine's byte order, in one piece."""
    return np.ascontiguousarray(pixels, np.uint16)


def _nv24(flat: NDArray[np.uint8], height: int, width: int, step: int) -> NDArray[np.uint8]:
    """Full-resolution chroma, for which OpenCV has no conversion: RGB [H, W, 3]."""
    luma = flat[: step * height].reshape(height, step)[:, :width]
    chroma = flat[step * height :].reshape(height, 2 * step)[:, : 2 * width]
    yuv = np.dstack([luma, chroma.reshape(height, width, 2)])
    return np.asarray(_opencv(lambda: cv2.transform(yuv, _YUV_TO_RGB), 'nv24 to RGB'), np.uint8)


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
