# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Meshes of what stands beside the road: buildings, plants, walls, fences."""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np

from mtl_scenes.mesh import STEEL, Colour, Mesh, MeshBuilder
from mtl_scenes.textures import Texture

NONE: Colour = (0.0, 0.0, 0.0)
"""For faces that a paint colours."""
GREENS: tuple[Colour, ...] = (
    (0.20, 0.31, 0.11), (0.26, 0.36, 0.13), (0.15, 0.26, 0.10), (0.33, 0.38, 0.15),
    (0.42, 0.32, 0.12), (0.17, 0.30, 0.17),
)  # fmt: skip


@lru_cache(maxsize=512)
def building(length: float, depth: float, height: float, wall: Texture, shop: bool) -> Mesh:
    """Build a town house; local x spans length, local z 0 (the façade) to depth.

    Paint 1 is the wall, paint 2 ledges and the ground floor.
    """
    builder = MeshBuilder('building')
    ground = 4.0 if shop else 0.0
    half = length / 2
    tile = (24.0, 25.6) if wall is Texture.FLATS else (28.0, 28.0)
    if wall is Texture.BRICK:
        tile = (2.4, 2.4)
    # The ledge first: the walls then hide what of its underside is behind them.
    builder.box((-half - 0.25, half + 0.25), (height, height + 0.5), (-0.3, depth + 0.3), NONE, 2)
    builder.box(
        (-half, half),
        (ground, height),
        (0.0, depth),
        NONE,
        1,
        texture=wall,
        tile=tile,
        detail=0.9 if wall is not Texture.BRICK else 0.1,
    )
    if shop:
        builder.box(
            (-half, half),
            (0.0, ground),
            (0.0, depth),
            NONE,
            2,
            texture=Texture.SHOP,
            tile=(12.0, 4.0),
            detail=1.0,
        )
    if shop:
        builder.part = 1
        builder.box((-half, half), (ground - 0.25, ground + 0.1), (-0.35, 0.0), NONE, 2)
    return builder.build()


@lru_cache(maxsize=128)
def house(width: float, depth: float, eaves: float) -> Mesh:
    """Build a detached house with a pitched roof; façade at local z 0. Paints: 1 wall, 2 roof."""
    builder = MeshBuilder('building')
    half, ridge = width / 2, eaves + depth * 0.33
    builder.box(
        (-half, half),
        (0.0, eaves),
        (0.0, depth),
        NONE,
        1,
        texture=Texture.PLANKS,
        tile=(4.0, 4.0),
        detail=0.3,
    )
    for side in (-1.0, 1.0):
        builder.face(
            [
                (side * half, eaves, 0.0),
                (side * half, eaves, depth),
                (side * half, ridge, depth / 2),
            ],
            (side, 0, 0),
            NONE,
            1,
        )
    over = 0.45
    for z0, sign in ((-over, -1.0), (depth + over, 1.0)):
        builder.face(
            [
                (-half - over, eaves - 0.15, z0),
                (half + over, eaves - 0.15, z0),
                (half + over, ridge, depth / 2),
                (-half - over, ridge, depth / 2),
            ],
            (0, 1.0, sign),
            NONE,
            2,
            texture=Texture.ROOF,
            tile=(6.0, 6.0),
            detail=0.5,
        )
    white, glass = (0.85, 0.84, 0.8), (0.16, 0.2, 0.25)
    floors = [1.0] if eaves < 4.0 else [1.0, 3.7]
    spots = np.linspace(-half + 1.3, half - 1.3, max(2, int(width / 2.6)))
    for z, sign in ((0.0, -1.0), (depth, 1.0)):
        for floor in floors:
            for index, x in enumerate(spots):
                door = floor == 1.0 and index == len(spots) // 2 and sign < 0
                low, high = (0.05, 2.15) if door else (floor, floor + 1.3)
                for grow, tint, lift in ((0.12, white, 0.02), (0.0, glass, 0.04)):
                    fill = (0.32, 0.12, 0.1) if door and grow == 0 else tint
                    glow = (1.0, 0.72, 0.36) if grow == 0 and not door and index % 2 else (0, 0, 0)
                    builder.face(
                        [
                            (x - 0.5 - grow, low - grow * (not door), z),
                            (x + 0.5 + grow, low - grow * (not door), z),
                            (x + 0.5 + grow, high + grow, z),
                            (x - 0.5 - grow, high + grow, z),
                        ],
                        (0, 0, sign),
                        fill,
                        glow=glow,
                        offset=lift,
                    )
    return builder.build()


