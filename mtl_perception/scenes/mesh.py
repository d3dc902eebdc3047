"""Meshes: planar convex faces with what is needed to colour and to label them.

Local axes of a mesh: x right, y up, z forward (a vehicle's nose points to +z); metres.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtl_perception import tasks
from mtl_perception.scenes.textures import Texture

Colour = tuple[float, float, float]
Point = tuple[float, float, float]

STEEL: Colour = (0.36, 0.37, 0.38)
DARK: Colour = (0.06, 0.06, 0.065)

SEMANTIC_ID = {name: index for index, name in enumerate(tasks.SEMANTIC.classes)}
DETECTION_ID = {name: index for index, name in enumerate(tasks.DETECTION.classes)}


@dataclass(frozen=True)
class Mesh:
    """F faces over V vertices, stored flat; faces are in drawing order within a part.

    vertices [V, 3] metres; starts, counts [F] into vertices; normals, axis_u, axis_v [F, 3]
    (axis: texture coordinate a metre, in tiles); colour, glow [F, 3] 0-1; paint [F] 0 = own
    colour, else which paint of the thing; semantic, slot, part, texture [F]; detail [F] metres of
    the texture's finest feature; two_sided [F]; part_centre [P, 3].
    """

    vertices: NDArray[np.float32]
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]
    normals: NDArray[np.float32]
    axis_u: NDArray[np.float32]
    axis_v: NDArray[np.float32]
    colour: NDArray[np.float32]
    glow: NDArray[np.float32]
    paint: NDArray[np.int64]
    semantic: NDArray[np.uint8]
    slot: NDArray[np.int64]
    part: NDArray[np.int64]
    texture: NDArray[np.int64]
    detail: NDArray[np.float32]
    two_sided: NDArray[np.bool_]
    part_centre: NDArray[np.float32]
    footprint: NDArray[np.float32]


class MeshBuilder:
    """Collect faces; `semantic`, `slot`, `part` and `two_sided` hold for the faces added next."""

    def __init__(self, semantic: str) -> None:
        """Start with faces of one semantic class."""
        self.semantic = semantic
        self.slot = 0
        self.part = 0
        self.two_sided = False
        self._points: list[NDArray[np.float64]] = []
        self._rows: list[tuple[float, ...]] = []
        self._flags: list[tuple[int, ...]] = []

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
        corners = np.array(list(points), np.float64)
        after = np.roll(corners, -1, axis=0)
        normal = np.cross(corners, after).sum(axis=0)
        normal /= np.linalg.norm(normal) + 1e-12
        if normal @ np.array(outward) < 0:
            normal = -normal
        corners = corners + normal * offset
        if abs(normal[1]) > 0.9:
            along, up = np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0])
        else:
            along = np.array([normal[2], 0.0, -normal[0]])
            along /= np.linalg.norm(along)
            up = np.cross(normal, along)
            up *= -1.0 if up[1] > 0 else 1.0
        self._points.append(corners)
        self._rows.append(
            (
                *normal,
                *(along / tile[0]),
                *(up / tile[1]),
                *colour,
                *glow,
                detail,
            )
        )
        self._flags.append((
            paint, SEMANTIC_ID[self.semantic], self.slot, self.part, int(texture),
            int(self.two_sided),
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
        rows = np.array(self._rows, np.float32)
        flags = np.array(self._flags, np.int64)
        counts = np.array([len(points) for points in self._points], np.int64)
        vertices = np.concatenate(self._points).astype(np.float32)
        owner = np.repeat(flags[:, 3], counts)
        centres = np.stack(
            [
                vertices[owner == part].mean(axis=0) if (owner == part).any() else np.zeros(3)
                for part in range(int(flags[:, 3].max()) + 1)
            ]
        )
        low, high = vertices.min(axis=0), vertices.max(axis=0)
        return Mesh(
            vertices=vertices, starts=np.cumsum(counts) - counts, counts=counts,
            normals=rows[:, 0:3], axis_u=rows[:, 3:6], axis_v=rows[:, 6:9], colour=rows[:, 9:12],
            glow=rows[:, 12:15], detail=rows[:, 15], paint=flags[:, 0],
            semantic=flags[:, 1].astype(np.uint8), slot=flags[:, 2], part=flags[:, 3],
            texture=flags[:, 4], two_sided=flags[:, 5].astype(bool),
            part_centre=centres.astype(np.float32),
            footprint=np.array([low[0], high[0], low[2], high[2], high[1]], np.float32),
        )  # fmt: skip


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
