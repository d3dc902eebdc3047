# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Generated street scenes with exact labels, for people without data.

A small software renderer: `Drive` is a seeded sequence with moving traffic, `random_scene` one
independent frame. Boxes, drivable area, semantic mask, depth, normals and scene attributes are
exact by construction.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mtl_scenes.appearance import paint
from mtl_scenes.config import DriveConfig, SceneFrame
from mtl_scenes.feet import feet_of
from mtl_scenes.raster import rasterise
from mtl_scenes.streets import build
from mtl_scenes.world import Camera

__all__ = ['Drive', 'DriveConfig', 'SceneFrame', 'random_scene']


class Drive:
    """A drive along a generated road; frame i is a pure function of (config, i)."""

    def __init__(self, config: DriveConfig) -> None:
        """Build the world; rendering happens on access."""
        self.config = config
        self._world = build(config)

    @property
    def camera(self) -> Camera:
        """Lens and mount of the camera, the same for all frames."""
        return self._world.camera

    def __len__(self) -> int:
        """Count the frames."""
        return self.config.frames

    def __getitem__(self, index: int) -> SceneFrame:
        """Render frame `index`, 0 to len - 1; raises IndexError outside."""
        if not 0 <= index < self.config.frames:
            raise IndexError(f'frame {index}: this drive has frames 0 to {self.config.frames - 1}')
        world = self._world
        time_s = index / self.config.rate_hz
        raster = rasterise(world, time_s)
        image = paint(world, raster, time_s, index)
        visible = raster.ids[..., 0] > 0
        depth = np.zeros_like(raster.inverse_depth)
        np.divide(1.0, raster.inverse_depth, out=depth, where=visible)
        camera = world.camera
        matrix = np.array(
            [[camera.focal, 0, camera.centre_x], [0, camera.focal, camera.centre_y], [0, 0, 1.0]]
        )
        return SceneFrame(
            image,
            raster.boxes,
            raster.labels,
            raster.track_ids,
            raster.drivable,
            raster.semantic,
            depth,
            raster.normals,
            {'weather': world.weather, 'scene': world.scene, 'timeofday': world.timeofday},
            matrix,
            time_s,
            feet_of(raster.track_ids, raster.shown, raster.ego, camera),
        )

    def __iter__(self) -> Iterator[SceneFrame]:
        """Render all frames in order."""
        return (self[index] for index in range(len(self)))


def random_scene(seed: int, width: int = 640, height: int = 360) -> SceneFrame:
    """Render one independent frame: own world, camera, traffic and attributes."""
    return Drive(DriveConfig(seed=seed, width=width, height=height, frames=1))[0]
