# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""From a world and a time to an id buffer: projection, clipping, painting far to near.

Every pixel holds the row of the face it shows (0 sky, 1 ground). A face is a plane, so inverse
depth is linear in the pixel: all labels are exact look-ups, no approximation is involved.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mtl_scenes.instances import number_instances, tight_boxes
from mtl_scenes.layout import ZONE_DRIVABLE, ZONE_SEMANTIC
from mtl_scenes.mesh import SEMANTIC_ID, Thing
from mtl_scenes.world import Camera, World

NEAR = 0.2
FARTHEST = 1500.0
SUBPIXEL = 4
"""Fractional bits of the coordinates handed to OpenCV."""
SMALLEST_FACE_PX = 2.0
"""Faces that reach over less than this are details of larger ones and are left out."""
SMALLEST_THING_PX = 3.0
"""Things that are seen smaller than this are left out; a box needs 4 rows."""


@dataclass
class Rows:
    """What is known of the F drawn faces: row k of a table belongs to id k."""

    plane: NDArray[np.float32]
    limits: NDArray[np.float32]
    normals: NDArray[np.float32]
    texture_u: NDArray[np.float32]
    texture_v: NDArray[np.float32]
    colour: NDArray[np.float32]
    glow: NDArray[np.float32]
    texture: NDArray[np.int64]
    detail: NDArray[np.float32]
    semantic: NDArray[np.uint8]
    billboard: NDArray[np.bool_]
    upward: NDArray[np.float32]


@dataclass
class Raster:
    """Id buffer and everything looked up from it.

    ids: int16 [H, W, 2] (second channel 0, so that it is itself a map for cv2.remap).
    inverse_depth: float32 [H, W]. horizon: first row that shows ground. lateral, along: float32
    [H - horizon, W], road coordinates of the ground behind each pixel. metres_per_pixel:
    [H - horizon, 1], of the ground, across the view. ego: world x, z, yaw and s.
    """

    ids: NDArray[np.int16]
    rows: Rows
    inverse_depth: NDArray[np.float32]
    normals: NDArray[np.float32]
    semantic: NDArray[np.uint8]
    drivable: NDArray[np.uint8]
    zone: NDArray[np.uint8]
    horizon: int
    lateral: NDArray[np.float32]
    along: NDArray[np.float32]
    metres_per_pixel: NDArray[np.float32]
    forward: NDArray[np.float32]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    track_ids: NDArray[np.int64]
    shown: list[Thing]
    ego: tuple[float, float, float, float]


def look_up(table: NDArray, ids: NDArray[np.int16]) -> NDArray:
    """Gather rows of a table [F] or [F, up to 4 channels] by id: [H, W] or [H, W, channels]."""
    found: NDArray = cv2.remap(  # The second map is optional, other than the stubs say.
        np.ascontiguousarray(table)[None],
        ids,
        None,
        cv2.INTER_NEAREST,  # type: ignore[call-overload]
    )
    return found


def clip_near(points: NDArray[np.float64], near: float = NEAR) -> NDArray[np.float64]:
    """Cut a polygon [N, 3] in camera coordinates at z = near (Sutherland-Hodgman)."""
    kept = []
    previous = points[-1]
    for point in points:
        if (point[2] >= near) != (previous[2] >= near):
            part = (near - previous[2]) / (point[2] - previous[2])
            kept.append(previous + part * (point - previous))
        if point[2] >= near:
            kept.append(point)
        previous = point
    return np.array(kept).reshape(-1, 3)


def project(points: NDArray, camera: Camera) -> NDArray[np.int32]:
    """Project camera points [N, 3] to fixed-point pixels [N, 2] with SUBPIXEL fractional bits."""
    pixels = points[:, :2] * (camera.focal / points[:, 2:3]) + (camera.centre_x, camera.centre_y)
    return np.rint(np.clip(pixels, -1e6, 1e6) * (1 << SUBPIXEL)).astype(np.int32)


def _near_enough(
    world: World, time_s: float, ego: tuple[float, float, float, float]
) -> list[Thing]:
    x, z, yaw, s = ego
    things = [t for t in world.things if s - 30.0 < t.s < s + world.sight + 60.0]
    things += [
        actor.place(world.path, time_s)
        for actor in world.actors
        if s - 30.0 < actor.s + actor.speed * time_s < s + world.sight
    ]
    half_view = np.arctan(world.config.width / 2 / world.camera.focal) + 0.05
    sine, cosine = np.sin(yaw), np.cos(yaw)
    spread = np.tan(half_view)
    shown = []
    for thing in things:
        dx, dz = thing.x - x, thing.z - z
        ahead, aside = dx * sine + dz * cosine, abs(dx * cosine - dz * sine)
        low_x, high_x, low_z, high_z, high_y = thing.mesh.footprint.tolist()
        reach = max(-low_x, high_x) + max(-low_z, high_z)
        if max(reach, high_y) * world.camera.focal < SMALLEST_THING_PX * ahead:
            continue
        if ahead > -reach and aside - reach * 1.5 < max(ahead, 0.0) * spread + reach:
            shown.append(thing)
    return shown


