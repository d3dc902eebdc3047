# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What every street is made of: lanes, traffic, houses, plants, lamps, signs, people.

d: metres to the right of the ego lane's centre; low and high: the lesser and the greater d.
"""

from __future__ import annotations

import numpy as np

from mtl_scenes import furniture, scenery
from mtl_scenes.layout import Zone
from mtl_scenes.mesh import Colour
from mtl_scenes.textures import Texture
from mtl_scenes.world import World

WALLS: tuple[Colour, ...] = (
    (0.62, 0.55, 0.45), (0.48, 0.26, 0.19), (0.66, 0.64, 0.60), (0.40, 0.40, 0.42),
    (0.58, 0.44, 0.34), (0.70, 0.66, 0.52), (0.36, 0.42, 0.46), (0.55, 0.34, 0.27),
    (0.68, 0.58, 0.56), (0.50, 0.55, 0.50),
)  # fmt: skip
SIGNS = ('limit', 'stop', 'no entry', 'warning', 'diamond', 'panel', 'parking')


def lanes(
    world: World,
    width: float,
    right: int,
    left: int,
    oncoming: int,
    median: float = 0.0,
    shoulder: float = 0.0,
) -> tuple[float, float]:
    """Lay lanes beside the ego lane; return the d of the carriageway's left and right edge."""
    ground = world.ground
    half = width / 2
    high, low = half + right * width, -half - left * width
    far = low - median - oncoming * width
    ground.strips += [
        (far - shoulder, low, Zone.ROAD),
        (low - shoulder * 0.4, high + shoulder, Zone.ROAD),
    ]
    ground.strips += [(low, high, Zone.OTHER_LANE), (-half, half, Zone.OWN)]
    if right or left:
        for index in range(-left, right + 2):
            d = -half + index * width
            edge = index in (-left, right + 1)
            if not edge:
                ground.lines.append((d, 0.14, 'dashed'))
    ground.lines.append((high - 0.02, 0.14, 'solid'))
    if oncoming:
        if median == 0:
            double = world.random.uniform() < 0.6
            for d in (low - 0.12, low + 0.12) if double else (low,):
                ground.lines.append((d, 0.12, 'yellow' if double else 'dashed'))
        else:
            ground.lines += [(low + 0.05, 0.14, 'yellow'), (low - median, 0.14, 'yellow')]
        for index in range(1, oncoming):
            ground.lines.append((low - median - index * width, 0.14, 'dashed'))
        ground.lines.append((far, 0.14, 'solid'))
    ground.road = (far - shoulder, high + shoulder)
    return ground.road


def traffic(
    world: World,
    width: float,
    right: int,
    left: int,
    oncoming: int,
    median: float,
    gap: float,
    truck: float = 0.1,
    speed: float | None = None,
) -> None:
    """Fill the lanes with traffic that keeps its distance within each lane."""
    random = world.random
    duration = world.config.frames / world.config.rate_hz
    pace = world.ego_speed if speed is None else speed
    standing = pace == 0.0
    for lane in range(-left - oncoming, right + 1):
        same = lane >= -left
        d = lane * width - (0.0 if same else median)
        factor = 1.0 if lane == 0 else float(random.uniform(0.88, 1.12))
        own = pace * factor
        if not same:
            own = -float(random.uniform(0.85, 1.1)) * max(pace, 8.0)
        if lane == 0:
            s = world.ego_start + (
                float(random.uniform(9, 14))
                if standing
                else float(random.uniform(10, 45)) + 0.4 * pace
            )
        else:
            s = float(random.uniform(-20, 15))
        first, last = s, world.length
        if not same:
            first, last = s, world.length + abs(own) * duration
        elif own < world.ego_speed:
            first = s
        else:
            first = s - (own - world.ego_speed) * duration
        if lane == 0:
            first = s
        s = first
        while s < last:
            world.drive_actor(
                world.any_vehicle(truck, 0.05),
                s,
                d + float(random.uniform(-0.2, 0.2)),
                own,
                0.0 if standing and same else 1.2,
            )
            if standing and same:
                s += float(random.uniform(15.5, 18))
                if s > 55:
                    break
            else:
                s += 16.0 + float(random.exponential(gap))


def lamp_row(world: World, d: float, arm: float, step: float, height: float) -> None:
    """Line d with street lamps every `step` metres."""
    for s in np.arange(world.random.uniform(-20, step), world.length, step):
        mesh = furniture.street_lamp(height, arm)
        thing = world.put(mesh, float(s), d)
        thing.lamp = (arm, height * 1.1)


def walls(world: World) -> tuple[Colour, Colour]:
    """Draw the paints of a building: walls, and ledges a little paler."""
    wall = world.pick(WALLS)
    pale = tuple(min(1.0, part * 1.18 + 0.04) for part in wall)
    return wall, (pale[0], pale[1], pale[2])


def near_crossing(world: World, s: float, margin: float) -> bool:
    """Say whether s is within `margin` metres of a side street."""
    return any(a - margin < s < b + margin for a, b in world.ground.crossings)


