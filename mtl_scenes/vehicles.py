# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Meshes of road users: cars, trucks, buses, trams, two-wheelers."""

from __future__ import annotations

from functools import cache

import numpy as np

from mtl_scenes.mesh import DARK, Colour, Mesh, MeshBuilder

GLASS: Colour = (0.09, 0.12, 0.15)
TYRE: Colour = (0.035, 0.035, 0.04)
HUB: Colour = (0.45, 0.46, 0.48)
RED: Colour = (0.55, 0.03, 0.03)
LAMP: Colour = (0.86, 0.87, 0.85)
TAIL_GLOW: Colour = (0.75, 0.04, 0.02)
HEAD_GLOW: Colour = (1.6, 1.5, 1.25)
PLATE: Colour = (0.85, 0.85, 0.8)


def _wheels(
    builder: MeshBuilder, half_width: float, along: tuple[float, ...], radius: float
) -> None:
    for z in along:
        for side in (-1.0, 1.0):
            inner, outer = sorted((side * (half_width - 0.22), side * (half_width - 0.02)))
            builder.box((inner, outer), (0.0, radius), (z - 0.6 * radius, z + 0.6 * radius), TYRE)
            x = side * (half_width + 0.01)
            builder.disc((x, radius, z), (radius, radius), 'x', TYRE, corners=12)
            builder.disc((x + side * 0.01, radius, z), (radius * 0.6,) * 2, 'x', HUB, corners=8)


def _rear_and_front(
    builder: MeshBuilder,
    half_width: float,
    rear: float,
    front: float,
    y: float,
    size: tuple[float, float],
    plate_y: float,
) -> None:
    """Add tail lamps, headlamps, number plates and dark bumpers to the two ends."""
    width, height = size
    for z, colour, glow, sign in ((rear, RED, TAIL_GLOW, -1.0), (front, LAMP, HEAD_GLOW, 1.0)):
        end = z + sign * 0.012
        facing = (0.0, 0.0, sign)
        bumper = half_width * 0.94
        builder.face(
            [(-bumper, 0.3, end), (bumper, 0.3, end), (bumper, 0.48, end), (-bumper, 0.48, end)],
            facing,
            DARK,
        )
        if sign > 0:
            grille = half_width * 0.5
            builder.face(
                [(-grille, 0.5, end), (grille, 0.5, end), (grille, y, end), (-grille, y, end)],
                facing,
                DARK,
            )
        for side in (-1.0, 1.0):
            x0, x1 = side * (half_width - 0.05), side * (half_width - 0.05 - width)
            low, high = y - height / 2, y + height / 2
            builder.face(
                [(x0, low, end), (x1, low, end), (x1, high, end), (x0, high, end)],
                facing,
                colour,
                glow=glow,
            )
        builder.face(
            [
                (-0.26, plate_y, end + sign * 0.01),
                (0.26, plate_y, end + sign * 0.01),
                (0.26, plate_y + 0.12, end + sign * 0.01),
                (-0.26, plate_y + 0.12, end + sign * 0.01),
            ],
            facing,
            PLATE,
            glow=(0.06, 0.06, 0.05),
        )