def rasterise(world: World, time_s: float) -> Raster:
    """Render ids and labels of a moment."""
    config = world.config
    ego = world.ego(time_s)
    shown = _near_enough(world, time_s, ego)
    ids = np.zeros((config.height, config.width, 2), np.int16)
    horizon, forward, metres_per_pixel = _ground_rows(world)
    ids[horizon:, :, 0] = 1
    rows, instance, bounds, owners = _paint(world, ego, shown, ids)
    columns = np.arange(config.width, dtype=np.float32)[None]
    lines = np.arange(config.height, dtype=np.float32)[:, None]
    inverse = look_up(rows.plane[:, 0], ids)
    inverse *= columns
    inverse += look_up(rows.plane[:, 1], ids) * lines
    inverse += look_up(rows.plane[:, 2], ids)
    np.maximum(inverse, look_up(rows.limits[:, 0], ids), out=inverse)
    np.minimum(inverse, look_up(rows.limits[:, 1], ids), out=inverse)
    semantic = look_up(rows.semantic, ids)
    lateral, along = _road_coordinates(world, ego, forward, metres_per_pixel)
    zone = _zones(world, lateral, along)
    on_ground = ids[horizon:, :, 0] == 1
    np.copyto(semantic[horizon:], ZONE_SEMANTIC[zone], where=on_ground)
    drivable = np.full(semantic.shape, 2, np.uint8)
    np.copyto(drivable[horizon:], ZONE_DRIVABLE[zone], where=on_ground)
    boxes, labels, tracks = tight_boxes(look_up(instance, ids), bounds, owners)
    return Raster(
        ids,
        rows,
        inverse,
        look_up(rows.normals, ids),
        semantic,
        drivable,
        zone,
        horizon,
        lateral,
        along,
        metres_per_pixel,
        forward,
        boxes,
        labels,
        tracks,
        shown,
        ego,
    )


def _ground_rows(world: World) -> tuple[int, NDArray[np.float32], NDArray[np.float32]]:
    """First ground row, and for each from there on: metres ahead and metres a pixel is wide."""
    camera = world.camera
    tangent = (np.arange(world.config.height) - camera.centre_y) / camera.focal
    sine, cosine = np.sin(camera.pitch), np.cos(camera.pitch)
    down = tangent * cosine + sine
    first = int(np.searchsorted(down, camera.height_m / FARTHEST))
    depth = camera.height_m / down[first:]
    forward = depth * (cosine - tangent[first:] * sine)
    return (
        first,
        forward.astype(np.float32)[:, None],
        (depth / camera.focal).astype(np.float32)[:, None],
    )


