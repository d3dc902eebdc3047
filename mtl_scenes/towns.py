# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Built-up scenes: a city street and a residential street."""

from __future__ import annotations

import numpy as np

from mtl_scenes import scenery, vehicles
from mtl_scenes.layout import Zone
from mtl_scenes.mesh import Colour
from mtl_scenes.roadside import (
    WALLS,
    crossings,
    lamp_row,
    lanes,
    near_crossing,
    parked,
    people,
    plants,
    sign_posts,
    town_houses,
    traffic,
)
from mtl_scenes.textures import Texture
from mtl_scenes.world import World

ROOFS: tuple[Colour, ...] = ((0.32, 0.13, 0.09), (0.2, 0.2, 0.22), (0.3, 0.22, 0.17))


def city_street(world: World) -> None:
    """Adjoining houses, kerbs, parking lanes, traffic lights, sometimes a tram."""
    random, ground = world.random, world.ground
    queue = world.ego_speed == 0.0
    width = float(random.uniform(3.0, 3.5))
    right, left = ((0, 0), (1, 0), (0, 1), (1, 1), (0, 0))[int(random.integers(5))]
    oncoming = int(random.integers(1, 3)) if random.uniform() < 0.85 else 0
    tram = oncoming > 0 and random.uniform() < 0.25
    median = 3.4 if tram else 0.0
    low, high = lanes(world, width, right, left, oncoming, median)
    edge_left = -width / 2 - left * width
    if tram:
        ground.strips.append((edge_left - median, edge_left, Zone.TRACK))
        ground.lines += [(edge_left - median / 2 + e, 0.08, 'solid') for e in (-0.72, 0.72)]
        for s in np.arange(random.uniform(15, 60), world.length + 300, 90):
            world.drive_actor(
                'train', float(s), edge_left - median / 2, -float(random.uniform(6, 9))
            )
    parking = random.uniform() < 0.7
    if parking:
        ground.strips += [(high, high + 2.2, Zone.ROAD), (low - 2.2, low, Zone.ROAD)]
        low, high = low - 2.2, high + 2.2
    ground.road = (low, high)
    walk = float(random.uniform(2.5, 5.0))
    ground.outside = Zone.SIDEWALK
    ground.strips += [(high, high + 0.25, Zone.KERB), (low - 0.25, low, Zone.KERB)]
    crossings(world, float(random.uniform(60, 110)), queue, random.uniform() < 0.8 or queue)
    if parking:
        parked(world, high - 1.05, 0.7, False)
        parked(world, low + 1.05, 0.7, True)
    tall = float(random.uniform(7, 26))
    for side, edge in ((1.0, high), (-1.0, -low)):
        town_houses(world, edge + walk, side, tall)
        if random.uniform() < 0.75:
            inner, outer = sorted((side * (edge + 0.9), side * (edge + 1.3)))
            plants(world, inner, outer, float(random.uniform(9, 20)), 0.12)
        low_d, high_d = sorted((side * (edge + 0.8), side * (edge + walk - 0.6)))
        people(world, low_d, high_d, 0.05)
        if random.uniform() < 0.4:
            s = float(random.uniform(10, 40))
            for name in ('bicycle', 'bicycle', 'motorcycle'):
                mesh = vehicles.two_wheeler(name)
                world.put(
                    mesh, s, side * (edge + 0.8), 0.5, (world.pick(WALLS),), (name,), lights=False
                )
                s += float(random.uniform(1.0, 30))
    lamp_row(world, high + 0.6, -1.8, 27.0, 7.5)
    sign_posts(world, high + 0.5, 32.0)
    traffic(world, width, right, left, oncoming, median, 16.0)
    lane_edge = width / 2 + right * width
    for _ in range(int(random.integers(0, 4)) + int(world.length > 300)):
        world.rider(
            str(random.choice(['bicycle', 'bicycle', 'motorcycle'])),
            float(random.uniform(9, 70)),
            lane_edge - 0.35 if right else lane_edge + 0.35,
            float(random.uniform(0.8, 1.1)) * world.ego_speed,
        )
    for _ in range(int(random.integers(0, 3))):
        if oncoming:
            world.rider(
                'motorcycle',
                float(random.uniform(20, 90)),
                low + 2.4 * parking + 0.5,
                -float(random.uniform(5, 8)),
            )


