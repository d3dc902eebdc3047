# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Sky, and what falls from it: clouds, stars, rain, snow, reflections on a wet road."""

from __future__ import annotations

import cv2
import numpy as np

from mtl_scenes.light import NIGHT_SKY, SKY, SUN, Image, field_at, horizon_row, three
from mtl_scenes.raster import Raster
from mtl_scenes.textures import noise
from mtl_scenes.world import World


def sky(world: World, raster: Raster, time_s: float) -> Image:
    """Sky down to the horizon and a little below: float32 [rows, W, 3], linear."""
    camera, config = world.camera, world.config
    rows = min(raster.horizon + 4, config.height)
    night = world.timeofday == 'night'
    zenith, low = NIGHT_SKY if night else SKY[world.timeofday, world.weather]
    level = horizon_row(world)
    up = np.maximum((level - np.arange(rows, dtype=np.float32)) / camera.focal, 0.0)
    part = np.clip(up / 0.55, 0, 1)[:, None] ** 0.6
    column = (np.array(low) * (1 - part) + np.array(zenith) * part).astype(np.float32)
    planes = [np.repeat(column[:, k : k + 1], config.width, axis=1) for k in range(3)]
    across = (np.arange(config.width, dtype=np.float32) - camera.centre_x) / camera.focal
    azimuth = world.sun[0] - raster.ego[2]
    if world.timeofday == 'dawn/dusk' and SUN[world.weather] > 0.5:
        side = float(np.tan(np.clip(azimuth, -1.2, 1.2)))
        glow = np.exp(-(((up - 0.08) / 0.22) ** 2))[:, None] * np.exp(
            -(((across - side) / 0.5) ** 2)
        )
        for plane, tone in zip(planes, (0.35, 0.2, 0.02), strict=True):
            plane += np.float32(tone) * glow
    if world.weather not in ('foggy', 'snowy'):
        _clouds(world, raster, time_s, up, across, planes)
    image: Image = cv2.merge([np.square(np.clip(plane, 0, 1)) for plane in planes])
    if night and world.weather in ('clear', 'partly cloudy'):
        stars = np.random.default_rng([world.config.seed, 17])
        high, wide, bright = stars.uniform(0, 1, (3, 70))
        turned = np.clip(np.remainder(6.283 * wide - raster.ego[2], 6.283) - 3.14, -1.4, 1.4)
        x = np.rint(np.tan(turned) * camera.focal + camera.centre_x).astype(int)
        y = np.rint(level - 0.5 * high * camera.focal).astype(int)
        seen = (x >= 0) & (x < config.width) & (y >= 0) & (y < rows)
        image[y[seen], x[seen]] += 0.35 * bright[seen, None]
    return image


def _clouds(
    world: World, raster: Raster, time_s: float, up: Image, across: Image, planes: list[Image]
) -> None:
    """Lay drifting clouds over the sky's planes."""
    turn = raster.ego[2] + float(world.sun[0])
    scale = np.float32(110.0) / (up[:, None] + np.float32(0.07))
    u = across[None] * scale + np.float32(turn * 300 + time_s * 2.0)
    v = scale + np.zeros_like(across)[None] + np.float32(turn * 50)
    cloud = field_at(noise(512, 6, 41), u, v)
    if world.weather in ('overcast', 'rainy'):
        for plane in planes:
            plane *= 1 + np.float32(0.05) * cloud
        return
    partly = world.weather == 'partly cloudy'
    cover = np.clip(cloud * np.float32(0.9) + np.float32(0.15 if partly else -0.9), 0, 1)
    cover *= np.clip(up * 12, 0.15, 1)[:, None] * np.float32(1.0 if partly else 0.2)
    tint = {'night': (0.12, 0.12, 0.14), 'dawn/dusk': (0.93, 0.70, 0.62)}.get(
        world.timeofday, (0.96, 0.96, 0.97)
    )
    dark = 1 - np.float32(0.16) * np.clip(cloud - np.float32(0.7), 0, 1)
    for plane, tone in zip(planes, tint, strict=True):
        plane += (np.float32(tone) * dark - plane) * cover


def reflect(image: Image, glow: Image, raster: Raster, strength: float) -> None:
    """Mirror what stands behind a wet road in it; changes image."""
    horizon, height = raster.horizon, image.shape[0]
    source = np.clip(2 * horizon - np.arange(horizon, height), 0, height - 1)
    above = cv2.blur(image[source] + 3 * glow[source], (3, max(height // 14, 3)))
    wet = (raster.ids[horizon:, :, 0] == 1) & (raster.zone != 0)
    puddles = field_at(noise(512, 4, 53), raster.along * 5, raster.lateral * 20)
    share = np.clip(strength * (0.75 + np.float32(0.35) * puddles), 0.1, 0.8) * wet
    image[horizon:] += (above - image[horizon:]) * three(share.astype(np.float32))


def fall(world: World, image: Image, random: np.random.Generator) -> None:
    """Draw falling rain or snow over the image; changes image."""
    height, width = image.shape[:2]
    layer: Image = np.zeros((height, width), np.uint8)
    scale = height / 360
    if world.weather == 'rainy':
        slope = np.random.default_rng([world.config.seed, 19]).uniform(-0.2, 0.2)
        for x, y, length, tone in random.uniform(0, 1, (170, 4)).tolist():
            start = (int(x * width), int(y * height))
            reach = (8 + 22 * length) * scale
            end = (int(start[0] + slope * reach), int(start[1] + reach))
            cv2.line(layer, start, end, int(20 + 60 * tone), max(1, int(scale)), cv2.LINE_AA)
    else:
        for x, y, size, tone in random.uniform(0, 1, (260, 4)).tolist():
            radius = int((0.6 + 2.6 * size**6) * scale * 8)
            centre = (int(x * width * 8), int(y * height * 8))
            cv2.circle(layer, centre, radius, int(110 + 130 * tone), -1, cv2.LINE_AA, 3)
        layer = cv2.blur(layer, (3, 3))
    bright = {'daytime': 0.9, 'dawn/dusk': 0.5, 'night': 0.22}[world.timeofday]
    share = three(layer.astype(np.float32) * np.float32(1 / 255))
    image += (np.float32(bright) - image) * share