def _road_coordinates(
    world: World,
    ego: tuple[float, float, float, float],
    forward: NDArray[np.float32],
    metres_per_pixel: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Lateral offset d and distance s along the road of the ground behind every pixel."""
    path = world.path
    x, z, yaw, s = ego
    some = slice(*np.searchsorted(path.s, (s - 25.0, s + 5000.0)))
    dx, dz = path.x[some] - x, path.z[some] - z
    ahead = dx * np.sin(yaw) + dz * np.cos(yaw)
    aside = dx * np.cos(yaw) - dz * np.sin(yaw)
    ahead = np.maximum.accumulate(ahead)
    centre = np.interp(forward, ahead, aside)
    along = np.interp(forward, ahead, path.s[some])
    turn = np.interp(forward, ahead, path.heading[some] - yaw)
    columns = np.arange(world.config.width) - world.camera.centre_x
    offset = columns[None].astype(np.float32) * metres_per_pixel - centre.astype(np.float32)
    return (
        offset * np.cos(turn).astype(np.float32),
        offset * np.sin(turn).astype(np.float32) + along.astype(np.float32),
    )


def _zones(
    world: World, lateral: NDArray[np.float32], along: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """Zone of the ground behind every pixel."""
    ground = world.ground
    table = world.zone_table
    index = ((lateral + ground.REACH) * (1 / ground.STEP)).astype(np.int32)
    zone = np.take(table, index, mode='clip')
    if ground.crossings:
        code = np.take(world.crossing_table, (along * 10).astype(np.int32), mode='clip')
        zone[(code == 1) & (zone != 1) & (zone != 2) & (zone != 7)] = 3
    return zone


def _paint(
    world: World,
    ego: tuple[float, float, float, float],
    shown: list[Thing],
    ids: NDArray[np.int16],
) -> tuple[Rows, NDArray[np.int16], NDArray[np.float64], list[tuple[int, int]]]:
    """Draw the faces of all things into ids; return their tables and instances."""
    camera = world.camera
    eye_x, eye_z, yaw, _ = ego
    meshes = [thing.mesh for thing in shown]
    faces = np.array([len(mesh.counts) for mesh in meshes])
    owner = np.repeat(np.arange(len(shown)), faces)
    points = np.array([len(mesh.vertices) for mesh in meshes])
    point_owner = np.repeat(np.arange(len(shown)), points)
    place = np.array([(t.x - eye_x, t.z - eye_z, t.yaw, t.billboard, t.nearer) for t in shown])
    aside = place[:, 0] * np.cos(yaw) - place[:, 1] * np.sin(yaw)
    ahead = place[:, 0] * np.sin(yaw) + place[:, 1] * np.cos(yaw)
    turn = np.where(place[:, 3] > 0, np.arctan2(aside, ahead), place[:, 2] - yaw)
    cosine, sine = np.cos(turn), np.sin(turn)
    tilt_cos, tilt_sin = np.cos(camera.pitch), np.sin(camera.pitch)

    def rotate(vectors: NDArray, index: NDArray[np.int64]) -> NDArray[np.float64]:
        x = vectors[:, 0] * cosine[index] + vectors[:, 2] * sine[index]
        z = vectors[:, 2] * cosine[index] - vectors[:, 0] * sine[index]
        y = -vectors[:, 1]
        return np.stack([x, y * tilt_cos - z * tilt_sin, y * tilt_sin + z * tilt_cos], axis=1)

    drop = camera.height_m
    origin = np.stack(
        [aside, drop * tilt_cos - ahead * tilt_sin, drop * tilt_sin + ahead * tilt_cos], axis=1
    )

    def joined(name: str) -> NDArray:
        return np.concatenate([getattr(mesh, name) for mesh in meshes])

    local = joined('vertices')
    vertices = rotate(local, point_owner) + origin[point_owner]
    base = np.cumsum(points) - points
    starts, counts = joined('starts') + base[owner], joined('counts')
    table = joined('faces')
    normals = rotate(table['normal'], owner)
    offset = (normals * vertices[starts]).sum(axis=1)
    flip = table['two_sided'] & (offset > 0)
    normals[flip] *= -1
    offset[flip] *= -1
    depth = vertices[:, 2]
    nearest, farthest = np.minimum.reduceat(depth, starts), np.maximum.reduceat(depth, starts)
    safe = np.maximum(depth, NEAR)[:, None]
    pixels = vertices[:, :2] * (camera.focal / safe) + (camera.centre_x, camera.centre_y)
    low, high = np.minimum.reduceat(pixels, starts), np.maximum.reduceat(pixels, starts)
    crossing = nearest < NEAR
    height, width = ids.shape[:2]
    extent = (high - low).max(axis=1)
    visible = (
        (offset < -1e-5)
        & (farthest > NEAR)
        & (
            crossing
            | (
                (high[:, 0] > -1)
                & (low[:, 0] < width)
                & (high[:, 1] > -1)
                & (low[:, 1] < height)
                & (extent > SMALLEST_FACE_PX)
            )
        )
    )
    flat = np.hypot(vertices[:, 0], depth)
    key = np.minimum.reduceat(flat, base)
    for index, thing in enumerate(shown):
        if thing.order != 'nearest':
            key[index] = _order_key(thing, aside[index], ahead[index], turn[index])
    key -= place[:, 4]
    parts = np.array([len(mesh.part_centre) for mesh in meshes])
    part_owner = np.repeat(np.arange(len(shown)), parts)
    centres = rotate(joined('part_centre'), part_owner) + origin[part_owner]
    part_key = np.linalg.norm(centres, axis=1)[table['part'] + (np.cumsum(parts) - parts)[owner]]
    chosen = np.nonzero(visible)[0]
    order = chosen[np.lexsort((chosen, -part_key[chosen], owner[chosen], -key[owner[chosen]]))]

    fixed = np.rint(np.clip(pixels, -1e6, 1e6) * (1 << SUBPIXEL)).astype(np.int32)
    number = 2
    for face, start, count, cut in zip(
        order.tolist(),
        starts[order].tolist(),
        counts[order].tolist(),
        crossing[order].tolist(),
        strict=True,
    ):
        polygon = fixed[start : start + count]
        if cut:
            inside = clip_near(vertices[start : start + count])
            if len(inside) < 3:
                inside = np.array([[0.0, -1e5, 1.0]] * 3)
            polygon = project(inside, camera)
            low[face], high[face] = (
                polygon.min(axis=0) / (1 << SUBPIXEL),
                polygon.max(axis=0) / (1 << SUBPIXEL),
            )
        cv2.fillConvexPoly(ids, polygon, (number, 0), cv2.LINE_8, SUBPIXEL)
        number += 1

    def ray_table(vectors: NDArray) -> NDArray:
        """Coefficients of vector . ray over (column, row, 1)."""
        across, down = vectors[:, 0] / camera.focal, vectors[:, 1] / camera.focal
        rest = vectors[:, 2] - across * camera.centre_x - down * camera.centre_y
        return np.stack([across, down, rest], axis=1)

    def headed(ground_row: list[float], body: NDArray, kind: type = np.float32) -> NDArray:
        first = np.array([[0.0] * len(ground_row), ground_row])
        return np.concatenate([first, body.reshape(len(order), len(ground_row))]).astype(kind)

    drawn, mine = table[order], owner[order]
    up = np.array([[0.0, -tilt_cos, -tilt_sin]])
    ground_plane = ray_table(up)[0] / -drop
    axis_u, axis_v = rotate(drawn['axis_u'], mine), rotate(drawn['axis_v'], mine)
    shift_u = -(axis_u * origin[mine]).sum(axis=1, keepdims=True)
    shift_v = -(axis_v * origin[mine]).sum(axis=1, keepdims=True)
    paints = np.zeros((len(shown), 5, 3), np.float32)
    for index, thing in enumerate(shown):
        if thing.paints:
            paints[index, 1 : len(thing.paints) + 1] = thing.paints
    paint = drawn['paint']
    colour = np.where(paint[:, None] > 0, paints[mine, paint], drawn['colour'])
    lights = np.array([thing.lights for thing in shown])[mine, None]
    inverse_range = np.stack(
        [1 / np.maximum(farthest[order], NEAR), 1 / np.maximum(nearest[order], NEAR)], axis=1
    )
    planes = ray_table(normals[order]) / np.minimum(offset[order], -1e-9)[:, None]
    four = [0.0] * 4
    rows = Rows(
        plane=headed(ground_plane.tolist(), planes),
        limits=headed([1 / (2 * FARTHEST), 1 / NEAR], inverse_range),
        normals=headed(up[0].tolist(), normals[order]),
        texture_u=headed(four, np.concatenate([ray_table(axis_u), shift_u], axis=1)),
        texture_v=headed(four, np.concatenate([ray_table(axis_v), shift_v], axis=1)),
        colour=headed([0.0] * 3, colour),
        glow=headed([0.0] * 3, drawn['glow'] * lights),
        texture=headed([0.0], drawn['texture'], np.int64)[:, 0],
        detail=headed([0.0], drawn['detail'])[:, 0],
        semantic=np.concatenate(
            [[SEMANTIC_ID['sky'], SEMANTIC_ID['road']], drawn['semantic']]
        ).astype(np.uint8),
        billboard=headed([0.0], place[mine, 3] > 0, bool)[:, 0],
        upward=headed([1.0], drawn['normal'][:, 1])[:, 0],
    )
    instance, bounds, owners = number_instances(
        shown, owner[order], drawn['slot'], low[order], high[order]
    )
    return rows, instance, bounds, owners


def _order_key(thing: Thing, aside: float, ahead: float, turn: float) -> float:
    """Distance by which a long thing is sorted, see Thing.order."""
    low_x, high_x, low_z, high_z, _ = thing.mesh.footprint.tolist()
    if thing.order == 'facade':
        ends = (
            (low_x * math.cos(turn), -low_x * math.sin(turn)),
            (high_x * math.cos(turn), -high_x * math.sin(turn)),
        )
    elif thing.order == 'end':
        ends = (
            (low_z * math.sin(turn), low_z * math.cos(turn)),
            (high_z * math.sin(turn), high_z * math.cos(turn)),
        )
    else:
        return math.hypot(aside, ahead)
    return max(math.hypot(aside + x, ahead + z) for x, z in ends)
