# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Scenes that are no ordinary street: highway, tunnel, parking lot, gas station."""

from __future__ import annotations

import numpy as np

from mtl_scenes import furniture, scenery
from mtl_scenes.layout import Zone
from mtl_scenes.mesh import Colour
from mtl_scenes.roadside import (
    WALLS,
    lamp_row,
    lanes,
    people,
    plants,
    sign_posts,
    town_houses,
    traffic,
    walls,
)
from mtl_scenes.textures import Texture
from mtl_scenes.world import World


def highway(world: World) -> None:
    """Several lanes each way, a median with a barrier, verges, gantries."""
    random, ground = world.random, world.ground
    width = 3.7
    count = int(random.integers(2, 5))
    right = int(random.integers(0, count))
    left = count - 1 - right
    median = float(random.uniform(2.5, 9.0))
    low, high = lanes(world, width, right, left, count, median, 2.6)
    ground.dash = (4.5, 12.0)
    edge = -width / 2 - left * width
    ground.lines += [(high - 2.5, 0.18, 'solid')]
    ground.strips.append((edge - median + 1.0, edge - 1.0, Zone.GRASS))
    concrete = median < 4.5
    colour = (0.6, 0.6, 0.58) if concrete else (0.55, 0.57, 0.58)
    fence = random.uniform() < 0.7
    noise_wall = random.uniform() < 0.35
    wall_colour = world.pick(WALLS)
    for s in np.arange(-16, world.length, 8.0):
        s = float(s)
        if concrete:
            mesh = scenery.barrier('wall', 8.05, 0.95, Texture.CONCRETE, 0.4)
        else:
            mesh = scenery.barrier('fence', 8.05, 0.85, Texture.RAILS, 0.12, 0.5)
        world.put(mesh, s, edge - median / 2, 0.0, (colour,), order='centre')
        if fence:
            rail = scenery.barrier('fence', 8.05, 0.85, Texture.RAILS, 0.12, 0.5)
            world.put(rail, s, high + 0.6, 0.0, ((0.55, 0.57, 0.58),), order='centre')
        if noise_wall:
            tall = scenery.barrier('wall', 8.05, 3.6, Texture.CONCRETE, 0.3)
            world.put(tall, s, high + 5.0, 0.0, (wall_colour,), order='centre')
    plants(world, high + 6.5, high + 22, 7.0, 0.25)
    plants(world, high + 14, high + 50, 5.0, 0.0)
    plants(world, low - 25, low - 5, 6.0, 0.25)
    if median > 6:
        plants(world, edge - median / 2 - 1.0, edge - median / 2 - 0.8, 9.0, 1.0)
    for s in np.arange(random.uniform(40, 120), world.length, 170):
        middle, reach = (edge + high) / 2 - 0.3, (high - edge) / 2 + 0.9
        world.put(
            furniture.gantry(round(reach, 1)),
            float(s),
            middle,
            0.0,
            (),
            ('', 'traffic sign', 'traffic sign'),
        )
    for s in np.arange(10, world.length, 50):
        world.put(furniture.post(1.1, 0.12), float(s), high + 1.2)
    sign_posts(world, high + 1.6, 80.0)
    if random.uniform() < 0.5:
        lamp_row(world, high + 1.4, -2.2, 45.0, 10.0)
    for _ in range(int(random.integers(1, 5))):
        mesh = scenery.building(
            float(2 * random.integers(7, 13)),
            14.0,
            float(3 * random.integers(3, 9)),
            Texture.OFFICE,
            False,
        )
        side = float(random.choice([-1, 1]))
        world.put(
            mesh,
            float(random.uniform(60, world.length)),
            side * float(random.uniform(60, 75)),
            side * np.pi / 2,
            walls(world),
            shadow=False,
            order='facade',
        )
    traffic(world, width, right, left, count, median, 22.0, truck=0.25)


