# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""A world: the road, what stands along it, who moves on it, and how the ego vehicle drives."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mtl_perception import tasks
from mtl_scenes import people, vehicles
from mtl_scenes.config import DriveConfig
from mtl_scenes.layout import Ground, Path
from mtl_scenes.mesh import DETECTION_ID, Colour, Mesh, Thing

PAINTS: tuple[Colour, ...] = (
    (0.78, 0.79, 0.80), (0.62, 0.64, 0.66), (0.12, 0.12, 0.13), (0.25, 0.27, 0.29),
    (0.05, 0.06, 0.08), (0.45, 0.05, 0.05), (0.08, 0.17, 0.40), (0.15, 0.30, 0.48),
    (0.70, 0.66, 0.56), (0.10, 0.28, 0.20), (0.75, 0.45, 0.08), (0.36, 0.28, 0.22),
    (0.85, 0.85, 0.84), (0.82, 0.70, 0.12), (0.30, 0.08, 0.12), (0.42, 0.47, 0.50),
)  # fmt: skip
CLOTHES: tuple[Colour, ...] = (
    (0.10, 0.12, 0.20), (0.55, 0.10, 0.10), (0.15, 0.30, 0.50), (0.70, 0.70, 0.68),
    (0.20, 0.20, 0.20), (0.35, 0.40, 0.22), (0.75, 0.55, 0.15), (0.45, 0.20, 0.42),
    (0.82, 0.40, 0.32), (0.18, 0.42, 0.42),
)  # fmt: skip
SKINS: tuple[Colour, ...] = ((0.78, 0.58, 0.46), (0.62, 0.42, 0.30), (0.36, 0.23, 0.16))
HAIRS: tuple[Colour, ...] = (
    (0.08, 0.06, 0.05),
    (0.25, 0.16, 0.09),
    (0.55, 0.42, 0.2),
    (0.4, 0.4, 0.4),
)


@dataclass(frozen=True)
class Camera:
    """Pinhole camera on the ego vehicle.

    focal, centre_x, centre_y: pixels; pitch: radians, positive looks down.
    """

    focal: float
    centre_x: float
    centre_y: float
    height_m: float
    pitch: float


@dataclass(frozen=True)
class Actor:
    """Something that moves along the road; its place is a pure function of time.

    s, d at time 0; speed along s, drift along d, in m/s; sway: amplitude (m) and rate (rad/s) of
    a slow oscillation along s. kind: a mesh family. person >= 0: build of a walking person.
    """

    mesh: Mesh
    s: float
    d: float
    speed: float
    track: int
    paints: tuple[Colour, ...]
    classes: tuple[int, ...]
    drift: float = 0.0
    sway: tuple[float, float] = (0.0, 0.0)
    person: int = -1
    seated: bool = False
    backwards: bool = False
    nearer: float = 0.0

    def place(self, path: Path, time_s: float) -> Thing:
        """Return the thing at this time."""
        s = self.s + self.speed * time_s
        s += self.sway[0] * float(np.sin(self.sway[1] * time_s + self.track))
        d = self.d + self.drift * time_s
        x, z, heading = path.at(s, d)
        mesh = self.mesh
        if self.person >= 0:
            pace = 3.2 if self.seated else 1.3
            walked = (abs(self.speed) + abs(self.drift)) * time_s / (pace if self.seated else 1.0)
            mesh = people.person(int(walked * 8 / pace + self.track) % 8, self.person, self.seated)
        return Thing(
            mesh,
            x,
            z,
            heading + (np.pi if self.backwards else 0.0),
            s,
            self.paints,
            self.classes,
            self.track,
            billboard=self.person >= 0,
            nearer=self.nearer,
        )


