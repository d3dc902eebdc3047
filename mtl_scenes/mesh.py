# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Meshes: planar convex faces with what is needed to colour and to label them.

Local axes of a mesh: x right, y up, z forward (a vehicle's nose points to +z); metres.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtl_perception import tasks
from mtl_scenes.textures import Texture

Colour = tuple[float, float, float]
Point = tuple[float, float, float]

STEEL: Colour = (0.36, 0.37, 0.38)
DARK: Colour = (0.06, 0.06, 0.065)

SEMANTIC_ID = {name: index for index, name in enumerate(tasks.SEMANTIC.classes)}
DETECTION_ID = {name: index for index, name in enumerate(tasks.DETECTION.classes)}


FACE = np.dtype(
    [
        ('normal', 'f4', 3), ('axis_u', 'f4', 3), ('axis_v', 'f4', 3), ('colour', 'f4', 3),
        ('glow', 'f4', 3), ('detail', 'f4'), ('paint', 'i4'), ('semantic', 'u1'), ('slot', 'i4'),
        ('part', 'i4'), ('texture', 'i4'), ('two_sided', '?'),
    ]
)  # fmt: skip
"""One face. axis: texture coordinate a metre, in tiles. colour, glow: 0-1. detail: metres of the
texture's finest feature. paint: 0 = own colour, else which paint of the thing."""


@dataclass(frozen=True)
class Mesh:
    """F faces over V vertices, stored flat; faces are in drawing order within a part.

    vertices float32 [V, 3] metres; starts, counts int64 [F] into vertices; faces FACE [F];
    part_centre float32 [P, 3]; footprint float32 [5]: low x, high x, low z, high z, high y.
    """

    vertices: NDArray[np.float32]
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]
    faces: NDArray[np.void]
    part_centre: NDArray[np.float32]
    footprint: NDArray[np.float32]


def _cross(a: Point, b: Point) -> Point:
    """Cross product; numpy's takes twenty times as long for two single vectors."""
    return (
        a[1] * b[2] - a[2] * b[1],
        a[2] * b[0] - a[0] * b[2],
        a[0] * b[1] - a[1] * b[0],
    )


def _newell(corners: Sequence[Point]) -> Point:
    """Unit normal of a planar polygon: the sum of the cross products of its neighbours."""
    crosses = [_cross(corner, corners[(i + 1) % len(corners)]) for i, corner in enumerate(corners)]
    x, y, z = (sum(parts) for parts in zip(*crosses, strict=True))
    length = math.sqrt(x * x + y * y + z * z) + 1e-12
    return (x / length, y / length, z / length)


