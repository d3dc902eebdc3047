# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""How the ground looks: surfaces, paint, wear, snow, shadows and the light of street lamps."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from mtl_scenes.layout import ZONE_TEXTURE, Zone
from mtl_scenes.light import Image, field_at, light, wrapped
from mtl_scenes.mesh import Colour
from mtl_scenes.raster import SUBPIXEL, Raster, clip_near
from mtl_scenes.textures import TILE, grey_atlas, noise
from mtl_scenes.world import World

GROUND: dict[Zone, Colour] = {
    Zone.GRASS: (0.30, 0.37, 0.17),
    Zone.OWN: (0.37, 0.37, 0.38),
    Zone.OTHER_LANE: (0.37, 0.37, 0.38),
    Zone.ROAD: (0.37, 0.37, 0.38),
    Zone.KERB: (0.62, 0.62, 0.60),
    Zone.SIDEWALK: (0.55, 0.53, 0.50),
    Zone.FORECOURT: (0.50, 0.50, 0.49),
    Zone.TRACK: (0.33, 0.32, 0.32),
    Zone.DIRT: (0.40, 0.33, 0.25),
}
SOFT = (Zone.GRASS, Zone.KERB, Zone.SIDEWALK, Zone.DIRT)
"""Zones that snow covers and rain does not turn into mirrors."""
WHITE, YELLOW, SNOW = (0.74, 0.74, 0.72), (0.72, 0.50, 0.10), (0.72, 0.73, 0.76)
LAMP_LIGHT: Colour = (0.75, 0.56, 0.32)


def _tones(world: World, random: np.random.Generator) -> NDArray[np.float32]:
    """Linear base colour of every zone: float32 [zones, 3]."""
    tones = np.array([GROUND[zone] for zone in Zone], np.float32)
    tones *= random.uniform(0.9, 1.1, (len(Zone), 1)).astype(np.float32)
    tones[Zone.OTHER_LANE], tones[Zone.ROAD] = tones[Zone.OWN], tones[Zone.OWN]
    if world.scene == 'highway':
        tones[1:4] *= np.float32(random.uniform(1.0, 1.25))
    if world.scene in ('parking lot', 'gas stations'):
        tones[Zone.OWN] = tones[Zone.FORECOURT] * np.float32(0.97)
    tones = tones**2
    if world.weather == 'snowy' and not world.tunnel:
        tones[list(SOFT)] += (0.78 - tones[list(SOFT)]) * np.float32(0.88)
    if world.weather == 'rainy' and not world.tunnel:
        tones *= np.float32(0.5)
        tones[list(SOFT)] *= np.float32(1.5)
    return tones


def pavement(world: World, raster: Raster) -> Image:
    """Colour the ground behind every pixel from the horizon down: float32 [H - horizon, W, 3]."""
    random = np.random.default_rng([world.config.seed, 13])
    tones = _tones(world, random)
    worn = np.float32(random.uniform(0.55, 1.0))
    zone, d, s = raster.zone, raster.lateral, raster.along
    u, v = s * np.float32(0.25), d * np.float32(0.25)
    x = (u - np.floor(u)) * np.float32(TILE - 1)
    tile = cv2.LUT(zone, np.resize(ZONE_TEXTURE, 256).astype(np.float32))
    y = (np.floor(v) + 1 - v) * np.float32(TILE - 1) + tile * np.float32(TILE)
    texels = cv2.remap(grey_atlas(), x, y, cv2.INTER_LINEAR)
    # Seen at a shallow angle a pixel covers much more ground along than across.
    stretched = (
        raster.metres_per_pixel
        * raster.forward
        * np.float32(world.camera.focal / world.camera.height_m / 60)
    )
    fade = np.clip(0.35 / np.maximum(stretched, 1e-3), 0.12, 1.0).astype(np.float32)
    stains = field_at(noise(512, 5, 31), s * 6, d * 24)
    tone = (1 + (texels - 1) * fade) * (1 + np.float32(0.08) * stains)
    planes = [cv2.LUT(zone, np.resize(tones[:, k], 256)) * tone for k in range(3)]
    snowy = world.weather == 'snowy' and not world.tunnel
    if snowy:
        hard = cv2.LUT(
            zone, np.resize([float(z not in SOFT) for z in Zone], 256).astype(np.float32)
        )
        lane = np.abs(wrapped(d + np.float32(1.8), 3.6) - np.float32(1.8))
        rut = np.abs(lane - np.float32(0.8))
        cover = np.clip(0.35 + 1.1 * (rut - np.float32(0.35)) + 0.3 * stains, 0.05, 0.85) * hard
        _blend(planes, SNOW, cover)
    white, yellow = _marks(world, raster)
    strength = worn * np.float32(0.45 if snowy else 1.0)
    _blend(planes, WHITE, white * strength)
    if yellow is not None:
        _blend(planes, YELLOW, yellow * strength)
    ambient, sun_colour, direction = light(world)
    contact, shadow, lamps = _shadows_and_lamps(world, raster, float(sun_colour.max()) > 0.12)
    sun_part = sun_colour * np.float32(max(float(direction[1]), 0.1))
    if shadow is not None:
        shadow = contact * shadow
    for k, plane in enumerate(planes):
        lit = contact * ambient[k]
        if shadow is not None:
            lit += shadow * sun_part[k]
        if lamps is not None:
            lit += lamps * np.float32(LAMP_LIGHT[k])
        plane *= lit
    result: Image = cv2.merge(planes)
    return result


def _blend(planes: list[Image], colour: Colour, share: Image) -> None:
    for plane, tone in zip(planes, colour, strict=True):
        plane += (np.float32(tone) - plane) * share