@cache
def car(kind: str) -> Mesh:
    """Build a sedan, hatchback, suv or van; paint 1 is the body."""
    length, width, belt, top, hood, rake, tail = {
        'sedan': (4.6, 1.8, 0.92, 1.44, 1.25, 0.75, 0.85),
        'hatchback': (4.0, 1.74, 0.92, 1.5, 0.95, 0.7, 0.1),
        'suv': (4.7, 1.92, 1.08, 1.74, 1.15, 0.6, 0.08),
        'van': (5.2, 2.0, 1.15, 2.15, 0.75, 0.75, 0.03),
    }[kind]
    rear, front, half = -length / 2, length / 2, width / 2
    builder = MeshBuilder('car')
    lower = 0.24
    _wheels(builder, half, (rear + 0.8, front - 0.85), 0.33 if top < 1.6 else 0.37)
    builder.prism(
        [(rear + 0.08, lower), (front - 0.06, lower), (front, 0.5), (front - 0.05, belt - 0.2),
         (front - hood, belt), (rear + 0.02, belt), (rear, 0.6)],
        half * 0.97, half, (0, 0, 0), paint=1,
    )  # fmt: skip
    for side in (-1.0, 1.0):
        x = side * half * 1.002
        builder.face(
            [
                (x, 0.26, rear + 1.2),
                (x, 0.26, front - 1.25),
                (x, 0.33, front - 1.25),
                (x, 0.33, rear + 1.2),
            ],
            (side, 0, 0),
            DARK,
        )
        for z in (rear + 0.8, front - 0.85):
            radius = 0.33 if top < 1.6 else 0.37
            builder.disc((x, radius, z), (radius * 1.12,) * 2, 'x', DARK, corners=12)
            builder.disc((x * 1.005, radius, z), (radius * 0.97,) * 2, 'x', TYRE, corners=12)
            builder.disc((x * 1.01, radius, z), (radius * 0.62,) * 2, 'x', HUB, corners=8)
    _rear_and_front(builder, half, rear, front, belt - 0.16, (0.34, 0.16), 0.55)
    base_front, base_rear = front - hood + 0.06, rear + tail
    roof_front = base_front - rake
    roof_rear = base_rear + (0.55 if kind == 'sedan' else 0.28 if top < 1.9 else 0.05)
    low, high = half * 0.95, half * 0.78
    builder.prism(
        [(base_front, belt), (roof_front, top - 0.03), ((roof_front + roof_rear) / 2, top),
         (roof_rear, top - 0.04), (base_rear, belt)], low, high, (0, 0, 0), paint=1, skip=(4,),
    )  # fmt: skip

    def edge(y: float) -> float:
        return low + (high - low) * (y - belt) / (top - belt)

    def slant(z0: float, z1: float, y: float) -> float:
        return z0 + (z1 - z0) * (y - belt) / (top - 0.03 - belt)

    y0, y1 = belt + 0.04, top - 0.1
    for z0, z1, sign in ((base_front, roof_front, 1.0), (base_rear, roof_rear, -1.0)):
        builder.face(
            [
                (-edge(y0) + 0.07, y0, slant(z0, z1, y0)),
                (edge(y0) - 0.07, y0, slant(z0, z1, y0)),
                (edge(y1) - 0.07, y1, slant(z0, z1, y1)),
                (-edge(y1) + 0.07, y1, slant(z0, z1, y1)),
            ],
            (0.0, 0.3, sign),
            GLASS,
            offset=0.015,
        )
    pillars = [0.04, 0.5, 0.54, 0.96] if kind != 'van' else [0.04, 0.3]
    for side in (-1.0, 1.0):
        for near, far in zip(pillars[::2], pillars[1::2], strict=True):

            def at(part: float, y: float) -> float:
                return slant(base_front, roof_front, y) * (1 - part) + part * slant(
                    base_rear, roof_rear, y
                )

            builder.face(
                [
                    (side * edge(y0), y0, at(near, y0)),
                    (side * edge(y0), y0, at(far, y0)),
                    (side * edge(y1), y1, at(far, y1)),
                    (side * edge(y1), y1, at(near, y1)),
                ],
                (side, 0.1, 0),
                GLASS,
                offset=0.01,
            )
    return builder.build()