class MeshBuilder:
    """Collect faces; `semantic`, `slot`, `part` and `two_sided` hold for the faces added next."""

    def __init__(self, semantic: str) -> None:
        """Start with faces of one semantic class."""
        self.semantic = semantic
        self.slot = 0
        self.part = 0
        self.two_sided = False
        self._points: list[NDArray[np.float64]] = []
        self._faces: list[tuple[object, ...]] = []

    def face(
        self,
        points: Iterable[Point],
        outward: Point,
        colour: Colour,
        paint: int = 0,
        glow: Colour = (0.0, 0.0, 0.0),
        texture: Texture = Texture.PLAIN,
        tile: tuple[float, float] = (4.0, 4.0),
        detail: float = 1.0,
        offset: float = 0.0,
    ) -> None:
        """Add one planar convex face whose normal points to the side of `outward`.

        tile: metres a texture tile covers along and up the face.
        """
        corners = list(points)
        normal = _newell(corners)
        if sum(n * o for n, o in zip(normal, outward, strict=True)) < 0:
            normal = (-normal[0], -normal[1], -normal[2])
        if abs(normal[1]) > 0.9:
            along, up = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)
        else:
            length = math.hypot(normal[0], normal[2])
            along = (normal[2] / length, 0.0, -normal[0] / length)
            up = _cross(normal, along)
            if up[1] > 0:
                up = (-up[0], -up[1], -up[2])
        self._points.append(np.array(corners, np.float64) + np.array(normal) * offset)
        self._faces.append((
            normal,
            tuple(part / tile[0] for part in along),
            tuple(part / tile[1] for part in up),
            colour, glow, detail, paint, SEMANTIC_ID[self.semantic], self.slot, self.part,
            int(texture), self.two_sided,
        ))  # fmt: skip

    def prism(
        self,
        profile: Sequence[tuple[float, float]],
        low: float,
        high: float,
        colour: Colour,
        paint: int = 0,
        sides: Colour | None = None,
        skip: tuple[int, ...] = (),
        **style: object,
    ) -> None:
        """Extrude a convex side profile of (z, y); low, high: half width at bottom and top."""
        bottom, top = min(y for _, y in profile), max(y for _, y in profile)
        z_mean = sum(z for z, _ in profile) / len(profile)
        y_mean = sum(y for _, y in profile) / len(profile)

        def half(y: float) -> float:
            return low + (high - low) * (y - bottom) / max(top - bottom, 1e-6)

        for index, (z0, y0) in enumerate(profile):
            z1, y1 = profile[(index + 1) % len(profile)]
            if index in skip:
                continue
            outward = (0.0, (y0 + y1) / 2 - y_mean, (z0 + z1) / 2 - z_mean)
            self.face(
                [(-half(y0), y0, z0), (half(y0), y0, z0), (half(y1), y1, z1), (-half(y1), y1, z1)],
                outward,
                colour,
                paint,
                **style,  # type: ignore[arg-type]
            )
        for side in (-1.0, 1.0):
            self.face(
                [(side * half(y), y, z) for z, y in profile],
                (side, 0.0, 0.0),
                sides or colour,
                paint,
                **style,  # type: ignore[arg-type]
            )

    def box(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        z: tuple[float, float],
        colour: Colour,
        paint: int = 0,
        **style: object,
    ) -> None:
        """Add an upright box given by its ranges along x, y and z."""
        x0, x1 = x
        y0, y1 = y
        z0, z1 = z
        for points, outward in (
            ([(x0, y0, z0), (x1, y0, z0), (x1, y1, z0), (x0, y1, z0)], (0.0, 0.0, -1.0)),
            ([(x0, y0, z1), (x1, y0, z1), (x1, y1, z1), (x0, y1, z1)], (0.0, 0.0, 1.0)),
            ([(x0, y0, z0), (x0, y0, z1), (x0, y1, z1), (x0, y1, z0)], (-1.0, 0.0, 0.0)),
            ([(x1, y0, z0), (x1, y0, z1), (x1, y1, z1), (x1, y1, z0)], (1.0, 0.0, 0.0)),
            ([(x0, y1, z0), (x1, y1, z0), (x1, y1, z1), (x0, y1, z1)], (0.0, 1.0, 0.0)),
            ([(x0, y0, z0), (x1, y0, z0), (x1, y0, z1), (x0, y0, z1)], (0.0, -1.0, 0.0)),
        ):
            if outward[1] < 0 and y0 <= 0.3:
                continue  # Nobody looks from below at what stands on the ground.
            self.face(points, outward, colour, paint, **style)  # type: ignore[arg-type]

    def disc(
        self,
        centre: Point,
        radius: tuple[float, float],
        facing: str,
        colour: Colour,
        paint: int = 0,
        corners: int = 8,
        wobble: NDArray[np.float64] | None = None,
        **style: object,
    ) -> None:
        """Add a flat ellipse; facing: 'x' (a wheel's plane) or 'z' (a head, a sign, leaves)."""
        angles = (np.arange(corners) + 0.5) * (2 * np.pi / corners)
        reach = np.ones(corners) if wobble is None else wobble
        across, up = radius[0] * reach * np.cos(angles), radius[1] * reach * np.sin(angles)
        x, y, z = centre
        if facing == 'z':
            points = [(x + a, y + b, z) for a, b in zip(across, up, strict=True)]
            outward = (0.0, 0.0, -1.0)
        else:
            points = [(x, y + b, z + a) for a, b in zip(across, up, strict=True)]
            outward = (1.0 if x > 0 else -1.0, 0.0, 0.0)
        self.face(points, outward, colour, paint, **style)  # type: ignore[arg-type]

    def build(self) -> Mesh:
        """Freeze what was collected."""
        faces = np.array(self._faces, FACE)
        counts = np.array([len(points) for points in self._points], np.int64)
        vertices = np.concatenate(self._points).astype(np.float32)
        owner = np.repeat(faces['part'], counts)
        centres = np.stack(
            [
                vertices[owner == part].mean(axis=0) if (owner == part).any() else np.zeros(3)
                for part in range(int(faces['part'].max()) + 1)
            ]
        )
        low, high = vertices.min(axis=0), vertices.max(axis=0)
        return Mesh(
            vertices=vertices,
            starts=np.cumsum(counts) - counts,
            counts=counts,
            faces=faces,
            part_centre=centres.astype(np.float32),
            footprint=np.array([low[0], high[0], low[2], high[2], high[1]], np.float32),
        )


@dataclass
class Thing:
    """One mesh placed in the world.

    x, z: metres in the world; yaw: radians, clockwise from +z; s: metres along the road, for
    culling. paints: colours for paint 1, 2, ... classes: detection class a slot, -1 none.
    track: id of slot 0 (slot k has track + k); billboard: turns to face the camera.
    nearer: metres by which it is drawn in front of what shares its place. shadow: casts one.
    lights: its lamps are on when lamps are. order: which point's distance decides what it hides:
    'nearest'; 'facade', the far end of its face at local z 0, for what lines the road (nothing on
    the road side of it is ever hidden by it); 'centre' and 'end' for long pieces along local z.
    """

    mesh: Mesh
    x: float
    z: float
    yaw: float
    s: float
    paints: tuple[Colour, ...] = ()
    classes: tuple[int, ...] = ()
    track: int = 0
    billboard: bool = False
    nearer: float = 0.0
    shadow: bool = True
    lights: bool = True
    order: str = 'nearest'
    lamp: tuple[float, float] | None = None
    """Where a street lamp lights the ground: local x, radius in metres."""
