# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Raw and compressed image decoding: every encoding, every malformed header, fuzz."""

from __future__ import annotations

import struct
from array import array
from functools import lru_cache
from itertools import product

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtl_perception.frame import Frame
from mtl_perception.image_codec import (
    ENCODINGS,
    MAX_PIXELS,
    ImageError,
    decode_compressed,
    decode_raw,
)

HEIGHT, WIDTH = 24, 32
COLOUR = (200, 120, 40)  # RGB
BAYER = {'rggb': 'RGGB', 'bggr': 'BGGR', 'gbrg': 'GBRG', 'grbg': 'GRBG'}


def flat_rgb(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """One colour everywhere, so that chroma subsampling and Bayer interpolation lose nothing."""
    return np.full((height, width, 3), COLOUR, np.uint8)


def encode(encoding: str, rgb: np.ndarray) -> np.ndarray:
    """RGB [H, W, 3] -> rows [R, bytes] in a ROS encoding, written without the code under test."""
    height, width = rgb.shape[:2]
    if encoding.endswith('16'):
        eight = encode(f'{encoding[:-2]}8', rgb)
        return (eight.astype('<u2') * 257).view(np.uint8)
    encoding = {'8UC1': 'mono8', '8UC3': 'bgr8', '8UC4': 'bgra8'}.get(encoding, encoding)
    if encoding == 'rgb8':
        return rgb.reshape(height, -1)
    if encoding == 'bgr8':
        return rgb[..., ::-1].reshape(height, -1)
    if encoding in ('rgba8', 'bgra8'):
        colour = rgb if encoding == 'rgba8' else rgb[..., ::-1]
        return np.dstack([colour, np.full((height, width), 9, np.uint8)]).reshape(height, -1)
    if encoding == 'mono8':
        return cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    if encoding.startswith('bayer_'):
        pattern = encoding[len('bayer_') : -1]
        mosaic = np.empty((height, width), np.uint8)
        for at, letter in enumerate(pattern):
            mosaic[at // 2 :: 2, at % 2 :: 2] = rgb[at // 2 :: 2, at % 2 :: 2, 'rgb'.index(letter)]
        return mosaic
    # ITU-R BT.601, video range, as OpenCV's YUV conversions expect.
    red, green, blue = rgb.astype(float).transpose(2, 0, 1)
    y = 16 + 0.257 * red + 0.504 * green + 0.098 * blue
    u = 128 - 0.148 * red - 0.291 * green + 0.439 * blue
    v = 128 + 0.439 * red - 0.368 * green - 0.071 * blue
    y, u, v = (np.round(plane).astype(np.uint8) for plane in (y, u, v))
    if encoding == 'nv12':
        chroma = np.dstack([u[::2, ::2], v[::2, ::2]]).reshape(height // 2, width)
        return np.vstack([y, chroma])
    if encoding == 'nv21':
        chroma = np.dstack([v[::2, ::2], u[::2, ::2]]).reshape(height // 2, width)
        return np.vstack([y, chroma])
    if encoding == 'nv24':
        return np.vstack([y, np.dstack([u, v]).reshape(2 * height, width)])
    first, second = u[:, ::2], v[:, ::2]
    pairs = {
        'uyvy': (first, y[:, ::2], second, y[:, 1::2]),
        'yuyv': (y[:, ::2], first, y[:, 1::2], second),
    }
    order = pairs['uyvy' if encoding in ('uyvy', 'yuv422') else 'yuyv']
    return np.dstack(order).reshape(height, -1)


def as_rgb(frame: Frame) -> np.ndarray:
    """The frame's pixels in RGB order."""
    return frame.pixels if frame.order == 'rgb' else frame.pixels[..., ::-1]


@pytest.mark.parametrize('padding', [0, 7])
@pytest.mark.parametrize('encoding', ENCODINGS)
def test_every_encoding_gives_back_the_colour(encoding: str, padding: int) -> None:
    """The written colour comes out, also from padded rows."""
    rgb = flat_rgb()
    rows = np.pad(encode(encoding, rgb), ((0, 0), (0, padding)), constant_values=255)
    if encoding == 'nv24':  # a line of chroma is one row of twice the step
        chroma = encode(encoding, rgb)[HEIGHT:].reshape(HEIGHT, 2 * WIDTH)
        chroma = np.pad(chroma, ((0, 0), (0, 2 * padding)), constant_values=255)
        rows[HEIGHT:] = chroma.reshape(2 * HEIGHT, -1)
    frame = decode_raw(encoding, HEIGHT, WIDTH, rows.shape[1], 0, array('B', rows.tobytes()))
    if encoding in ('mono8', 'mono16', '8UC1'):
        rgb = np.repeat(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    assert frame.pixels.shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_allclose(as_rgb(frame).astype(int), rgb, atol=3)


@pytest.mark.parametrize('padding', [0, 5])
@pytest.mark.parametrize('encoding', ['rgb8', 'bgr8'])
def test_plain_colour_is_a_view(encoding: str, padding: int) -> None:
    """rgb8 and bgr8 share memory with the message, and pixels lie where the strides say."""
    rows = np.random.default_rng(1).integers(0, 256, (5, 4 * 3 + padding), np.uint8)
    data = array('B', rows.tobytes())
    frame = decode_raw(encoding, 5, 4, rows.shape[1], 0, data)
    assert np.shares_memory(frame.pixels, np.frombuffer(data, np.uint8))
    np.testing.assert_array_equal(frame.pixels, rows[:, :12].reshape(5, 4, 3))


def test_big_endian_flag_is_ignored_for_bytes() -> None:
    """An 8-bit pixel has no byte order."""
    data = flat_rgb().tobytes()
    frame = decode_raw('rgb8', HEIGHT, WIDTH, WIDTH * 3, 1, data)
    np.testing.assert_array_equal(frame.pixels, flat_rgb())


def test_sixteen_bits_are_read_in_their_byte_order() -> None:
    """Half of the range is half of the range, whichever byte comes first."""
    for kind, is_bigendian in (('<u2', 0), ('>u2', 1)):
        data = np.full((HEIGHT, WIDTH), 0x8000, kind).tobytes()
        frame = decode_raw('mono16', HEIGHT, WIDTH, WIDTH * 2, is_bigendian, data)
        assert set(frame.pixels.reshape(-1).tolist()) == {128}


ROW = WIDTH * 3
FULL = ROW * HEIGHT


@pytest.mark.parametrize(
    ('header', 'size', 'says'),
    [
        (('rgb8', 0, WIDTH, ROW), FULL, '32x0'),
        (('rgb8', HEIGHT, 0, ROW), FULL, '0x24'),
        (('rgb8', 0, 0, 0), 0, '0x0'),
        (('rgb8', HEIGHT, WIDTH, 0), FULL, 'step is 0'),
        (('rgb8', HEIGHT, WIDTH, ROW - 1), FULL, 'step is 95'),
        (('rgb8', HEIGHT, WIDTH, 2**32 - 1), FULL, 'truncated'),
        (('rgb8', HEIGHT, WIDTH, ROW), FULL - 1, 'truncated'),
        (('rgb8', HEIGHT, WIDTH, ROW), FULL + 1, 'too long'),
        (('rgb8', HEIGHT, WIDTH, ROW), 0, '0 bytes'),
        (('rgb8', 32768, 32768, 98304), FULL, '32768x32768'),
        (('rgb8', 16384, 16384, 49152), FULL, str(MAX_PIXELS)),
        (('', HEIGHT, WIDTH, ROW), FULL, 'unsupported encoding'),
        (('32FC1', HEIGHT, WIDTH, WIDTH * 4), FULL, 'image_proc'),
        (('16UC1', HEIGHT, WIDTH, WIDTH * 2), FULL, 'image_proc'),
        (('RGB8', HEIGHT, WIDTH, ROW), FULL, 'rgb8'),
        (('uyvy', HEIGHT, 31, 62), 62 * HEIGHT, 'even'),
        (('nv12', 23, WIDTH, WIDTH), WIDTH * 34, 'even'),
        (('nv12', HEIGHT, WIDTH, WIDTH), WIDTH * HEIGHT, 'truncated'),
        (('bayer_rggb8', HEIGHT, 31, 31), 31 * HEIGHT, 'even'),
    ],
)  # fmt: skip
def test_malformed_raw_is_refused_with_the_reason(header: tuple, size: int, says: str) -> None:
    """One clear sentence each, before any conversion."""
    encoding, height, width, step = header
    with pytest.raises(ImageError, match=says.replace('(', r'\(')):
        decode_raw(encoding, height, width, step, 0, bytes(size))


NOISE = np.random.default_rng(3).integers(0, 256, 5000, np.uint8).tobytes()
SIDES = st.integers(-1, 20) | st.sampled_from([2**15, 2**31, 2**32 - 1])
EXTRAS = (0, 1, 3, -1, -3, -(2**31), 2**32 - 1, None)  # None: step 0
SURPLUSES = (0, -1, 1, 100)


@settings(max_examples=300, deadline=None)
@given(
    encoding=st.sampled_from([*ENCODINGS, '', '8UC2', '32FC1', 'jpeg', '16UC1']),
    height=SIDES,
    width=SIDES,
    is_bigendian=st.integers(0, 255),
)
def test_fuzzed_headers_are_judged_exactly(
    encoding: str, height: int, width: int, is_bigendian: int
) -> None:
    """Valid headers decode to the promised shape, invalid ones raise ImageError; nothing else.

    Each of the 300 with every step and every length of the data: 9,600 images.
    """
    layout = ENCODINGS.get(encoding)
    row = width * (layout.channels if layout else 3)
    rows = layout.rows(height) if layout else height
    for extra, surplus in product(EXTRAS, SURPLUSES):
        step = 0 if extra is None else row + extra
        payload = NOISE[: min(max(0, step * rows + surplus), len(NOISE))]
        valid = (
            layout is not None
            and 1 <= height <= 20
            and 1 <= width <= 20
            and step >= row
            and len(payload) == step * rows
            and not (layout.even_width and width % 2)
            and not (layout.even_height and height % 2)
        )
        if valid:
            frame = decode_raw(encoding, height, width, step, is_bigendian, payload)
            assert frame.pixels.shape == (height, width, 3), step
        else:
            with pytest.raises(ImageError):
                decode_raw(encoding, height, width, step, is_bigendian, payload)


@lru_cache
def compressed(extension: str) -> bytes:
    """A smooth picture, encoded."""
    picture = np.random.default_rng(2).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    return cv2.imencode(extension, cv2.GaussianBlur(picture, (0, 0), 3))[1].tobytes()


@pytest.mark.parametrize('extension', ['.jpg', '.png'])
@pytest.mark.parametrize('format', ['jpeg', 'png', 'bgr8; jpeg compressed bgr8', ''])
def test_compressed_is_told_by_its_content(extension: str, format: str) -> None:
    """Whatever `format` says, as drivers write anything into it."""
    data = compressed(extension)
    frame = decode_compressed(format, array('B', data))
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert frame.order == 'bgr'
    np.testing.assert_array_equal(frame.pixels, expected)


@pytest.mark.parametrize('extension', ['.jpg', '.png'])
@pytest.mark.parametrize('share', [0.0, 0.01, 0.2, 0.5, 0.9, 0.999])
def test_truncated_compressed_is_refused(extension: str, share: float) -> None:
    """Also where a decoder would fill up with grey."""
    data = compressed(extension)
    with pytest.raises(ImageError):
        decode_compressed('jpeg', data[: int(len(data) * share)])


def test_jpeg_padded_with_zeros_is_accepted() -> None:
    """USB cameras pad MJPEG buffers."""
    assert decode_compressed('jpeg', compressed('.jpg') + bytes(100)).pixels.shape[0] == HEIGHT


@pytest.mark.parametrize('extension', ['.jpg', '.png'])
def test_decompression_bomb_is_refused_by_its_header(extension: str) -> None:
    """A header that asks for gigabytes is refused before anything is allocated."""
    data = bytearray(compressed(extension))
    if extension == '.png':
        data[16:24] = (60000).to_bytes(4, 'big') * 2
    else:
        frame = data.index(b'\xff\xc0')
        data[frame + 5 : frame + 9] = (60000).to_bytes(2, 'big') * 2
    with pytest.raises(ImageError, match='60000x60000'):
        decode_compressed('jpeg', bytes(data))


@pytest.mark.parametrize(
    ('format', 'data'),
    [
        ('jpeg', b'GIF89a' + bytes(50)),
        ('h264', b'\x00\x00\x00\x01' + bytes(50)),
        ('16UC1; compressedDepth png', compressed('.png')),
        ('jpeg', b'\xff\xd8' * 100),
        ('jpeg', b'\xff\xd8\xff\xff\xff\xff'),
        ('jpeg', b'\xff\xd8\xff\xda\x00\x02\xff\xd9'),
        ('png', b'\x89PNG\r\n\x1a\n' + bytes(100)),
    ],
)
def test_not_a_picture_is_refused(format: str, data: bytes) -> None:
    """ImageError, nothing else."""
    with pytest.raises(ImageError):
        decode_compressed(format, data)


@settings(max_examples=100, deadline=None)
@given(
    extension=st.sampled_from(['.jpg', '.png']),
    at=st.integers(0, 10_000),
    change=st.binary(min_size=1, max_size=8),
)
def test_damaged_compressed_never_escapes(extension: str, at: int, change: bytes) -> None:
    """A damaged file is either decoded to the size of its header or refused: 400 of them."""
    whole = compressed(extension)
    at %= len(whole)
    for damage in (change, b'\x00', b'\xff', b'\xff\xd9'):
        data = whole[:at] + damage + whole[at + len(damage) :]
        try:
            frame = decode_compressed('jpeg', data)
        except ImageError:
            continue
        assert frame.pixels.dtype == np.uint8
        assert frame.pixels.ndim == 3


def progressive_jpeg(width: int, height: int, scans: int) -> bytes:
    """Grey, progressive (ITU-T T.81): one DC scan, then scans that say "nothing" of every block."""
    blocks = -(-width // 8) * -(-height // 8)
    header = bytes([11]).rjust(2, b'\0') + struct.pack('>BHHB', 8, height, width, 1)
    dc = struct.pack('>HB', 20, 0x00) + bytes([1] + [0] * 15 + [0])
    ac = struct.pack('>HB', 20, 0x10) + bytes([1] + [0] * 15 + [0xE0])  # EOB14: a run of blocks
    run = bytes([0] * (2 * -(-blocks // 16384) + 2))
    scan = b'\xff\xda' + struct.pack('>HB', 8, 1) + bytes([1, 0])
    return b''.join(
        [
            b'\xff\xd8\xff\xdb' + struct.pack('>HB', 67, 0) + bytes([1] * 64),
            b'\xff\xc2' + header + bytes([1, 0x11, 0]),
            b'\xff\xc4' + dc + b'\xff\xc4' + ac,
            scan + bytes([0, 0, 0]) + bytes(-(-blocks // 8)),
            *[scan + bytes([1, 63, 0]) + run] * scans,
            b'\xff\xd9',
        ]
    )


def test_a_jpeg_of_very_many_scans_is_refused_before_it_is_decoded(monkeypatch):
    """Each empty scan makes the decoder walk all blocks: a thousand of them took 22 s."""
    monkeypatch.setattr(cv2, 'imdecode', lambda *_: pytest.fail('it is being decoded'))

    with pytest.raises(ImageError, match='JPEG of 1001 scans, expected at most 64'):
        decode_compressed('jpeg', progressive_jpeg(8192, 8192, 1000))


def test_a_progressive_jpeg_is_decoded():
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)
    _, jpeg = cv2.imencode('.jpg', pixels, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    assert jpeg.tobytes().count(b'\xff\xda') > 5

    assert decode_compressed('jpeg', jpeg.tobytes()).pixels.shape == (48, 64, 3)
    assert decode_compressed('jpeg', progressive_jpeg(64, 48, 3)).pixels.shape == (48, 64, 3)


@pytest.mark.parametrize(
    'decode',
    [
        lambda text: decode_raw(text, 1, 1, 3, 0, b'xxx'),
        lambda text: decode_compressed(text, b'xxx'),
        lambda text: decode_compressed(f'compressedDepth {text}', b'xxx'),
    ],
)
def test_a_refusal_repeats_little_of_a_long_text(decode):
    with pytest.raises(ImageError) as caught:
        decode('Z' * (2 << 20))

    assert len(str(caught.value)) < 1000


class DeviceBuffer:
    """As a rosidl Buffer whose backend is a GPU: it has a length, and no bytes to read."""

    def __len__(self) -> int:
        return HEIGHT * WIDTH * 3

    def __array__(self, *_: object) -> np.ndarray:
        raise RuntimeError('not on the CPU')


@pytest.mark.parametrize('data', [DeviceBuffer(), object(), None])
def test_pixels_on_a_device_are_refused_in_one_sentence(data):
    with pytest.raises(ImageError, match='not in main memory; let the driver publish'):
        decode_raw('rgb8', HEIGHT, WIDTH, 3 * WIDTH, 0, data)
    with pytest.raises(ImageError, match='not in main memory'):
        decode_compressed('jpeg', data)
