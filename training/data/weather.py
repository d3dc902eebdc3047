# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Looks that few training images have: fog, rain, night, and a poor camera.

They need no depth: distance follows from the row of a pixel below the horizon on a flat road,
d = LAMBDA / (v - v_h) (Hautiere et al., "Automatic fog detection and estimation of visibility
distance through use of an onboard camera", Machine Vision and Applications 2006, eq. 5-6). A look
that changes what an attribute label says takes that label away; an image that has the look already
keeps both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mtl_perception.tasks import TIME_OF_DAY, WEATHER, Task

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]

HORIZON = 0.45
"""Usual row of the horizon, as a share of the image height."""
LAMBDA = 1.1
"""Focal length (0.8 image widths) times camera height (1.4 m): metres times image widths."""
CONTRAST_SEEN = 3.912
"""-ln 0.02: visibility is the distance at which Koschmieder's law leaves 2 % of the contrast."""

DAYLIGHT = 0.45
"""Mean value, of 1, from which on an image counts as full daylight."""


@dataclass(frozen=True)
class Place:
    """Where a crop looks: row of the horizon and width of the whole scene, both in crop pixels."""

    horizon: float
    width: float

    def distances(self, rows: int) -> Floats:
        """Metres to the road in each row, [rows]; infinite above the horizon."""
        below = np.arange(rows, dtype=np.float32) + 0.5 - self.horizon
        with np.errstate(divide='ignore'):
            return np.where(below > 0, LAMBDA * self.width / below, np.inf).astype(np.float32)


@dataclass(frozen=True)
class Look:
    """Something to put on an image, and the attribute value that it makes true."""

    paint: Callable[[Image, Place, np.random.Generator], Image]
    task: Task
    value: str


def put_on(
    look: Look, image: Image, classes: Mapping[str, int], place: Place, rng: np.random.Generator
) -> tuple[Image, dict[str, int]]:
    """Image and attribute labels with the look; unchanged where they have it already."""
    kept = dict(classes)
    if kept.get(look.task.name) == look.task.classes.index(look.value):
        return image, kept
    kept.pop(look.task.name, None)
    return look.paint(image, place, rng), kept


def _fog(image: Image, place: Place, rng: np.random.Generator) -> Image:
    """Koschmieder's law I = J t + A (1 - t), t = exp(-beta d); visibility 50 to 250 m, drifting."""
    height, width = image.shape[:2]
    beta = CONTRAST_SEEN / np.exp(rng.uniform(np.log(50), np.log(250)))
    # What rises above the horizon stands somewhere on the road: taken for far, near cars would lose
    # their upper halves.
    far = rng.uniform(20, 60)
    depth = np.minimum(place.distances(height), far)[:, None]
    drifts = rng.uniform(0.75, 1.25, (4, 6)).astype(np.float32)
    drifts = np.asarray(cv2.resize(drifts, (width, height), interpolation=cv2.INTER_CUBIC))
    clear = np.exp(-beta * depth * drifts)[..., None]
    return _bytes(image * clear + _skylight(image, rng) * (1 - clear))


def _rain(image: Image, place: Place, rng: np.random.Generator) -> Image:
    """Streaks of drops during the exposure (Garg and Nayar, IJCV 2007), and a thin veil."""
    height, width = image.shape[:2]
    light = _skylight(image, rng)
    veil = rng.uniform(0.0, 0.2)
    wet = image * (rng.uniform(0.75, 1.0) * (1 - veil)) + light * veil
    slant = rng.uniform(-0.35, 0.35)
    for size in (1.0, 2.0):  # far drops are many, short and thin
        drops = (rng.random((height, width), np.float32) < rng.uniform(1, 4) * 1e-3 / size**2) * 1.0
        length = round(size * rng.uniform(0.01, 0.03) * place.width)
        streaks = cv2.filter2D(drops.astype(np.float32), -1, _line(length, slant))
        if size > 1:
            streaks = cv2.GaussianBlur(streaks, (3, 3), 0) * 2
        seen = np.clip(streaks * rng.uniform(0.15, 0.4), 0, 0.6)[..., None]
        wet = wet * (1 - seen) + np.minimum(light * 1.2, 255) * seen
    return _bytes(wet)


