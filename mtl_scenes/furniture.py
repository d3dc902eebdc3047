# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Meshes of street furniture: lamps, poles, traffic lights, signs, gantries."""

from __future__ import annotations

from functools import cache

from mtl_scenes.mesh import STEEL, Colour, Mesh, MeshBuilder


@cache
def street_lamp(height: float, arm: float) -> Mesh:
    """Build a lamp post whose arm reaches `arm` metres along local x."""
    builder = MeshBuilder('pole')
    builder.box((-0.08, 0.08), (0.0, height), (-0.08, 0.08), STEEL)
    low, high = sorted((0.0, arm))
    builder.box((low, high), (height - 0.1, height), (-0.05, 0.05), STEEL)
    tip = sorted((arm * 0.62, arm * 1.08))
    builder.box(
        (tip[0], tip[1]),
        (height - 0.22, height - 0.06),
        (-0.14, 0.14),
        (0.6, 0.6, 0.58),
        glow=(1.7, 1.35, 0.85),
    )
    return builder.build()


@cache
def post(height: float, width: float) -> Mesh:
    """Build a plain pole."""
    builder = MeshBuilder('pole')
    builder.box((-width / 2, width / 2), (0.0, height), (-width / 2, width / 2), STEEL)
    return builder.build()


@cache
def traffic_light(state: str, arm: float) -> Mesh:
    """Build a post with one head (arm 0) or two; slots 1 and 2 are the heads, facing local -z."""
    builder = MeshBuilder('pole')
    top = 3.4 if arm == 0 else 6.0
    builder.box((-0.09, 0.09), (0.0, top), (0.0, 0.18), STEEL)
    spots = [(0.0, 2.5)]
    if arm != 0:
        low, high = sorted((0.0, arm))
        builder.box((low, high), (5.75, 5.9), (0.04, 0.14), STEEL)
        spots.append((arm * 0.93, 5.2))
    builder.semantic = 'traffic light'
    for index, (x, y) in enumerate(spots):
        builder.slot, builder.part = index + 1, index + 1
        builder.box((x - 0.19, x + 0.19), (y, y + 1.05), (-0.25, 0.0), (0.035, 0.04, 0.035))
        lamps: tuple[tuple[str, Colour], ...] = (
            ('red', (1.0, 0.08, 0.05)),
            ('yellow', (1.0, 0.65, 0.05)),
            ('green', (0.1, 0.95, 0.5)),
        )
        for row, (name, colour) in enumerate(lamps):
            on = name == state
            shade = colour if on else tuple(c * 0.12 + 0.03 for c in colour)
            glow = tuple(1.5 * c for c in colour) if on else (0.0, 0.0, 0.0)
            builder.disc((x, y + 0.85 - 0.32 * row, -0.26), (0.125, 0.125), 'z', shade, glow=glow)  # type: ignore[arg-type]
    return builder.build()


@cache
def traffic_sign(kind: str) -> Mesh:
    """Build a sign on its pole facing local -z; the sign is slot 1."""
    builder = MeshBuilder('pole')
    height = {'panel': 2.2, 'stop': 2.1}.get(kind, 2.4)
    builder.box((-0.04, 0.04), (0.0, height + 0.35), (0.0, 0.08), STEEL)
    builder.semantic, builder.slot, builder.part = 'traffic sign', 1, 1
    builder.two_sided = True
    red, white, blue = (0.75, 0.05, 0.06), (0.93, 0.93, 0.91), (0.05, 0.2, 0.6)
    black, yellow, green = (0.05, 0.05, 0.05), (0.95, 0.7, 0.05), (0.04, 0.36, 0.2)

    def square(w: float, h: float, colour: Colour, z: float, y: float = 0.0) -> None:
        y += height + 0.1
        builder.face(
            [(-w, y - h, z), (w, y - h, z), (w, y + h, z), (-w, y + h, z)],
            (0, 0, -1),
            colour,
            glow=(0.03, 0.03, 0.03),
        )

    def disc(radius: float, colour: Colour, z: float, corners: int = 14) -> None:
        builder.disc(
            (0, height + 0.1, z),
            (radius, radius),
            'z',
            colour,
            corners=corners,
            glow=(0.03, 0.03, 0.03),
        )

    if kind == 'limit':
        disc(0.36, red, -0.02)
        disc(0.27, white, -0.025)
        builder.two_sided = False
        for x in (-0.1, 0.1):
            builder.face(
                [
                    (x - 0.06, height - 0.04, -0.03),
                    (x + 0.06, height - 0.04, -0.03),
                    (x + 0.06, height + 0.25, -0.03),
                    (x - 0.06, height + 0.25, -0.03),
                ],
                (0, 0, -1),
                black,
            )
    elif kind == 'stop':
        disc(0.42, red, -0.02, 8)
        square(0.26, 0.07, white, -0.03)
    elif kind == 'no entry':
        disc(0.36, red, -0.02)
        square(0.25, 0.06, white, -0.03)
    elif kind == 'warning':
        for size, colour, z in ((0.46, red, -0.02), (0.32, white, -0.025)):
            y = height + 0.05
            builder.face(
                [(-size, y - size * 0.6, z), (size, y - size * 0.6, z), (0, y + size, z)],
                (0, 0, -1),
                colour,
            )
        square(0.035, 0.12, black, -0.03)
    elif kind == 'diamond':
        for size, colour, z in ((0.44, black, -0.02), (0.41, yellow, -0.025)):
            y = height + 0.1
            builder.face(
                [(-size, y, z), (0, y - size, z), (size, y, z), (0, y + size, z)],
                (0, 0, -1),
                colour,
            )
    elif kind == 'panel':
        square(0.75, 0.4, white, -0.02, 0.2)
        square(0.71, 0.36, green, -0.025, 0.2)
        for y in (0.05, 0.3):
            square(0.5, 0.05, white, -0.03, y)
    else:
        square(0.34, 0.34, blue, -0.02)
        square(0.12, 0.2, white, -0.03)
    return builder.build()


@cache
def gantry(reach: float) -> Mesh:
    """Build a motorway gantry from local x -reach to reach; slots 1 and 2 are its sign panels."""
    builder = MeshBuilder('pole')
    for x in (-reach, reach):
        builder.box((x - 0.2, x + 0.2), (0.0, 7.6), (0.0, 0.4), STEEL)
    builder.part = 1
    builder.box((-reach, reach), (6.9, 7.3), (0.05, 0.35), STEEL)
    builder.semantic = 'traffic sign'
    white, green = (0.92, 0.92, 0.9), (0.03, 0.33, 0.2)
    for index, x in enumerate((-reach * 0.45, reach * 0.42)):
        builder.slot, builder.part = index + 1, index + 2
        for grow, colour, z in ((0.0, white, -0.05), (-0.1, green, -0.07)):
            w, low, high = 2.2 + grow, 5.7 - grow, 8.1 + grow
            builder.face(
                [(x - w, low, z), (x + w, low, z), (x + w, high, z), (x - w, high, z)],
                (0, 0, -1),
                colour,
                glow=(0.05, 0.06, 0.05),
            )
        for y, w in ((7.4, 1.4), (6.8, 1.7), (6.2, 0.9)):
            builder.face(
                [
                    (x - w, y - 0.14, -0.1),
                    (x + w, y - 0.14, -0.1),
                    (x + w, y + 0.14, -0.1),
                    (x - w, y + 0.14, -0.1),
                ],
                (0, 0, -1),
                white,
                glow=(0.05, 0.05, 0.05),
            )
    return builder.build()
