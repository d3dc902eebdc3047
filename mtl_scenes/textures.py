# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The texture atlas: small tiles of brightness variation, and a few noise fields, all procedural.

A tile modulates a surface's base colour (128 = unchanged); its alpha marks what glows at night
(lit windows). Tiles are stacked top to bottom and wrap; one `cv2.remap` textures a whole frame.
"""

from __future__ import annotations

from enum import IntEnum
from functools import cache, lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

TILE = 256
"""Side of a tile, texels."""


class Texture(IntEnum):
    """Index of a tile in the atlas."""

    PLAIN = 0
    FLATS = 1
    OFFICE = 2
    BRICK = 3
    FOLIAGE = 4
    CONCRETE = 5
    ASPHALT = 6
    GRASS = 7
    PAVING = 8
    RAILS = 9
    SHOP = 10
    PLANKS = 11
    ROOF = 12
    PICKETS = 13


@cache
def noise(size: int, octaves: int, seed: int) -> NDArray[np.float32]:
    """Tileable fractal noise, float32 [size, size], mean 0, standard deviation 1."""
    random = np.random.default_rng(seed)
    total = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        cells = min(size, 4 << octave)
        grid = random.standard_normal((cells, cells)).astype(np.float32)
        # Three copies a side make the interpolation wrap.
        wide = cv2.resize(
            np.tile(grid, (3, 3)), (3 * size, 3 * size), interpolation=cv2.INTER_CUBIC
        )
        total += wide[size : 2 * size, size : 2 * size] * 0.6**octave
    total -= total.mean()
    result: NDArray[np.float32] = (total / total.std()).astype(np.float32)
    return result


def _windows(
    random: np.random.Generator,
    columns: int,
    rows: int,
    box: tuple[float, float, float, float],
    glass: tuple[int, int, int],
    sill: int,
) -> NDArray[np.uint8]:
    """Draw a wall with a grid of windows; box = left, top, right, bottom as parts of a cell."""
    tile = np.full((TILE, TILE, 4), (134, 134, 134, 0), np.uint8)
    tile[..., :3] = np.clip(tile[..., :3] + 4 * noise(TILE, 6, 5)[..., None], 0, 255)
    width, height = TILE // columns, TILE // rows
    for row in range(rows):
        for column in range(columns):
            left, right = (int((column + part) * width) for part in (box[0], box[2]))
            top, bottom = (int((row + part) * height) for part in (box[1], box[3]))
            cv2.rectangle(
                tile, (left - 2, top - 2), (right + 2, bottom + 2), (sill, sill, sill, 0), -1
            )
            shade = random.uniform(0.75, 1.25)
            lit = int(random.choice([0, 0, 0, 120, 200, 255]))
            glow = (*(int(c * shade) for c in glass), lit)
            cv2.rectangle(tile, (left, top), (right, bottom), glow, -1)
            middle = (top + bottom) // 2
            upper = (*(int(min(255, c * shade * 1.35 + 10)) for c in glass), lit)
            cv2.rectangle(tile, (left, top), (right, middle - 3), upper, -1)
            cv2.line(
                tile,
                ((left + right) // 2, top),
                ((left + right) // 2, bottom),
                (sill,) * 3 + (0,),
                1,
            )
    return tile


def _grey(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    tile = np.zeros((TILE, TILE, 4), np.uint8)
    tile[..., :3] = np.clip(128 * values, 0, 255)[..., None]
    return tile


@lru_cache(maxsize=1)
def atlas() -> NDArray[np.uint8]:
    """Build every tile once: uint8 [tiles * TILE, TILE, 4]."""
    random = np.random.default_rng(20240607)
    row, column = np.mgrid[0:TILE, 0:TILE].astype(np.float32)
    fine, coarse = noise(TILE, 7, 1), noise(TILE, 3, 2)
    ones = np.ones((TILE, TILE), np.float32)
    mortar = ((row % 16) < 2) | (((column + 16 * ((row // 16) % 2)) % 32) < 2)
    tiles: dict[Texture, NDArray[np.uint8]] = {Texture.PLAIN: _grey(ones)}
    tiles[Texture.FLATS] = _windows(random, 8, 8, (0.26, 0.2, 0.74, 0.8), (58, 66, 76), 165)
    tiles[Texture.OFFICE] = _windows(random, 8, 8, (0.08, 0.14, 0.92, 0.88), (62, 78, 92), 120)
    tiles[Texture.BRICK] = _grey(np.where(mortar, 1.25, 1.0 + 0.1 * fine).astype(np.float32))
    leaves = cv2.GaussianBlur(random.standard_normal((TILE, TILE)).astype(np.float32), (0, 0), 2.2)
    leaves = leaves / leaves.std()
    tiles[Texture.FOLIAGE] = _grey(1.0 + 0.3 * leaves + 0.14 * fine)
    tiles[Texture.CONCRETE] = _grey(np.where((column % 128) < 2, 0.75, 1.0) * (1.0 + 0.05 * fine))
    grain = random.standard_normal((TILE, TILE)).astype(np.float32)
    tiles[Texture.ASPHALT] = _grey(1.0 + 0.05 * fine + 0.05 * coarse + 0.07 * grain)
    tiles[Texture.GRASS] = _grey(1.0 + 0.12 * fine + 0.1 * coarse + 0.12 * grain)
    joints = ((row % 64) < 2) | ((column % 64) < 2)
    tiles[Texture.PAVING] = _grey(np.where(joints, 0.78, 1.0 + 0.05 * fine).astype(np.float32))
    tiles[Texture.RAILS] = _grey((0.8 + 0.35 * np.abs(np.sin(row * np.pi / 64))).astype(np.float32))
    shop = _windows(random, 2, 1, (0.06, 0.3, 0.94, 0.97), (52, 58, 66), 100)
    shop[..., 3] = np.where(shop[..., 3] > 0, 255, 0)
    for start in range(0, TILE, 128):
        awning = [int(v) for v in 70 + random.integers(0, 90) + random.integers(0, 30, 3)]
        cv2.rectangle(shop, (start + 4, 14), (start + 122, 62), (*awning, 90), -1)
    tiles[Texture.SHOP] = shop
    tiles[Texture.PLANKS] = _grey(
        np.where((row % 32) < 3, 0.75, 1.0 + 0.06 * fine).astype(np.float32)
    )
    tiles[Texture.ROOF] = _grey((0.85 + 0.2 * ((row % 24) / 24) + 0.05 * grain).astype(np.float32))
    tiles[Texture.PICKETS] = _grey(
        np.where((column % 32) < 9, 0.35, 1.0 + 0.05 * fine).astype(np.float32)
    )
    return np.concatenate([tiles[texture] for texture in Texture])


@lru_cache(maxsize=1)
def grey_atlas() -> NDArray[np.float32]:
    """Brightness of every tile, 1 = unchanged: float32 [tiles * TILE, TILE]."""
    grey: NDArray[np.float32] = atlas()[..., 1].astype(np.float32) / np.float32(128)
    return grey
