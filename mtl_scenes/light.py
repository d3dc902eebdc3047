# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Where light comes from: sun, sky, fog, headlamps; and small helpers for pixel arithmetic.

Colours in tables are as displayed; all arithmetic is in linear light, which is their square.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mtl_scenes.mesh import Colour
from mtl_scenes.raster import Raster
from mtl_scenes.world import World

Image = NDArray[Any]
"""float32 [H, W] or [H, W, 3], linear light; OpenCV's stubs do not promise the element type."""

SUN = {
    'clear': 1.0,
    'partly cloudy': 0.8,
    'overcast': 0.1,
    'rainy': 0.04,
    'snowy': 0.12,
    'foggy': 0.04,
}
FOG_PER_M = {'clear': 0.0008, 'partly cloudy': 0.0009, 'overcast': 0.0018, 'rainy': 0.006,
             'snowy': 0.008, 'foggy': 0.03}  # fmt: skip
SKY: dict[tuple[str, str], tuple[Colour, Colour]] = {
    ('daytime', 'clear'): ((0.25, 0.47, 0.80), (0.74, 0.84, 0.93)),
    ('daytime', 'partly cloudy'): ((0.28, 0.48, 0.78), (0.76, 0.84, 0.91)),
    ('daytime', 'overcast'): ((0.66, 0.69, 0.73), (0.84, 0.86, 0.88)),
    ('daytime', 'rainy'): ((0.48, 0.51, 0.55), (0.68, 0.71, 0.74)),
    ('daytime', 'snowy'): ((0.70, 0.72, 0.75), (0.85, 0.87, 0.89)),
    ('daytime', 'foggy'): ((0.74, 0.76, 0.78), (0.81, 0.83, 0.84)),
    ('dawn/dusk', 'clear'): ((0.20, 0.27, 0.48), (0.96, 0.62, 0.38)),
    ('dawn/dusk', 'partly cloudy'): ((0.24, 0.28, 0.48), (0.95, 0.60, 0.42)),
    ('dawn/dusk', 'overcast'): ((0.34, 0.35, 0.43), (0.72, 0.58, 0.54)),
    ('dawn/dusk', 'rainy'): ((0.27, 0.28, 0.35), (0.54, 0.46, 0.46)),
    ('dawn/dusk', 'snowy'): ((0.40, 0.41, 0.50), (0.72, 0.62, 0.62)),
    ('dawn/dusk', 'foggy'): ((0.52, 0.49, 0.52), (0.68, 0.59, 0.55)),
}
NIGHT_SKY: tuple[Colour, Colour] = ((0.03, 0.04, 0.08), (0.13, 0.12, 0.14))


def three(values: Image) -> Image:
    """Repeat [H, W] to [H, W, 3]: numpy's own broadcasting over 3 channels is ten times slower."""
    return cv2.cvtColor(values, cv2.COLOR_GRAY2RGB)


def tinted(values: Image, colour: NDArray[np.float32] | Colour) -> Image:
    """Multiply [H, W] with one colour: [H, W, 3]."""
    return cv2.merge([values * np.float32(part) for part in colour])


def wrapped(values: Image, period: float) -> Image:
    """Remainder after division by period, 0 to period: numpy's own is twenty times slower."""
    result: Image = values - np.floor(values * np.float32(1 / period)) * np.float32(period)
    return result


def field_at(field: Image, u: Image, v: Image) -> Image:
    """Fetch a wrapping noise field [N, N] at u, v, in its own pixels."""
    side = np.float32(field.shape[0] - 1)
    x = (u - np.floor(u * (1 / side)) * side).astype(np.float32, copy=False)
    y = (v - np.floor(v * (1 / side)) * side).astype(np.float32, copy=False)
    return cv2.remap(field, x, y, cv2.INTER_LINEAR)


def covered(world: World, raster: Raster) -> bool:
    """Say whether the ego vehicle is in a tunnel."""
    return world.tunnel is not None and world.tunnel[0] < raster.ego[3] < world.tunnel[1]


def horizon_row(world: World) -> float:
    """Image row of the infinitely far ground."""
    camera = world.camera
    return camera.centre_y - float(np.tan(camera.pitch)) * camera.focal


def fog_per_m(world: World) -> float:
    """Extinction of the air, 1/metres."""
    return FOG_PER_M[world.weather] * (0.25 if world.tunnel else 1.0)


def haze(world: World) -> NDArray[np.float32]:
    """Linear colour of very distant things."""
    if world.timeofday == 'night':
        colour = (0.17, 0.17, 0.19) if world.weather == 'foggy' else NIGHT_SKY[1]
    else:
        colour = SKY[world.timeofday, world.weather][1]
    tone = np.array(colour, np.float32) ** 2
    return tone * np.float32(0.5) if world.tunnel else tone


def light(world: World) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Ambient and sun colour (linear), and the direction to the sun in the world (x, up, z)."""
    sun = SUN[world.weather]
    azimuth, elevation = world.sun
    direction = np.array(
        (
            np.sin(azimuth) * np.cos(elevation),
            np.sin(elevation),
            np.cos(azimuth) * np.cos(elevation),
        ),
        np.float32,
    )
    sun_colour = np.zeros(3, np.float32)
    if world.tunnel:
        ambient = np.array((0.62, 0.54, 0.42), np.float32)
    elif world.timeofday == 'night':
        ambient = np.array((0.085, 0.08, 0.085), np.float32)
        if world.weather == 'snowy':
            ambient *= 1.4
    elif world.timeofday == 'dawn/dusk':
        ambient = np.array((0.46, 0.42, 0.48), np.float32)
        sun_colour = np.array((0.95, 0.5, 0.24), np.float32) * np.float32(sun)
    else:
        ambient = np.array((0.70, 0.74, 0.80), np.float32) * np.float32(1.0 + 0.5 * (1 - sun))
        sun_colour = np.array((1.25, 1.15, 1.0), np.float32) * np.float32(sun)
        if world.weather == 'rainy':
            ambient *= np.float32(0.75)
    return ambient, sun_colour, direction


def in_camera(world: World, raster: Raster, direction: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn a world direction (x, up, z) into camera axes."""
    yaw, pitch = raster.ego[2], world.camera.pitch
    x = direction[0] * np.cos(yaw) - direction[2] * np.sin(yaw)
    z = direction[0] * np.sin(yaw) + direction[2] * np.cos(yaw)
    y = -direction[1]
    return np.array(
        (x, y * np.cos(pitch) - z * np.sin(pitch), y * np.sin(pitch) + z * np.cos(pitch)),
        np.float32,
    )


def beam(world: World, raster: Raster) -> Image:
    """Light of the own headlamps: float32 [H, W], falling off with distance."""
    camera, config = world.camera, world.config
    across = (np.arange(config.width, dtype=np.float32) - camera.centre_x) / camera.focal
    column = np.exp(-((across / 0.36) ** 2))[None]
    height = (np.arange(config.height, dtype=np.float32) - horizon_row(world)) / camera.focal
    row = (1 / (1 + np.exp(-(height + 0.012) * 90)) * 0.82 + 0.18)[:, None]
    reach = np.minimum(raster.inverse_depth * np.float32(16.0), np.float32(1.0))
    result: Image = (column * row * np.float32(8.0)).astype(np.float32) * reach
    return result
