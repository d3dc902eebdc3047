# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Camera and road: where rays meet the ground, and how sure those places are. No ROS.

Boxes of this package are edges of pixels, half a pixel off those of `camera_model.py`;
`foot_pixels` converts. The camera frame is the optical one of REP 103. Base: x forward, y left,
z up, and its plane z = 0 is the road.

A flat road is assumed: a hill or a kerb under an object shifts it by as much as the view is flat.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_perception.camera_model import CameraModel, Floats, GeometryError

_LEVEL = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
"""Optical axes of a camera that looks straight ahead, in base axes."""


@dataclass(frozen=True)
class Mount:
    """Where a camera is above the road: rotation (row by row) and translation camera -> base."""

    rotation: tuple[float, ...]
    translation: tuple[float, float, float]

    @classmethod
    def of(cls, height_m: float, roll: float = 0.0, pitch: float = 0.0) -> Mount:
        """Camera `height_m` above the origin of the base frame, which looks along its x axis.

        roll, pitch: radians by REP 103, so that a positive pitch looks down and a positive roll
        leans to the right. Raises GeometryError on values that are no mount.
        """
        if not (0 < height_m < math.inf) or not max(abs(roll), abs(pitch)) <= math.pi / 2:
            raise GeometryError(
                f'a camera is more than 0 m above the road and turned by at most pi/2, found '
                f'height {height_m:g} m, roll {roll:g}, pitch {pitch:g} rad'
            )
        turn = _about_y(pitch) @ _about_x(roll) @ _LEVEL
        return cls(tuple(turn.reshape(-1).tolist()), (0.0, 0.0, float(height_m)))

    @classmethod
    def from_transform(cls, base_from_camera: Floats) -> Mount:
        """Mount of a homogeneous transform [4, 4]; raises GeometryError below the road."""
        x, y, z = base_from_camera[:3, 3].tolist()
        if not z > 0:
            raise GeometryError(
                f'the camera is {z:g} m above the plane z = 0 of the base frame, expected more '
                f'than 0: name a frame on the road, as base_footprint'
            )
        return cls(tuple(base_from_camera[:3, :3].reshape(-1).tolist()), (x, y, z))

    @property
    def matrix(self) -> Floats:
        """Rotation [3, 3], camera -> base."""
        return np.reshape(self.rotation, (3, 3))

    @property
    def height_m(self) -> float:
        """Of the camera above the road."""
        return self.translation[2]

    @property
    def description(self) -> str:
        """`1.5 m above it, looking 2 degrees down`."""
        right, down, forward = self.matrix[2].tolist()  # how far each optical axis points upwards
        pitch = math.degrees(math.atan2(-forward, math.hypot(right, down)))
        roll = math.degrees(math.atan2(-right, -down))
        lean = f', leaning {roll:.3g} degrees to the right' if abs(roll) >= 0.005 else ''
        return f'{self.height_m:g} m above it, looking {pitch + 0.0:.3g} degrees down{lean}'

    def to_camera(self, points: Floats) -> Floats:
        """Points [..., 3] of the base frame in the camera frame."""
        return (points - np.array(self.translation)) @ self.matrix


@dataclass(frozen=True)
class GroundPoints:
    """N places on the road, in the base frame; NaN for pixels that do not surely show the road.

    positions: float64 [N, 3] metres. covariance: float64 [N, 3, 3] m².
    """

    positions: Floats
    covariance: Floats
    mount: Mount

    def __len__(self) -> int:
        """Count of places, known or not."""
        return len(self.positions)

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which places are known [N]."""
        return np.isfinite(self.positions[:, 0])

    @property
    def ahead_m(self) -> Floats:
        """Metres ahead of the camera along the x axis of the base [N]."""
        return self.positions[:, 0] - self.mount.translation[0]

    def in_camera(self) -> tuple[Floats, Floats]:
        """Positions and covariance in the camera frame."""
        turn = self.mount.matrix
        return self.mount.to_camera(self.positions), turn.T @ self.covariance @ turn


def foot_pixels(boxes: NDArray[Any]) -> Floats:
    """Middle of the lower edge [N, 2] of boxes [N, 4] xyxy, as pixels of a CameraInfo."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    return np.stack([(boxes[:, 0] + boxes[:, 2]) / 2, boxes[:, 3]], 1) - 0.5


def on_ground(pixels: Floats, camera: CameraModel, mount: Mount) -> Floats:
    """Places [..., 3] in the base frame where pixels [..., 2] meet the road.

    NaN at and above the horizon.
    """
    return _meet(camera.rays(pixels) @ mount.matrix.T, mount)


def locate(
    pixels: Floats,
    camera: CameraModel,
    mount: Mount,
    pixel_std: float | Floats = 1.0,
    tilt_std: float = 0.0,
) -> GroundPoints:
    """Places of pixels [N, 2] on the road with their covariance.

    pixel_std: standard deviation in pixels, one for all or [N, 2] for x and y. tilt_std: of pitch
    and roll between camera and road, radians. The covariance is the second moment of the points to
    which deviations of sqrt(3) sigma lead (unscented transform: Julier and Uhlmann, 1997, four
    variables, n + kappa = 3), about the place of the pixel itself: near the horizon distance is so
    far from linear in the angle that a Jacobian would promise too much. Where one of these points
    does not meet the road, the distance has no bound, and the place is NaN.
    """
    pixels = np.asarray(pixels, np.float64).reshape(-1, 2)
    spread = math.sqrt(3) * np.broadcast_to(pixel_std, pixels.shape)
    offsets = np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]], np.float64)
    rays = camera.rays(pixels + offsets[:, None] * spread) @ mount.matrix.T
    lean = math.sqrt(3) * tilt_std
    turns = [turn(sign * lean) for turn in (_about_x, _about_y) for sign in (1, -1)]
    places = _meet(np.concatenate([rays, [rays[0] @ turn.T for turn in turns]]), mount)
    positions, apart = places[0], places[1:] - places[0]
    covariance = np.einsum('kni,knj->nij', apart, apart) / 6
    far = np.linalg.norm(positions - np.array(mount.translation), axis=-1)
    covariance[:, 2, 2] += (tilt_std * far) ** 2
    unsure = ~np.isfinite(covariance).all((1, 2))
    return GroundPoints(
        np.where(unsure[:, None], np.nan, positions),
        np.where(unsure[:, None, None], np.nan, covariance),
        mount,
    )


def _meet(rays: Floats, mount: Mount) -> Floats:
    """Where rays [..., 3] in base axes, from the camera, meet the plane z = 0."""
    origin = np.array(mount.translation)
    down = -rays[..., 2]
    meets = down > 1e-6
    scale = np.where(meets, origin[2] / np.where(meets, down, 1.0), np.nan)
    return origin + rays * scale[..., None]


def _about_x(angle: float) -> Floats:
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.array([[1.0, 0, 0], [0, cosine, -sine], [0, sine, cosine]])


def _about_y(angle: float) -> Floats:
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.array([[cosine, 0, sine], [0, 1.0, 0], [-sine, 0, cosine]])