@dataclass
class World:
    """Everything of a drive that does not depend on the frame."""

    config: DriveConfig
    weather: str
    scene: str
    timeofday: str
    path: Path
    ground: Ground
    camera: Camera
    random: np.random.Generator
    length: float
    sight: float = 210.0
    """How far ahead the world is filled, metres."""
    ego_speed: float = 10.0
    ego_start: float = 0.0
    wander: tuple[float, float] = (0.1, 0.0)
    things: list[Thing] = field(default_factory=list)
    actors: list[Actor] = field(default_factory=list)
    sun: tuple[float, float] = (0.5, 0.8)
    """Azimuth (radians clockwise from +z) and elevation of the sun."""
    lamps_lit: bool = False
    tunnel: tuple[float, float] | None = None
    """Start and end s of a tunnel."""
    tracks: int = 0

    @cached_property
    def zone_table(self) -> NDArray[np.uint8]:
        """Zone by d, see Ground.zone_table."""
        return self.ground.zone_table()

    @cached_property
    def line_tables(self) -> dict[str, NDArray[np.float32]]:
        """Paint by d, see Ground.line_tables."""
        return self.ground.line_tables()

    @cached_property
    def crossing_table(self) -> NDArray[np.uint8]:
        """What a crossing makes of the road by s, in steps of 0.1 m from 0.

        0 nothing, 1 side street, 2 pedestrian crossing before it, 3 stop line.
        """
        table = np.zeros(int(self.length * 10) + 100, np.uint8)
        for first, last in self.ground.crossings:
            for low, high, code in (
                (first - 1.5, last + 0.5, 1),
                (first - 4.5, first - 1.2, 2),
                (first - 5.9, first - 5.4, 3),
            ):
                table[max(int(low * 10), 0) : max(int(high * 10), 0)] = code
        return table

    def next_track(self, slots: int = 1) -> int:
        """Reserve ids for the slots of one thing."""
        self.tracks += slots
        return self.tracks - slots + 1

    def ego(self, time_s: float) -> tuple[float, float, float, float]:
        """Ego pose at a time: world x, z, yaw, and s."""
        s = self.ego_start + self.ego_speed * time_s
        wave = 2 * np.pi * 0.07 * time_s + self.wander[1]
        x, z, heading = self.path.at(s, self.wander[0] * float(np.sin(wave)))
        steer = self.wander[0] * 0.44 * np.cos(wave) / max(self.ego_speed, 4.0)
        return x, z, heading + float(steer), s

    def put(
        self,
        mesh: Mesh,
        s: float,
        d: float,
        turn: float = 0.0,
        paints: tuple[Colour, ...] = (),
        names: tuple[str, ...] = (),
        **more: object,
    ) -> Thing:
        """Stand a thing at (s, d), turned by `turn` against the road; names: class a slot."""
        x, z, heading = self.path.at(s, d)
        thing = Thing(
            mesh,
            x,
            z,
            heading + turn,
            s,
            paints,
            tuple(DETECTION_ID.get(name, -1) for name in names),
            self.next_track(len(names)) if names else 0,
            **more,  # type: ignore[arg-type]
        )
        self.things.append(thing)
        return thing

    def pick(self, options: tuple[Colour, ...]) -> Colour:
        """Draw a colour and vary it a little."""
        base = np.array(options[int(self.random.integers(len(options)))])
        shade = np.clip(
            base * self.random.uniform(0.85, 1.15) + self.random.uniform(-0.02, 0.02, 3), 0.02, 0.95
        )
        return float(shade[0]), float(shade[1]), float(shade[2])

    def clothes(self) -> tuple[Colour, ...]:
        """Draw the four paints of a person."""
        return self.pick(CLOTHES), self.pick(CLOTHES), self.pick(SKINS), self.pick(HAIRS)

    def vehicle(self, kind: str) -> tuple[Mesh, tuple[Colour, ...], str]:
        """Return mesh, paints and class of a vehicle of this kind."""
        if kind in ('box', 'long'):
            load = self.pick(
                ((0.82, 0.82, 0.8), (0.7, 0.72, 0.75), (0.2, 0.3, 0.5), (0.75, 0.3, 0.1))
            )
            doors = (load[0] * 0.9, load[1] * 0.9, load[2] * 0.9)
            return vehicles.truck(kind), (self.pick(PAINTS), load, doors), 'truck'
        if kind in ('bus', 'train'):
            return (
                vehicles.coach(kind),
                (
                    self.pick(
                        (
                            (0.8, 0.65, 0.1),
                            (0.75, 0.12, 0.1),
                            (0.85, 0.85, 0.83),
                            (0.1, 0.35, 0.5),
                            (0.15, 0.45, 0.3),
                        )
                    ),
                    self.pick(PAINTS),
                ),
                kind,
            )
        return vehicles.car(kind), (self.pick(PAINTS),), 'car'

    def any_vehicle(self, truck: float = 0.1, bus: float = 0.06) -> str:
        """Draw a kind of vehicle; truck, bus: probabilities."""
        draw = self.random.uniform()
        if draw < truck:
            return str(self.random.choice(['box', 'box', 'long']))
        if draw < truck + bus:
            return 'bus'
        return str(self.random.choice(['sedan', 'sedan', 'hatchback', 'suv', 'suv', 'van']))

    def drive_actor(self, kind: str, s: float, d: float, speed: float, sway: float = 0.0) -> None:
        """Let a vehicle drive; negative speed: it comes towards the ego vehicle's direction."""
        mesh, paints, name = self.vehicle(kind)
        self.actors.append(
            Actor(
                mesh,
                s,
                d,
                speed,
                self.next_track(),
                paints,
                (DETECTION_ID[name],),
                sway=(sway, 0.25),
                backwards=speed < 0,
            )
        )

    def walker(self, s: float, d: float, speed: float, drift: float = 0.0) -> None:
        """Let a person walk."""
        self.actors.append(
            Actor(
                people.person(0, 0, False),
                s,
                d,
                speed,
                self.next_track(),
                self.clothes(),
                (DETECTION_ID['pedestrian'],),
                drift=drift,
                person=int(self.random.integers(3)),
            )
        )

    def rider(self, name: str, s: float, d: float, speed: float) -> None:
        """Let somebody ride a bicycle or a motorcycle: one actor the machine, one the rider."""
        machine = Actor(
            vehicles.two_wheeler(name),
            s,
            d,
            speed,
            self.next_track(),
            (self.pick(PAINTS),),
            (DETECTION_ID[name],),
            backwards=speed < 0,
        )
        clothes = self.clothes()
        helmet = self.pick(PAINTS)
        self.actors.append(machine)
        self.actors.append(
            replace(
                machine,
                track=self.next_track(),
                paints=(*clothes[:3], helmet),
                classes=(DETECTION_ID['rider'],),
                person=int(self.random.integers(2)),
                seated=True,
                backwards=False,
                nearer=0.5,
                mesh=people.person(0, 0, True),
            )
        )


