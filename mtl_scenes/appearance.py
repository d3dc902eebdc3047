# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""How a frame looks: lit and textured surfaces, air, lamps, lens and sensor. Never the labels."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mtl_scenes.light import (
    Image,
    beam,
    covered,
    fog_per_m,
    haze,
    in_camera,
    light,
    three,
    tinted,
)
from mtl_scenes.mesh import SEMANTIC_ID
from mtl_scenes.pavement import pavement
from mtl_scenes.raster import Raster, Rows, look_up
from mtl_scenes.sky import fall, reflect, sky
from mtl_scenes.textures import TILE, atlas
from mtl_scenes.world import World

WINDOW_LIGHT = (1.0, 0.78, 0.45)


def paint(world: World, raster: Raster, time_s: float, index: int) -> NDArray[np.uint8]:
    """Colour a rasterised moment: uint8 [H, W, 3] RGB. Works in linear light, gamma 2."""
    random = np.random.default_rng([world.config.seed, 11, index])
    night = world.timeofday == 'night'
    horizon = raster.horizon
    image, glow = _surfaces(world, raster)
    on_ground = (raster.ids[horizon:, :, 0] == 1).view(np.uint8)
    cv2.copyTo(pavement(world, raster), on_ground, image[horizon:])
    if night and not world.tunnel:
        cv2.multiply(image, three(1 + beam(world, raster)), dst=image)
    near = np.maximum(raster.inverse_depth, np.float32(1e-4))
    far: Image = cv2.exp(np.float32(-fog_per_m(world)) / near)
    cv2.multiply(image, three(far), dst=image)
    cv2.add(image, tinted(1 - far, haze(world)), dst=image)
    above = sky(world, raster, time_s)
    nothing = (raster.ids[: len(above), :, 0] == 0).view(np.uint8)
    cv2.copyTo(above, nothing, image[: len(above)])
    if glow is not None:
        glow *= three(0.35 + np.float32(0.65) * far)
    if world.weather == 'rainy' and not covered(world, raster):
        reflect(image, np.zeros_like(image) if glow is None else glow, raster, 0.42)
    if glow is not None:
        cv2.add(image, glow, dst=image)
        cv2.add(image, _bloom(glow, 0.9 if night else 0.35), dst=image)
    if world.weather in ('rainy', 'snowy') and not covered(world, raster):
        fall(world, image, random)
    return _develop(image, random, night)


def _surfaces(world: World, raster: Raster) -> tuple[Image, Image | None]:
    """Light and texture everything but ground and sky; also what glows: float32 [H, W, 3] each."""
    rows = raster.rows
    ambient, sun_colour, direction = light(world)
    facing = np.maximum(rows.normals @ in_camera(world, raster, direction), 0.0)
    facing[rows.billboard] = 0.55
    tones = rows.colour**2
    if world.weather == 'snowy' and not world.tunnel:
        green = rows.semantic == SEMANTIC_ID['vegetation']
        cover = np.clip(np.maximum(rows.upward - 0.3, 0) * 1.2, 0, 0.9) + 0.35 * green
        cover[(rows.semantic >= SEMANTIC_ID['person'])] *= 0.35
        tones += (0.75 - tones) * np.clip(cover, 0, 0.9)[:, None]
    tones *= ambient * (0.72 + 0.28 * rows.upward)[:, None] + sun_colour * facing[:, None]
    finest = rows.detail * np.float32(world.camera.focal / 3.0)
    height, width = raster.semantic.shape
    image: Image = np.zeros((height, width, 3), np.float32)
    used = np.flatnonzero((raster.ids[..., 0] > 1).any(axis=1))
    if len(used) == 0:
        return image, None
    # Only the rows that show anything but ground and sky.
    first, last = int(used[0]), int(used[-1]) + 1
    ids = raster.ids[first:last]
    band = image[first:last]
    band[:] = look_up(tones.astype(np.float32), ids)
    columns = np.arange(width, dtype=np.float32)[None]
    lines = np.arange(first, last, dtype=np.float32)[:, None]
    depth = 1 / np.maximum(raster.inverse_depth[first:last], np.float32(1e-4))
    parts = []
    for table in (rows.texture_u, rows.texture_v):
        across, down, rest, shift = (look_up(table[:, k], ids) for k in range(4))
        across *= columns
        down *= lines
        across += down
        across += rest
        across *= depth
        across += shift
        parts.append(across)
    tile, detail = look_up(rows.texture.astype(np.float32), ids), look_up(finest, ids)
    u, v = parts
    x = (u - np.floor(u)) * np.float32(TILE - 1)
    y = (np.floor(v) + 1 - v) * np.float32(TILE - 1) + tile * np.float32(TILE)
    texels = cv2.remap(atlas(), x, y, cv2.INTER_LINEAR)
    fade = np.minimum(detail / depth, np.float32(1.0)) * (tile > 0)
    mod = cv2.cvtColor(texels, cv2.COLOR_RGBA2RGB).astype(np.float32)
    # 1 + (texel / 128 - 1) * fade, in the fewest passes.
    mod -= np.float32(128)
    cv2.multiply(mod, three(fade), dst=mod, scale=1 / 128)
    mod += np.float32(1.0)
    cv2.multiply(band, mod, dst=band)
    glow = _glow(world, rows, ids, cv2.extractChannel(texels, 3))
    if glow is None:
        return image, None
    whole: Image = np.zeros_like(image)
    whole[first:last] = glow
    return image, whole