def tunnel(world: World) -> None:
    """Walls, a ceiling and lamps; the way out is always in sight ahead."""
    random, ground = world.random, world.ground
    width = 3.6
    right = int(random.integers(0, 2))
    oncoming = int(random.uniform() < 0.4)
    low, high = lanes(world, width, right, 1 - right, oncoming)
    ground.strips += [(high, high + 1.0, Zone.KERB), (low - 1.0, low, Zone.KERB)]
    ground.outside = Zone.GRASS
    outside = world.length - world.sight + float(random.uniform(50, 140))
    world.tunnel = (-60.0, outside)
    height = float(random.choice([5.0, 5.5, 6.0]))
    tint = world.pick(((0.55, 0.53, 0.48), (0.5, 0.5, 0.5), (0.6, 0.5, 0.36)))
    stripe = world.pick(((0.6, 0.6, 0.58), (0.25, 0.35, 0.45), (0.5, 0.2, 0.12)))
    warm: Colour = (1.5, 1.15, 0.6) if random.uniform() < 0.5 else (1.3, 1.35, 1.25)
    middle, reach = (low + high) / 2, (high - low) / 2 + 1.0
    lamp_shade: Colour = (0.9, 0.9, 0.85)
    piece = 8.0
    for s in np.arange(-16.0, outside, piece):
        s = float(s)
        for d in (low - 1.15, high + 1.15):
            world.put(
                scenery.barrier('wall', piece + 0.05, height, Texture.CONCRETE, 0.3),
                s,
                d,
                0.0,
                (tint,),
                shadow=False,
                order='end',
            )
            inner = d + (0.17 if d < 0 else -0.17)
            world.put(
                scenery.barrier('wall', piece + 0.05, 1.3, Texture.PLAIN, 0.04),
                s,
                inner,
                0.0,
                (stripe,),
                shadow=False,
                nearer=0.4,
                order='end',
            )
            world.put(
                scenery.slab('wall', (-0.03, 0.03), (3.4, 3.6), (-1.2, 1.2), warm, Texture.PLAIN),
                s,
                inner,
                0.0,
                (lamp_shade,),
                shadow=False,
                nearer=0.6,
            )
        half = (piece + 0.05) / 2
        world.put(
            scenery.slab(
                'building', (-reach - 0.3, reach + 0.3), (height, height + 0.6), (-half, half)
            ),
            s,
            middle,
            0.0,
            (tint,),
            shadow=False,
            nearer=-9.0,
        )
        for d in (middle - 0.55 * reach, middle + 0.55 * reach):
            world.put(
                scenery.slab(
                    'building',
                    (-0.15, 0.15),
                    (height - 0.15, height - 0.02),
                    (-1.6, 1.6),
                    warm,
                    Texture.PLAIN,
                ),
                s,
                d,
                0.0,
                (lamp_shade,),
                shadow=False,
            )
        if int(s) % 24 == 0:
            sign = furniture.traffic_sign('parking' if int(s) % 48 else 'limit')
            world.put(sign, s, high + 0.75, 0.0, (), ('', 'traffic sign'), shadow=False)
    portal = scenery.slab(
        'wall', (-reach - 7, reach + 7), (height + 0.6, height + 2.6), (-0.4, 0.4)
    )
    world.put(portal, outside, middle, 0.0, (tint,), shadow=False)
    plants(world, high + 7, high + 24, 5.0, 0.2)
    plants(world, low - 24, low - 7, 5.0, 0.2)
    world.things = [t for t in world.things if not (t.billboard and t.s < outside + 4)]
    traffic(world, width, right, 1 - right, oncoming, 0.0, 26.0, truck=0.2)