def attributes(config: DriveConfig, random: np.random.Generator) -> tuple[str, str, str]:
    """Settle weather, scene and time of day; draws even what is given, so worlds stay alike."""
    weather = str(random.choice(tasks.WEATHER.classes, p=(0.16, 0.14, 0.24, 0.16, 0.16, 0.14)))
    scene = str(random.choice(tasks.SCENE.classes, p=(0.06, 0.2, 0.09, 0.38, 0.07, 0.2)))
    timeofday = str(random.choice(tasks.TIME_OF_DAY.classes, p=(0.6, 0.24, 0.16)))
    return config.weather or weather, config.scene or scene, config.timeofday or timeofday


def camera(config: DriveConfig, random: np.random.Generator) -> Camera:
    """Draw a camera: 45 to 75 degrees across, 1.2 to 1.75 m high, up to 4 degrees of pitch."""
    field_of_view = np.radians(random.uniform(45, 75))
    focal = config.width / 2 / np.tan(field_of_view / 2)
    return Camera(
        float(focal),
        (config.width - 1) / 2 + float(random.uniform(-0.01, 0.01)) * config.width,
        (config.height - 1) / 2 + float(random.uniform(-0.02, 0.02)) * config.height,
        float(random.uniform(1.2, 1.75)),
        float(np.radians(random.uniform(-1.0, 4.0))),
    )