def _glow(world: World, rows: Rows, ids: NDArray[np.int16], windows: NDArray[Any]) -> Image | None:
    """Light that surfaces give off; None when nothing in view does."""
    # Lamps shine when they are on; traffic lights always.
    on = world.lamps_lit or world.tunnel is not None
    share = np.full(len(rows.semantic), float(on), np.float32)
    moving = (rows.semantic >= SEMANTIC_ID['car']) & (rows.semantic <= SEMANTIC_ID['bicycle'])
    if world.weather in ('rainy', 'foggy', 'snowy'):
        share[moving] = np.maximum(share[moving], 0.45)
    if world.timeofday != 'night' and not world.tunnel:
        share *= np.float32(0.6)
    share[rows.semantic == SEMANTIC_ID['traffic light']] = 0.9
    table = (rows.glow * share[:, None]).astype(np.float32)
    if not table.any() and not world.lamps_lit:
        return None
    glow = look_up(table, ids)
    if world.lamps_lit and not world.tunnel:
        strength = np.float32((0.5 if world.timeofday == 'night' else 0.25) / 255)
        glow += tinted(windows * strength, WINDOW_LIGHT)
    return glow


def _bloom(glow: Image, strength: float) -> Image:
    """Halo around lights: the glow, blurred at a quarter of the size."""
    height, width = glow.shape[:2]
    small = cv2.resize(
        glow, (max(width // 4, 1), max(height // 4, 1)), interpolation=cv2.INTER_AREA
    )
    near = cv2.GaussianBlur(small, (0, 0), width / 400)
    wide = cv2.GaussianBlur(small, (0, 0), width / 100)
    return cv2.resize((near * 0.7 + wide * 0.6) * np.float32(strength), (width, height))


@lru_cache(maxsize=8)
def _vignette(height: int, width: int) -> Image:
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None]
    return three(np.float32(65025) * (1 - np.float32(0.2) * (0.5 * x * x + 0.5 * y * y)))


@lru_cache(maxsize=8)
def _grain(height: int, width: int) -> Image:
    noise = np.random.default_rng(77).standard_normal((height + 64, width + 64, 3))
    return (noise * 2.6).astype(np.float32)


def _develop(image: Image, random: np.random.Generator, night: bool) -> NDArray[np.uint8]:
    """Lens blur, vignette, gamma, sensor noise."""
    height, width = image.shape[:2]
    image = cv2.GaussianBlur(image, (3, 3), 0.62)
    cv2.multiply(image, _vignette(height, width), dst=image)
    cv2.sqrt(np.maximum(image, 0.0, out=image), dst=image)
    top, left = (int(v) for v in random.integers(0, 64, 2))
    grain = _grain(height, width)[top : top + height, left : left + width]
    # Saturating, signed addition rounds and clips in one pass.
    picture: Image = cv2.addWeighted(image, 1.0, grain, 2.0 if night else 1.0, 0.0, dtype=cv2.CV_8U)
    return picture