def residential(world: World) -> None:
    """Detached houses behind fences, hedges and lawns."""
    random, ground = world.random, world.ground
    width = float(random.uniform(3.0, 3.6))
    low, high = lanes(world, width, 0, 0, 1)
    if random.uniform() < 0.4:
        ground.lines.clear()
    ground.strips += [(high, high + 2.1, Zone.ROAD), (low - 2.1, low, Zone.ROAD)]
    low, high = low - 2.1, high + 2.1
    ground.road = (low, high)
    verge, walk = float(random.uniform(0.0, 1.6)), float(random.uniform(1.4, 2.2))
    for side, edge in ((1.0, high), (-1.0, -low)):
        for a, b, zone in ((0.0, 0.2, Zone.KERB), (0.2 + verge, 0.2 + verge + walk, Zone.SIDEWALK)):
            first, last = sorted((side * (edge + a), side * (edge + b)))
            ground.strips.append((first, last, zone))
    crossings(world, float(random.uniform(70, 130)), False, False)
    parked(world, high - 1.0, 0.45, False)
    parked(world, low + 1.0, 0.45, True)
    style = int(random.integers(3))
    for side, edge in ((1.0, high), (-1.0, -low)):
        line = edge + 0.2 + verge + walk
        s = -12.0
        while s < world.length:
            lot = float(random.integers(13, 20))
            if not near_crossing(world, s + lot / 2, lot / 2):
                mesh = scenery.house(
                    lot * 0.62, float(random.choice([7.5, 9.5])), float(random.choice([3.0, 5.6]))
                )
                paints = (world.pick((*WALLS, (0.8, 0.78, 0.72))), world.pick(ROOFS))
                setback = line + float(random.uniform(3.5, 6.5))
                world.put(
                    mesh, s + lot / 2, side * setback, side * np.pi / 2, paints, order='facade'
                )
                kind = style if random.uniform() < 0.6 else int(random.integers(4))
                piece = lot - 4.0
                if kind == 0:
                    mesh = scenery.barrier('fence', piece, 1.05, Texture.PICKETS, 0.06)
                    colour: Colour = (0.8, 0.79, 0.76)
                elif kind == 1:
                    mesh = scenery.barrier('vegetation', piece, 1.2, Texture.FOLIAGE, 0.7)
                    colour = (0.18, 0.30, 0.11)
                elif kind == 2:
                    mesh = scenery.barrier('wall', piece, 0.9, Texture.BRICK, 0.3)
                    colour = world.pick(WALLS)
                if kind < 3:
                    world.put(
                        mesh, s + lot / 2 + 2.0, side * (line + 0.5), 0.0, (colour,), order='centre'
                    )
                if random.uniform() < 0.35:
                    car, paint, name = world.vehicle(str(random.choice(['sedan', 'suv'])))
                    world.put(
                        car,
                        s + 2.0,
                        side * (line + 3.6),
                        side * np.pi / 2,
                        paint,
                        (name,),
                        lights=False,
                    )
            s += lot
        first, last = sorted((side * (line + 1.5), side * (line + 3.5)))
        plants(world, first, last, 11.0, 0.35)
        first, last = sorted((side * (line + 16), side * (line + 26)))
        plants(world, first, last, 7.0, 0.0)
        if verge > 0.9:
            plants(world, side * (edge + 0.8), side * (edge + 0.8) + 0.01, 17.0, 0.0)
        middle = side * (edge + 0.2 + verge + walk / 2)
        people(world, middle - 0.3, middle + 0.3, 0.018)
    lamp_row(world, high + 0.45, -1.2, 38.0, 6.0)
    sign_posts(world, high + 0.5, 45.0)
    traffic(world, width, 0, 0, 1, 0.0, 60.0, truck=0.06)
    if random.uniform() < 0.6:
        world.rider(
            'bicycle',
            float(random.uniform(9, 40)),
            width / 2 + 0.4,
            world.ego_speed * float(random.uniform(0.75, 1.0)),
        )