def _night(image: Image, place: Place, rng: np.random.Generator) -> Image:
    """Dark and noisy, lit by own headlights; saturated lights and signs keep glowing."""
    height, width = image.shape[:2]
    values = image.astype(np.float32) / 255
    glow = ((values.max(2) > 0.75) & (np.ptp(values, axis=2) > 0.4)).astype(np.float32)
    glow = np.asarray(cv2.GaussianBlur(glow, (0, 0), 1.5), np.float32)[..., None]
    ys, xs = np.mgrid[:height, :width].astype(np.float32)
    across = (xs - width * rng.uniform(0.4, 0.6)) / (0.35 * place.width)
    down = (ys - place.horizon) / (0.3 * place.width)
    beam = np.exp(-(across**2) - (down - 0.45) ** 2 / 0.15)
    sky = np.clip(0.5 - 4 * down, 0, 1) * rng.uniform(0.2, 0.7)
    # A dull day is half way to night already.
    lamps = rng.uniform(0.25, 0.6) / np.clip(values.mean() / DAYLIGHT, 0.3, 1)
    lit = (min(1.0, lamps) + rng.uniform(0.2, 0.6) * beam) * (1 - sky)
    warm = rng.uniform(0, 1)
    cast = warm * np.array([1.1, 0.97, 0.8]) + (1 - warm) * np.array([0.88, 0.96, 1.12])
    dark = values ** rng.uniform(1.2, 1.8) * (lit[..., None] * cast).astype(np.float32)
    dark = dark + glow * np.maximum(0, 0.8 * values - dark)
    shot, read = rng.uniform(0.002, 0.008), rng.uniform(0.005, 0.02)
    return _bytes(255 * _noisy(np.asarray(dark, np.float32), shot, read, rng))


def sensor(image: Image, rng: np.random.Generator) -> Image:
    """Noise, compression, or both."""
    kind = rng.random()
    if kind < 2 / 3:
        values = image.astype(np.float32) / 255
        image = _bytes(255 * _noisy(values, rng.uniform(0, 0.01), rng.uniform(0, 0.03), rng))
    if kind > 1 / 3:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(15, 70))]
        _, data = cv2.imencode('.jpg', image, quality)
        image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return image


FOG = Look(_fog, WEATHER, 'foggy')
RAIN = Look(_rain, WEATHER, 'rainy')
NIGHT = Look(_night, TIME_OF_DAY, 'night')
LOOK_TASKS = frozenset(look.task.name for look in (FOG, RAIN, NIGHT))
"""Tasks whose labels tell which looks an image has already."""


def _noisy(
    values: NDArray[np.floating], shot: float, read: float, rng: np.random.Generator
) -> Floats:
    """Poissonian-Gaussian sensor noise (Foi et al., TIP 2008): variance shot * value + read^2."""
    spread = np.sqrt(shot * np.maximum(values, 0) + read**2)
    return np.asarray(values + spread * rng.standard_normal(values.shape, np.float32), np.float32)


def _skylight(image: Image, rng: np.random.Generator) -> Floats:
    """Colour of light from everywhere, [3]: nearly grey, about as bright as the image's brights."""
    bright = np.percentile(image[::4, ::4].mean(2), 90)
    return np.asarray(bright * rng.uniform(0.85, 1.05) * rng.uniform(0.97, 1.03, 3), np.float32)


def _line(length: int, slant: float) -> Floats:
    """Kernel of a line of about `length` rows; slant is its run over its rise."""
    length = max(3, length | 1)
    half = length // 2
    reach = int(np.ceil(abs(slant) * half)) + 1
    kernel = np.zeros((length, 2 * reach + 1), np.float32)
    shift = round(slant * half)
    cv2.line(kernel, (reach - shift, 0), (reach + shift, length - 1), 1.0, 1, cv2.LINE_AA)
    return kernel / max(float(kernel.max()), 1e-6)


def _bytes(values: NDArray[np.floating]) -> Image:
    return np.clip(values + 0.5, 0, 255).astype(np.uint8)
