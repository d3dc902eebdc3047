# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The road: its course (a gently curving line) and its cross-section (lanes, kerbs, verges).

Road coordinates: s metres along the ego lane's centre line, d metres to the right of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from mtl_scenes.mesh import SEMANTIC_ID, Colour
from mtl_scenes.textures import Texture


class Zone(IntEnum):
    """What a strip of ground is."""

    GRASS = 0
    OWN = 1
    OTHER_LANE = 2
    ROAD = 3
    KERB = 4
    SIDEWALK = 5
    FORECOURT = 6
    TRACK = 7
    DIRT = 8


ROAD_ID, SIDEWALK_ID, TERRAIN_ID = (SEMANTIC_ID[n] for n in ('road', 'sidewalk', 'terrain'))
ZONE_SEMANTIC = np.array(
    [TERRAIN_ID, ROAD_ID, ROAD_ID, ROAD_ID, SIDEWALK_ID, SIDEWALK_ID, ROAD_ID, ROAD_ID, TERRAIN_ID],
    np.uint8,
)
ZONE_DRIVABLE = np.array([2, 0, 1, 2, 2, 2, 2, 2, 2], np.uint8)
ZONE_TEXTURE = np.array(
    [Texture.GRASS, Texture.ASPHALT, Texture.ASPHALT, Texture.ASPHALT, Texture.CONCRETE,
     Texture.PAVING, Texture.ASPHALT, Texture.ASPHALT, Texture.GRASS], np.int64,
)  # fmt: skip


@dataclass(frozen=True)
class Path:
    """The ego lane's centre line, sampled every metre; straight beyond its ends.

    x, z: world metres; heading: radians clockwise from +z; s: metres.
    """

    s: NDArray[np.float64]
    x: NDArray[np.float64]
    z: NDArray[np.float64]
    heading: NDArray[np.float64]

    @staticmethod
    def random(length: float, bend: float, random: np.random.Generator) -> Path:
        """Draw a path whose curvature stays below about `bend` (1/metres)."""
        s = np.arange(-80.0, length + 1.0)
        curvature = np.zeros_like(s)
        for wave in (random.uniform(260, 600), random.uniform(120, 250)):
            curvature += (
                random.uniform(-0.6, 0.6)
                * bend
                * np.sin(2 * np.pi * s / wave + random.uniform(0, 6.3))
            )
        heading = np.cumsum(curvature)
        heading -= np.interp(0.0, s, heading)
        x, z = np.cumsum(np.sin(heading)), np.cumsum(np.cos(heading))
        x, z = x - np.interp(0.0, s, x), z - np.interp(0.0, s, z)
        tail = np.array([60.0, 200.0, 600.0, 3000.0])
        s = np.concatenate([s, s[-1] + tail])
        x = np.concatenate([x, x[-1] + tail * np.sin(heading[-1])])
        z = np.concatenate([z, z[-1] + tail * np.cos(heading[-1])])
        return Path(s, x, z, np.concatenate([heading, np.full(len(tail), heading[-1])]))

    def at(self, s: float, d: float) -> tuple[float, float, float]:
        """World x, z and the road's heading at road coordinates (s, d)."""
        place = s - float(self.s[0])
        if not 0.0 <= place < len(self.s) - 6:
            heading = float(np.interp(s, self.s, self.heading))
            x, z = float(np.interp(s, self.s, self.x)), float(np.interp(s, self.s, self.z))
        else:  # One sample a metre: much faster than three searches.
            first = int(place)
            part = place - first
            x, z, heading = (
                float(values[first]) * (1 - part) + float(values[first + 1]) * part
                for values in (self.x, self.z, self.heading)
            )
        return x + d * math.cos(heading), z - d * math.sin(heading), heading


@dataclass
class Ground:
    """Cross-section of the road and what is painted on it.

    strips: (low d, high d, zone), later ones win. lines: (d, width, kind), kind one of 'solid',
    'dashed', 'yellow'. crossings: (start s, end s) of side streets. bays: (low d, high d, period)
    of parking bays. zebra: crossings have a pedestrian crossing before them.
    """

    outside: Zone = Zone.GRASS
    strips: list[tuple[float, float, Zone]] = field(default_factory=list)
    lines: list[tuple[float, float, str]] = field(default_factory=list)
    crossings: list[tuple[float, float]] = field(default_factory=list)
    bays: list[tuple[float, float, float]] = field(default_factory=list)
    zebra: bool = False
    road: tuple[float, float] = (-2.0, 2.0)
    """Lowest and highest d of the carriageway."""
    dash: tuple[float, float] = (3.0, 9.0)
    colours: dict[Zone, Colour] = field(default_factory=dict)

    REACH = 80.0
    STEP = 0.02

    def zone_table(self) -> NDArray[np.uint8]:
        """Zone by d: uint8 [8000], 2 cm steps from -80 m to 80 m."""
        table = np.full(int(2 * self.REACH / self.STEP), int(self.outside), np.uint8)
        for low, high, zone in self.strips:
            first, last = (round((d + self.REACH) / self.STEP) for d in (low, high))
            table[max(first, 0) : max(last, 0)] = int(zone)
        return table

    def line_tables(self) -> dict[str, NDArray[np.float32]]:
        """Running integral of paint by d: a kind float32 [8001], metres; 'solid' is always there.

        The difference over a pixel's footprint is the painted part of it.
        """
        tables = {
            kind: np.zeros(int(2 * self.REACH / self.STEP) + 1, np.float32)
            for kind in ('solid', *(kind for _, _, kind in self.lines))
        }
        for d, width, kind in self.lines:
            first, last = (
                round((e + self.REACH) / self.STEP) for e in (d - width / 2, d + width / 2)
            )
            tables[kind][first + 1 : last + 1] = self.STEP
        return {kind: np.cumsum(table, dtype=np.float32) for kind, table in tables.items()}