def _marks(world: World, raster: Raster) -> tuple[Image, Image | None]:
    """Painted part of every ground pixel, white and yellow (None: there is none)."""
    ground, d, s = world.ground, raster.lateral, raster.along
    size = np.maximum(raster.metres_per_pixel, np.float32(ground.STEP))
    per_step = np.float32(1 / ground.STEP)
    left = (d + np.float32(ground.REACH) - size / 2) * per_step
    low, high = left.astype(np.int32), (left + size * per_step).astype(np.int32)
    width = np.maximum((high - low).astype(np.float32), 1) * np.float32(ground.STEP)

    def covered(kind: str) -> Image:
        table = world.line_tables[kind]
        return (np.take(table, high, mode='clip') - np.take(table, low, mode='clip')) / width

    dash, period = ground.dash
    white, yellow = covered('solid'), None
    if 'dashed' in world.line_tables:
        white += covered('dashed') * (wrapped(s, period) < dash)
    if 'yellow' in world.line_tables:
        yellow = covered('yellow')
    if ground.crossings:
        code = np.take(world.crossing_table, (s * 10).astype(np.int32), mode='clip')
        if code.any():
            lowest, highest = ground.road
            code *= (d > lowest) & (d < highest)
            white *= code == 0
            if yellow is not None:
                yellow *= code == 0
            if ground.zebra:
                white += (code == 2) & (wrapped(d, 1.1) < 0.55)
                white += (code == 3) & (d > -1.8)
    for low_d, high_d, period_s in ground.bays:
        white += (d > low_d) & (d < high_d) & (wrapped(s, period_s) < 0.12)
    return np.minimum(white, 1), None if yellow is None else np.minimum(yellow, 1)


class _Brush:
    """Fills convex shapes that lie on the ground into masks that start at the horizon."""

    def __init__(self, world: World, raster: Raster) -> None:
        self._camera, self._horizon = world.camera, raster.horizon
        x, z, yaw, _ = raster.ego
        self._eye = np.array((x, z))
        sine, cosine = np.sin(yaw), np.cos(yaw)
        self._turn = np.array(((cosine, sine), (-sine, cosine)))
        self._tilt = float(np.sin(world.camera.pitch)), float(np.cos(world.camera.pitch))

    def fill(self, mask: NDArray[np.uint8], spots: NDArray[np.float64], value: int) -> None:
        """Fill the convex hull of ground points [N, 2] (world x, z)."""
        camera, (sine, cosine) = self._camera, self._tilt
        hull = cv2.convexHull(((spots - self._eye) @ self._turn).astype(np.float32))[:, 0]
        view = np.empty((len(hull), 3))
        view[:, 0] = hull[:, 0]
        view[:, 1] = camera.height_m * cosine - hull[:, 1] * sine
        view[:, 2] = camera.height_m * sine + hull[:, 1] * cosine
        if view[:, 2].min() < 0.6:
            view = clip_near(view, 0.6)
            if len(view) < 3:
                return
        pixels = view[:, :2] * (camera.focal / view[:, 2:3]) + (
            camera.centre_x,
            camera.centre_y - self._horizon,
        )
        fixed = np.rint(np.clip(pixels, -2e4, 2e4) * (1 << SUBPIXEL)).astype(np.int32)
        cv2.fillConvexPoly(mask, fixed, value, cv2.LINE_8, SUBPIXEL)


RING = np.stack([np.cos(np.linspace(0, 5.5, 8)), np.sin(np.linspace(0, 5.5, 8))], axis=1)


def _shadows_and_lamps(
    world: World, raster: Raster, sunny: bool
) -> tuple[Image, Image | None, Image | None]:
    """Light left under things (contact), light left by the sun's shadows, light of street lamps."""
    height, width = raster.semantic.shape
    shape = (height - raster.horizon, width)
    contact, shade = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    lamps = np.zeros(shape, np.uint8)
    brush = _Brush(world, raster)
    x, z, _, _ = raster.ego
    direction = light(world)[2]
    fall = -np.array((direction[0], direction[2])) / max(float(direction[1]), 0.22)
    for thing in raster.shown:
        far = float(np.hypot(thing.x - x, thing.z - z))
        place = np.array((thing.x, thing.z))
        if world.lamps_lit and thing.lamp is not None and far < 90:
            reach, radius = thing.lamp
            ahead = np.array([np.cos(thing.yaw), -np.sin(thing.yaw)])
            middle = place + reach * ahead
            for share, value in ((1.0, 40), (0.7, 85), (0.4, 130)):
                brush.fill(lamps, middle + share * radius * RING, value)
        if not thing.shadow or far > 60:
            continue
        low_x, high_x, low_z, high_z, top = thing.mesh.footprint.tolist()
        if thing.billboard:
            radius = min(0.5 * (high_x - low_x), 3.0)
            if top > 3.0:
                if sunny:
                    brush.fill(shade, place + radius * RING + fall * min(top * 0.7, 7.0), 150)
                continue
            spots = place + 0.7 * radius * RING
        else:
            c, n = np.cos(thing.yaw), np.sin(thing.yaw)
            corners = np.array([(low_x, low_z), (high_x, low_z), (high_x, high_z), (low_x, high_z)])
            spots = place + corners @ np.array(((c, -n), (n, c)))
        if sunny:
            brush.fill(shade, np.concatenate([spots, spots + fall * min(top, 6.0)]), 170)
        if far < 50 and top < 5.0:
            brush.fill(contact, spots, 175)
    scale = np.float32(-1 / 255)
    under = 1 + cv2.blur(contact, (5, 3)) * scale
    cast = 1 + cv2.blur(shade, (3, 3)) * scale if sunny else None
    if not world.lamps_lit:
        return under, cast, None
    soft = cv2.blur(lamps, (width // 40 | 1, height // 60 | 1))
    return under, cast, soft * np.float32(1 / 150)