def people(world: World, low: float, high: float, density: float) -> None:
    """Put walkers between low and high d, about `density` a metre of road."""
    random = world.random
    for _ in range(int(world.length * density * random.uniform(0.4, 1.6))):
        s = float(random.uniform(4, world.length))
        speed = float(random.choice([-1.3, -1.1, 0.0, 1.0, 1.3]))
        world.walker(s, float(random.uniform(low, high)), speed)


def parked(world: World, d: float, chance: float, backwards: bool) -> None:
    """Park vehicles along d; chance: of each place to be taken."""
    s = float(world.random.uniform(-12, -4))
    while s < world.length:
        if world.random.uniform() < chance and not near_crossing(world, s, 7.0):
            mesh, paints, name = world.vehicle(world.any_vehicle(0.04, 0.0))
            world.put(
                mesh,
                s,
                d + float(world.random.uniform(-0.1, 0.1)),
                np.pi if backwards else 0.0,
                paints,
                (name,),
                lights=False,
            )
        s += float(world.random.uniform(6.2, 8.0))


def town_houses(world: World, d: float, side: float, tall: float) -> None:
    """Line one side with adjoining buildings; d: distance of the façades."""
    random = world.random
    s = -15.0
    while s < world.length:
        length = float(2 * random.integers(5, 11))
        middle = s + length / 2
        if near_crossing(world, middle, length / 2 + 3.0):
            s += 3.0
            continue
        wall = Texture(int(random.choice([Texture.FLATS, Texture.FLATS, Texture.OFFICE])))
        mesh = scenery.building(
            length,
            11.0,
            float(round(float(random.uniform(0.5, 1.0)) * tall / 1.6) * 1.6 + 5.0),
            wall,
            bool(random.uniform() < 0.6),
        )
        setback = float(random.choice([0.0, 0.0, 0.4, 1.5]))
        world.put(
            mesh,
            middle,
            side * (d + setback),
            side * np.pi / 2,
            walls(world),
            shadow=False,
            order='facade',
        )
        s += length + (0.0 if random.uniform() < 0.75 else float(random.uniform(2, 8)))
    # What one sees through gaps and side streets.
    for s_far in np.arange(0, world.length, 34.0):
        height = float(round(float(random.uniform(0.6, 1.1)) * tall / 3) * 3 + 4)
        mesh = scenery.building(30.0, 8.0, height, Texture.FLATS, False)
        world.put(
            mesh,
            float(s_far),
            side * (d + 48.0),
            side * np.pi / 2,
            walls(world),
            shadow=False,
            order='facade',
        )


def plants(world: World, low: float, high: float, step: float, bushes: float = 0.3) -> None:
    """Plant trees, and bushes with probability `bushes`, about every `step` metres."""
    random = world.random
    s = float(random.uniform(-10, 0))
    kinds = random.integers(0, 16, 4)
    while s < world.length:
        d = float(random.uniform(low, high))
        if not near_crossing(world, s, 4.0):
            if random.uniform() < bushes:
                world.put(scenery.bush(int(random.integers(6))), s, d, billboard=True)
            else:
                world.put(scenery.tree(int(random.choice(kinds))), s, d, billboard=True)
        s += float(random.uniform(0.5, 1.5)) * step


def sign_posts(world: World, d: float, step: float) -> None:
    """Put up traffic signs along d, about every `step` metres."""
    s = float(world.random.uniform(8, 30))
    while s < world.length:
        if not near_crossing(world, s, 1.0):
            mesh = furniture.traffic_sign(str(world.random.choice(SIGNS)))
            world.put(mesh, s, d, float(world.random.uniform(-0.15, 0.1)), (), ('', 'traffic sign'))
        s += step * float(world.random.uniform(0.5, 1.5))


def crossings(world: World, step: float, queue: bool, lights: bool) -> None:
    """Cut side streets every `step` metres, with traffic lights where wanted."""
    random, ground = world.random, world.ground
    s = 19.0 if queue else float(random.uniform(25, 25 + step))
    while s < world.length:
        width = float(random.uniform(8, 13))
        ground.crossings.append((s, s + width))
        s += step * float(random.uniform(0.8, 1.4))
    ground.zebra = lights or bool(random.uniform() < 0.5)
    low, high = ground.road
    state = 'red' if queue else str(random.choice(['green', 'green', 'yellow', 'red']))
    if lights:
        for start, end in ground.crossings:
            names = ('', 'traffic light', 'traffic light')
            world.put(furniture.traffic_light(state, -3.6), start - 1.0, high + 0.7, 0.0, (), names)
            world.put(furniture.traffic_light(state, 0.0), end + 1.0, low - 0.7, 0.0, (), names[:2])
    first = ground.crossings[0] if ground.crossings else (1e9, 1e9)
    if queue:
        for _ in range(int(random.integers(1, 6))):
            d = float(random.uniform(low, high))
            world.walker(
                first[0] - float(random.uniform(1.8, 4.2)),
                d,
                0.0,
                float(random.choice([-1.2, 1.2])),
            )
