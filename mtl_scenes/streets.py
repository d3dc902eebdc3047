# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""From a configuration to a world: attributes, road, camera, and the function that fills it."""

from __future__ import annotations

import numpy as np

from mtl_scenes.config import DriveConfig
from mtl_scenes.layout import Ground, Path
from mtl_scenes.outskirts import gas_station, highway, parking_lot, tunnel
from mtl_scenes.towns import city_street, residential
from mtl_scenes.world import World, attributes, camera


def build(config: DriveConfig) -> World:
    """Build the world of a drive from its configuration alone."""
    random = np.random.default_rng([config.seed, 7])
    weather, scene, timeofday = attributes(config, random)
    speed, bend = {
        'city street': (random.uniform(6, 12), 0.006),
        'residential': (random.uniform(5, 9), 0.008),
        'highway': (random.uniform(22, 31), 0.002), 'tunnel': (random.uniform(13, 20), 0.002),
        'parking lot': (random.uniform(1.8, 3.5), 0.0),
        'gas stations': (random.uniform(2.5, 5), 0.002),
    }[scene]  # fmt: skip
    queue = scene == 'city street' and random.uniform() < 0.25
    if queue:
        speed = 0.0
    sight = 210.0 if scene in ('highway', 'tunnel') else 150.0
    length = speed * config.frames / config.rate_hz + sight
    world = World(
        config,
        weather,
        scene,
        timeofday,
        Path.random(length, bend, random),
        Ground(),
        camera(config, random),
        random,
        length,
        sight,
        ego_speed=float(speed),
        wander=(float(random.uniform(0.02, 0.25)), float(random.uniform(0, 6.28))),
        sun=(float(random.uniform(0, 2 * np.pi)), float(random.uniform(0.45, 1.2))),
    )
    world.lamps_lit = timeofday == 'night' or (timeofday == 'dawn/dusk' and random.uniform() < 0.7)
    if timeofday == 'dawn/dusk':
        world.sun = (float(random.uniform(-0.7, 0.7)), 0.12)
    {
        'city street': city_street,
        'residential': residential,
        'highway': highway,
        'tunnel': tunnel,
        'parking lot': parking_lot,
        'gas stations': gas_station,
    }[scene](world)
    return world