@cache
def truck(kind: str) -> Mesh:
    """Build a 'box' or 'long' truck; paint 1 is the cab, paint 2 the load."""
    length, height, width = (7.2, 3.3, 2.35) if kind == 'box' else (13.0, 3.9, 2.5)
    half, rear, front = width / 2, -length / 2, length / 2
    cab = 1.9
    builder = MeshBuilder('truck')
    axles = (
        (rear + 1.3, front - 0.9)
        if kind == 'box'
        else (rear + 1.2, rear + 2.3, rear + 3.4, front - 3.4, front - 0.9)
    )
    _wheels(builder, half, axles, 0.48)
    builder.box((-half * 0.8, half * 0.8), (0.45, 0.95), (rear, front - 0.2), DARK)
    builder.part = 1
    builder.box((-half, half), (0.9, height), (rear, front - cab - 0.15), (0, 0, 0), 2)
    end = rear - 0.015
    for side in (-1.0, 1.0):
        x0, x1 = side * 0.04, side * (half - 0.1)
        builder.face(
            [(x0, 1.0, end), (x1, 1.0, end), (x1, height - 0.1, end), (x0, height - 0.1, end)],
            (0, 0, -1),
            (0, 0, 0),
            3,
        )
    _rear_and_front(builder, half, rear, rear + 0.5, 0.82, (0.4, 0.16), 0.6)
    builder.part = 2
    builder.box(
        (-half * 0.95, half * 0.95), (0.5, height * 0.82), (front - cab, front), (0, 0, 0), 1
    )
    glass = (height * 0.5, height * 0.75)
    builder.face(
        [
            (-half * 0.85, glass[0], front),
            (half * 0.85, glass[0], front),
            (half * 0.85, glass[1], front),
            (-half * 0.85, glass[1], front),
        ],
        (0, 0, 1),
        GLASS,
        offset=0.02,
    )
    for side in (-1.0, 1.0):
        x = side * half * 0.95
        builder.face(
            [
                (x, glass[0], front - 1.1),
                (x, glass[0], front - 0.2),
                (x, glass[1], front - 0.3),
                (x, glass[1], front - 1.1),
            ],
            (side, 0, 0),
            GLASS,
            offset=0.02,
        )
    _rear_and_front(builder, half * 0.95, front - 0.5, front, 0.85, (0.4, 0.2), 0.5)
    return builder.build()