def parking_lot(world: World) -> None:
    """An aisle between rows of parked vehicles, shops around."""
    random, ground = world.random, world.ground
    aisle = float(random.uniform(3.0, 3.6))
    ground.outside = Zone.FORECOURT
    ground.strips.append((-aisle, aisle, Zone.OWN))
    ground.road = (-aisle, aisle)
    rows = [(aisle, 1.0), (-aisle - 5.0, -1.0)]
    second = aisle + 5.0
    rows += [(second, -1.0), (-second - 5.0, 1.0), (second + 11.5, 1.0), (-second - 16.5, -1.0)]
    period = 2.7
    for low, face in rows:
        ground.bays.append((low, low + 5.0, period))
        busy = float(random.uniform(0.35, 0.85))
        for s in np.arange(-8 * period, world.length * 0.75, period):
            if random.uniform() > busy:
                continue
            mesh, paints, name = world.vehicle(world.any_vehicle(0.03, 0.0))
            if name == 'truck':
                continue
            nose = face * np.pi / 2 + (np.pi if random.uniform() < 0.3 else 0.0)
            world.put(
                mesh,
                float(s) + period / 2,
                low + 2.5 + float(random.uniform(-0.2, 0.2)),
                nose,
                paints,
                (name,),
                lights=False,
            )
    for s in np.arange(12, world.length, 21.0):
        for side in (-1.0, 1.0):
            if random.uniform() < 0.6:
                ground_d = side * (second + 0.1)
                lamp = world.put(furniture.street_lamp(8.0, 1.5), float(s), ground_d)
                lamp.lamp = (1.5, 9.0)
            else:
                world.put(
                    scenery.tree(int(random.integers(12))), float(s), side * second, billboard=True
                )
    for side in (-1.0, 1.0):
        mesh = scenery.building(24.0, 20.0, float(random.choice([6, 8, 10])), Texture.OFFICE, True)
        paint = walls(world)
        for s in np.arange(0, world.length, 40.0):
            if random.uniform() < 0.75:
                world.put(
                    mesh,
                    float(s),
                    side * (second + 30),
                    side * np.pi / 2,
                    paint,
                    shadow=False,
                    order='facade',
                )
        first, last = sorted((side * (second + 22), side * (second + 27)))
        plants(world, first, last, 12.0, 0.3)
    sign_posts(world, aisle + 5.1, 30.0)
    world.put(
        scenery.building(50.0, 20.0, 9.0, Texture.OFFICE, True),
        world.length - 90,
        0.0,
        0.0,
        walls(world),
        shadow=False,
        order='facade',
    )
    people(world, -aisle + 0.3, aisle - 0.2, 0.012)
    people(world, -second, second, 0.025)
    if random.uniform() < 0.5:
        world.drive_actor('suv', 60.0, -aisle / 2, -2.0)
    if random.uniform() < 0.5:
        world.drive_actor('sedan', float(random.uniform(12, 25)), 0.6, world.ego_speed)


def _pump_islands(world: World, s: float, height: float, brand: Colour) -> None:
    """Put two pumps with their canopy post, lamp and perhaps customers at s."""
    random = world.random
    lamp = scenery.slab(
        'building',
        (3.0, 9.0),
        (height - 0.06, height - 0.01),
        (-0.6, 0.6),
        (1.4, 1.4, 1.3),
        Texture.PLAIN,
    )
    thing = world.put(lamp, s, 2.2, 0.0, ((0.95, 0.95, 0.92),), shadow=False, nearer=0.1)
    thing.lamp = (6.0, 9.0)
    for island in (3.6, 10.0):
        pump = scenery.slab(
            'building', (-0.4, 0.4), (0.0, 1.9), (-0.45, 0.45), (0.1, 0.1, 0.1), Texture.PLAIN
        )
        face = scenery.slab(
            'building', (-0.42, 0.42), (0.9, 1.6), (-0.3, 0.3), (0.25, 0.25, 0.25), Texture.PLAIN
        )
        world.put(pump, s + 1.6, island, 0.0, (brand,))
        world.put(face, s + 1.6, island, 0.0, ((0.85, 0.85, 0.85),), nearer=0.05, shadow=False)
        world.put(furniture.post(height, 0.35), s, island)
        for side in (-1.9, 1.9):
            if random.uniform() < 0.4 and island + side > 3.6:
                mesh, paints, name = world.vehicle(world.any_vehicle(0.0, 0.0))
                world.put(mesh, s + 1.6, island + side, 0.0, paints, (name,), lights=False)
                if random.uniform() < 0.5:
                    world.walker(s + 2.8, island + side * 0.45, 0.0)