@cache
def tree(kind: int) -> Mesh:
    """Build a billboard tree; kind 0-11 broadleaf, 12-15 conifer."""
    random = np.random.default_rng(900 + kind)
    builder = MeshBuilder('vegetation')
    builder.two_sided = True
    bark = (0.2, 0.15, 0.11)
    if kind >= 12:
        height, spread = random.uniform(6, 11), random.uniform(1.5, 2.4)
        builder.face([(-0.14, 0, 0), (0.14, 0, 0), (0.1, 2, 0), (-0.1, 2, 0)], (0, 0, -1), bark)
        for level in np.linspace(0.12, 0.78, 6):
            reach, y = spread * (1.05 - level), height * level
            shade = float(random.uniform(0.8, 1.15))
            green = (0.10 * shade, 0.21 * shade, 0.11 * shade)
            builder.face(
                [
                    (-reach, y, -level),
                    (0.0, y - 0.25, -level),
                    (reach, y, -level),
                    (0.12, y + height * 0.24, -level),
                    (-0.12, y + height * 0.24, -level),
                ],
                (0, 0, -1),
                green,
                texture=Texture.FOLIAGE,
                tile=(3, 3),  # type: ignore[arg-type]
                detail=0.25,
            )
        return builder.build()
    green = GREENS[kind % len(GREENS)]
    height, radius = random.uniform(5.0, 9.5), random.uniform(1.5, 2.7)
    trunk = random.uniform(0.13, 0.22)
    builder.face(
        [
            (-trunk, 0, 0),
            (trunk, 0, 0),
            (trunk * 0.6, height * 0.6, 0),
            (-trunk * 0.6, height * 0.6, 0),
        ],
        (0, 0, -1),
        bark,
    )
    for side in (-1.0, 1.0):
        builder.face(
            [
                (-0.05, height * 0.35, 0),
                (0.06, height * 0.33, 0),
                (side * radius * 0.6, height * 0.66, 0),
                (side * radius * 0.6 - 0.06, height * 0.66, 0),
            ],
            (0, 0, -1),
            bark,
        )
    middle = height - radius
    blobs = []
    for index in range(13):
        angle, far = index * 2.4, np.sqrt((index + 0.5) / 13)
        blobs.append((np.cos(angle) * far * radius * 0.85, np.sin(angle) * far * radius * 0.8))
    blobs.sort(key=lambda spot: -np.hypot(*spot))
    for index, (x, y) in enumerate(blobs):
        size = radius * random.uniform(0.36, 0.52)
        # Light comes from above: the higher a cluster of leaves, the brighter.
        shade = 0.82 + 0.2 * y / radius + random.uniform(-0.07, 0.07)
        builder.disc(
            (x, middle + y, -0.03 * index),
            (size, size * 0.9),
            'z',
            tuple(c * shade for c in green),
            corners=13,  # type: ignore[arg-type]
            wobble=random.uniform(0.8, 1.15, 13),
            texture=Texture.FOLIAGE,
            tile=(3.2, 3.2),
            detail=0.22,
        )
    return builder.build()


@cache
def bush(kind: int) -> Mesh:
    """Build a low billboard bush; kind 0-5."""
    random = np.random.default_rng(700 + kind)
    builder = MeshBuilder('vegetation')
    builder.two_sided = True
    for index in range(6):
        x, size = random.uniform(-0.9, 0.9), random.uniform(0.4, 0.7)
        shade = random.uniform(0.8, 1.1)
        builder.disc(
            (x, size * 0.75, -0.02 * index),
            (size, size * 0.85),
            'z',
            tuple(c * shade for c in GREENS[kind % 6]),  # type: ignore[arg-type]
            corners=11,
            wobble=random.uniform(0.85, 1.12, 11),
            texture=Texture.FOLIAGE,
            tile=(2.5, 2.5),
            detail=0.2,
        )
    return builder.build()


@lru_cache(maxsize=256)
def barrier(
    semantic: str,
    length: float,
    height: float,
    texture: Texture,
    thickness: float = 0.25,
    low: float = 0.0,
) -> Mesh:
    """Build a piece of wall, fence, hedge or guard rail along local z, in paint 1."""
    builder = MeshBuilder(semantic)
    builder.box(
        (-thickness / 2, thickness / 2),
        (low, height),
        (-length / 2, length / 2),
        NONE,
        1,
        texture=texture,
        tile=(4.0, 4.0),
        detail=0.35,
    )
    if low > 0:
        builder.part = 1
        for z in np.arange(-length / 2 + 0.5, length / 2, 2.0):
            builder.box((-0.05, 0.05), (0.0, low), (z, z + 0.12), STEEL)
    return builder.build()


@lru_cache(maxsize=256)
def slab(
    semantic: str,
    x: tuple[float, float],
    y: tuple[float, float],
    z: tuple[float, float],
    glow: Colour = (0, 0, 0),
    texture: Texture = Texture.CONCRETE,
) -> Mesh:
    """Build one plain box in paint 1: a canopy, a pump, a ceiling, a lamp."""
    builder = MeshBuilder(semantic)
    builder.box(x, y, z, NONE, 1, glow=glow, texture=texture, tile=(6.0, 6.0), detail=0.4)
    return builder.build()