@cache
def coach(semantic: str) -> Mesh:
    """Build a bus or a train (tram); paint 1 is the body, paint 2 a stripe."""
    is_bus = semantic == 'bus'
    length, height, width = (11.5, 3.1, 2.5) if is_bus else (26.0, 3.6, 2.5)
    half, rear, front = width / 2, -length / 2, length / 2
    builder = MeshBuilder(semantic)
    floor = 0.3 if is_bus else 0.2
    if is_bus:
        _wheels(builder, half, (rear + 2.6, front - 2.4), 0.48)
    slant = 0.12 if is_bus else 0.7
    builder.prism(
        [(rear, floor), (front, floor), (front, 1.3), (front - slant, height),
         (rear + slant, height), (rear, 1.3)], half, half * 0.97, (0, 0, 0), paint=1,
    )  # fmt: skip
    glass_low, glass_high = 1.25, height - 0.55
    count = 7 if is_bus else 14
    for side in (-1.0, 1.0):
        x = side * half * 1.003
        builder.face(
            [
                (x, 0.75, rear + 0.1),
                (x, 0.75, front - 0.1),
                (x, 1.0, front - 0.1),
                (x, 1.0, rear + 0.1),
            ],
            (side, 0, 0),
            (0, 0, 0),
            2,
        )
        step = (length - 1.6) / count
        for index in range(count):
            z0 = rear + 0.8 + index * step
            door = index in (count - 1, count // 2) and side > 0
            low = 0.45 if door else glass_low
            builder.face(
                [
                    (x, low, z0 + 0.06),
                    (x, low, z0 + step - 0.06),
                    (x, glass_high, z0 + step - 0.06),
                    (x, glass_high, z0 + 0.06),
                ],
                (side, 0, 0),
                GLASS,
                glow=(0.28, 0.25, 0.18),
            )
        if is_bus:
            for z in (rear + 2.6, front - 2.4):
                builder.disc((x * 1.002, 0.48, z), (0.54,) * 2, 'x', DARK, corners=12)
                builder.disc((x * 1.006, 0.48, z), (0.46,) * 2, 'x', TYRE, corners=12)
                builder.disc((x * 1.01, 0.48, z), (0.26,) * 2, 'x', HUB)
    for z, sign in ((rear, -1.0), (front, 1.0)):
        top = height - 0.6
        inset = (top - 1.3) / (height - 1.3) * slant
        builder.face(
            [
                (-half * 0.88, 1.35, z),
                (half * 0.88, 1.35, z),
                (half * 0.86, top, z - sign * inset),
                (-half * 0.86, top, z - sign * inset),
            ],
            (0, 0, sign),
            GLASS,
            offset=0.02,
            glow=(0.2, 0.19, 0.15),
        )
        inset = (height - 0.1 - 1.3) / (height - 1.3) * slant
        edge, over = z - sign * inset * 0.83, z - sign * inset
        builder.face(
            [
                (-half * 0.6, height - 0.45, edge),
                (half * 0.6, height - 0.45, edge),
                (half * 0.6, height - 0.15, over),
                (-half * 0.6, height - 0.15, over),
            ],
            (0, 0, sign),
            DARK,
            offset=0.03,
            glow=(0.9, 0.5, 0.05),
        )
    _rear_and_front(builder, half, rear, front, 0.85, (0.3, 0.26), 0.5)
    return builder.build()


@cache
def two_wheeler(semantic: str) -> Mesh:
    """Build a bicycle or a motorcycle without its rider; paint 1 is the frame."""
    builder = MeshBuilder(semantic)
    builder.two_sided = True
    motor = semantic == 'motorcycle'
    radius, base = (0.31, 0.72) if motor else (0.34, 0.54)
    thick = 0.1 if motor else 0.035
    for z in (-base, base):
        builder.box((-thick / 2, thick / 2), (0.0, 2 * radius), (z - 0.1, z + 0.1), TYRE)
        if motor:
            builder.disc((thick / 2 + 0.01, radius, z), (radius,) * 2, 'x', TYRE, corners=12)
            builder.disc((thick / 2 + 0.02, radius, z), (radius * 0.5,) * 2, 'x', HUB)
            continue
        angles = np.linspace(0, 2 * np.pi, 13)
        for a, b in zip(angles[:-1], angles[1:], strict=True):
            ring = [
                (0.0, radius + r * np.sin(t), z + r * np.cos(t))
                for r, t in ((radius, a), (radius, b), (radius * 0.82, b), (radius * 0.82, a))
            ]
            builder.face(ring, (1, 0, 0), TYRE)
    if motor:
        builder.prism(
            [(-0.75, 0.75), (-0.35, 0.35), (0.45, 0.35), (0.6, 0.85), (0.2, 1.0), (-0.2, 0.8)],
            0.16,
            0.2,
            (0, 0, 0),
            paint=1,
        )
        builder.box((-0.14, 0.14), (0.78, 0.86), (-0.8, 0.05), DARK)
        builder.box((-0.36, 0.36), (1.02, 1.07), (0.42, 0.48), DARK)
        lamps = ((-0.83, RED, TAIL_GLOW, 0.75), (0.66, LAMP, HEAD_GLOW, 0.88))
    else:
        for (z0, y0), (z1, y1) in (
            ((-0.54, 0.34), (-0.05, 0.3)),
            ((-0.05, 0.3), (0.4, 0.82)),
            ((-0.2, 0.85), (0.4, 0.82)),
            ((-0.05, 0.3), (-0.22, 0.95)),
            ((-0.54, 0.34), (-0.18, 0.8)),
            ((0.54, 0.34), (0.4, 1.0)),
        ):
            across = np.array([-(y1 - y0), z1 - z0]) / np.hypot(y1 - y0, z1 - z0) * 0.028
            builder.face(
                [
                    (0.01, y0 + across[1], z0 + across[0]),
                    (0.01, y1 + across[1], z1 + across[0]),
                    (0.01, y1 - across[1], z1 - across[0]),
                    (0.01, y0 - across[1], z0 - across[0]),
                ],
                (1, 0, 0),
                (0, 0, 0),
                1,
            )
        builder.box((-0.28, 0.28), (1.0, 1.05), (0.36, 0.4), DARK)
        builder.box((-0.07, 0.07), (0.95, 1.0), (-0.34, -0.1), DARK)
        lamps = ((-0.6, RED, TAIL_GLOW, 0.7), (0.5, LAMP, HEAD_GLOW, 0.9))
    builder.two_sided = False
    for z, colour, glow, y in lamps:
        builder.disc((0.0, y, z), (0.07, 0.06), 'z', colour, corners=6, glow=glow)
    return builder.build()