def gas_station(world: World) -> None:
    """A forecourt with pumps under a canopy, beside a street."""
    random, ground = world.random, world.ground
    ground.outside = Zone.GRASS
    width = 3.6
    brand = world.pick(((0.75, 0.1, 0.08), (0.05, 0.4, 0.25), (0.1, 0.25, 0.6), (0.9, 0.65, 0.05)))
    ground.strips += [
        (-24, -16.5, Zone.SIDEWALK),
        (-15.5, -8.5, Zone.ROAD),
        (-16.5, -15.5, Zone.KERB),
        (-8.5, -5.5, Zone.SIDEWALK),
        (-5.5, 24.0, Zone.FORECOURT),
        (-width / 2, width / 2, Zone.OWN),
    ]
    ground.lines.append((-12.0, 0.12, 'yellow'))
    ground.road = (-5.5, 24.0)
    first = float(random.uniform(10, 16))
    for start in np.arange(first, world.length - 20, 75.0):
        start = float(start)
        size = float(random.choice([18, 22, 26]))
        height = float(random.choice([4.6, 5.0, 5.4]))
        low = 1.6
        pale: Colour = (0.9, 0.9, 0.88)
        shine = (brand[0] * 0.5, brand[1] * 0.5, brand[2] * 0.5)
        roof = scenery.slab(
            'building', (0.0, 12.5), (height, height + 1.0), (0.0, size), texture=Texture.PLAIN
        )
        world.put(roof, start, low, 0.0, (pale,))
        band = scenery.slab(
            'building',
            (-0.03, 12.53),
            (height + 0.3, height + 0.85),
            (-0.03, size + 0.03),
            shine,
            Texture.PLAIN,
        )
        world.put(band, start, low, 0.0, (brand,), shadow=False, nearer=0.05)
        for s in np.arange(start + 2.0, start + size - 1, 6.5):
            _pump_islands(world, float(s), height, brand)
        shop = scenery.building(18.0, 9.0, 4.2, Texture.FLATS, True)
        world.put(shop, start + size / 2, 18.5, np.pi / 2, (pale, (0.78, 0.77, 0.74)))
        pole = start - 3.0
        world.put(furniture.post(6.5, 0.3), pole, 4.6)
        for row, colour in enumerate((brand, (0.92, 0.92, 0.9), (0.12, 0.12, 0.13))):
            board = scenery.slab(
                'building',
                (-1.1, 1.1),
                (6.4 - 1.1 * row, 7.5 - 1.1 * row),
                (-0.2, 0.2),
                (0.5 * colour[0], 0.5 * colour[1], 0.5 * colour[2]),
                Texture.PLAIN,
            )
            world.put(board, pole, 4.6, 0.0, (colour,))
    plants(world, 26, 40, 6.0, 0.3)
    plants(world, -34, -25, 6.0, 0.2)
    town_houses(world, 27.0, -1.0, 9.0)
    people(world, -8.0, -6.0, 0.02)
    people(world, 14.0, 17.5, 0.02)
    lamp_row(world, -7.0, -2.0, 30.0, 8.0)
    sign_posts(world, 2.6, 40.0)
    if random.uniform() < 0.5:
        world.drive_actor('sedan', float(random.uniform(14, 30)), 0.0, world.ego_speed)
    for s in np.arange(0, world.length, 24.0):
        world.drive_actor(world.any_vehicle(), float(s), -10.2, 9.0)
        world.drive_actor(world.any_vehicle(), float(s) + 9, -13.8, -9.0)
