# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Meshes of people on foot and on the saddle."""

from __future__ import annotations

from functools import cache

import numpy as np

from mtl_scenes.mesh import DARK, Mesh, MeshBuilder


@cache
def person(phase: int, build: int, seated: bool) -> Mesh:
    """Build a billboard of a person; phase 0-7 of a stride. Paints: 1 top, 2 legs, 3 skin, 4 hair.

    seated: a rider, on the saddle of a two-wheeler at 0.95 m.
    """
    builder = MeshBuilder('rider' if seated else 'person')
    builder.two_sided = True
    swing = np.sin(phase * np.pi / 4) * (0.12 if seated else 0.2)
    wide = (1.0, 1.16, 0.92)[build % 3]
    hip, lift = (0.98, 0.0) if seated else (0.86, 0.02 * abs(np.cos(phase * np.pi / 4)))

    def limb(
        x0: float, y0: float, x1: float, y1: float, width: float, paint: int, z: float
    ) -> None:
        dx, dy = x1 - x0, y1 - y0
        scale = width / 2 / np.hypot(dx, dy)
        across = (dy * scale, -dx * scale)
        builder.face(
            [
                (x0 + across[0], y0 + across[1], z),
                (x0 - across[0], y0 - across[1], z),
                (x1 - 0.7 * across[0], y1 - 0.7 * across[1], z),
                (x1 + 0.7 * across[0], y1 + 0.7 * across[1], z),
            ],
            (0, 0, -1),
            (0, 0, 0),
            paint,
        )

    if seated:
        for side in (-1.0, 1.0):
            knee = 0.62 + side * swing
            limb(side * 0.1, hip, side * 0.19, knee, 0.17, 2, 0.03)
            limb(side * 0.19, knee, side * 0.13, knee - 0.4, 0.13, 2, 0.02)
    else:
        for side in (-1.0, 1.0):
            foot = side * 0.09 + side * swing * 0.9
            knee_y, foot_y = 0.46 + lift, 0.04 + max(0.0, side * swing) * 0.3
            limb(
                side * 0.09,
                hip + 0.04,
                side * 0.1 + 0.5 * foot - side * 0.05,
                knee_y,
                0.18 * wide,
                2,
                0.02,
            )
            limb(side * 0.1 + 0.5 * foot - side * 0.05, knee_y + 0.03, foot, foot_y, 0.14, 2, 0.01)
            builder.face(
                [
                    (foot - 0.07, foot_y - 0.04, 0.0),
                    (foot + 0.07, foot_y - 0.04, 0.0),
                    (foot + 0.06, foot_y + 0.05, 0.0),
                    (foot - 0.06, foot_y + 0.05, 0.0),
                ],
                (0, 0, -1),
                DARK,
            )
    shoulder = hip + 0.56
    for side in (-1.0, 1.0):
        reach = side * 0.3 if seated else side * 0.27 - 0.5 * swing
        hand = 1.12 if seated else hip - 0.02
        limb(side * 0.2 * wide, shoulder - 0.05, reach, hand, 0.13, 1, 0.02)
        builder.disc((reach, hand, 0.015), (0.05, 0.06), 'z', (0, 0, 0), 3, corners=6)
    torso = [
        (-0.15, hip - 0.04),
        (0.15, hip - 0.04),
        (0.17, hip + 0.3),
        (0.23, shoulder - 0.08),
        (0.14, shoulder),
        (-0.14, shoulder),
        (-0.23, shoulder - 0.08),
        (-0.17, hip + 0.3),
    ]
    builder.face([(x * wide, y + lift, 0.0) for x, y in torso], (0, 0, -1), (0, 0, 0), 1)
    builder.disc((0.0, shoulder + 0.04, -0.005), (0.06, 0.07), 'z', (0, 0, 0), 3, corners=6)
    builder.disc((0.0, shoulder + 0.17 + lift, -0.01), (0.1, 0.135), 'z', (0, 0, 0), 3, corners=10)
    crown = shoulder + (0.22 if not seated else 0.21) + lift
    builder.disc((0.0, crown, -0.02), (0.112, 0.095), 'z', (0, 0, 0), 4, corners=8)
    if build == 2 and not seated:
        builder.box((0.2, 0.42), (hip - 0.35, hip - 0.05), (-0.05, 0.0), (0.25, 0.15, 0.1))
    return builder.build()
