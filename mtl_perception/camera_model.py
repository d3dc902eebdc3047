# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""A camera with its distortion: `sensor_msgs/CameraInfo` -> pixels to rays and back. No ROS.

Pixels are those of `sensor_msgs/CameraInfo` and OpenCV: x right, y down, centres at whole numbers.
Rays are in the optical frame of REP 103: x right, y down, z forward. As in image_geometry they are
those of the rectified camera: the matrix R of a CameraInfo is applied to raw pixels and is already
in rectified ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PINHOLE = 'pinhole'
PLUMB_BOB = 'plumb_bob'
RATIONAL = 'rational_polynomial'
EQUIDISTANT = 'equidistant'
COEFFICIENTS: dict[str, tuple[int, ...]] = {
    PLUMB_BOB: (0, 4, 5),
    RATIONAL: (0, 8),
    EQUIDISTANT: (4,),
}
"""How many a distortion model has; plumb_bob and rational_polynomial with none are pinholes."""
SYNONYMS = {'': PLUMB_BOB, 'fisheye': EQUIDISTANT}

_NEWTON_STEPS = 20
_RESIDUAL = 1e-9
"""Of normalised coordinates: about a millionth of a pixel."""
_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


class GeometryError(Exception):
    """A camera or a mount that cannot be used: what, expected, found, next step."""


@dataclass(frozen=True)
class CameraModel:
    """How one camera maps directions to pixels of images of one size.

    width, height: of its images. fx, fy, cx, cy: pixels. model: `pinhole` or a key of
    `COEFFICIENTS`. distortion: k1 k2 p1 p2 [k3 [k4 k5 k6]] (plumb_bob, rational_polynomial; OpenCV,
    "Camera Calibration and 3D Reconstruction") or k1 k2 k3 k4 (equidistant: Kannala and Brandt,
    PAMI 2006, equation 6, in OpenCV's form). rotation: CameraInfo's R, row by row.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    model: str = PINHOLE
    distortion: tuple[float, ...] = ()
    rotation: tuple[float, ...] = _IDENTITY

    @classmethod
    def from_info(cls, info: Any, rectified: bool = False) -> CameraModel:
        """Camera of a `sensor_msgs/CameraInfo` (any object with its fields), ROI and binning taken
        into account.

        rectified: the images are (`is_rectified`), so that P holds and nothing is distorted. Raises
        GeometryError on a camera that is not calibrated, malformed, or of an unknown model.
        """  # noqa: D205
        k, d, r, p = (np.array(getattr(info, name), np.float64) for name in 'kdrp')
        if not all(np.isfinite(values).all() for values in (k, d, r, p)):
            raise GeometryError('camera_info holds NaN or infinity; calibrate the camera again')
        if info.width < 1 or info.height < 1:
            raise GeometryError(
                f'camera_info is for images of {info.width}x{info.height}, expected at least 1x1; '
                f'the driver has to fill in width and height'
            )
        model, distortion = (PINHOLE, ()) if rectified else _distortion(info.distortion_model, d)
        matrix, name = (p.reshape(3, 4)[:, :3], 'P') if rectified else (k.reshape(3, 3), 'K')
        if not (matrix[0, 0] > 0 and matrix[1, 1] > 0):
            raise GeometryError(
                f'camera_info is not calibrated: focal lengths {matrix[0, 0]:g} and '
                f'{matrix[1, 1]:g} in {name}, expected more than 0; calibrate the camera '
                f'(`ros2 run camera_calibration cameracalibrator`)'
            )
        if abs(matrix[0, 1]) > 1e-6 * matrix[0, 0]:
            raise GeometryError(f'camera_info: {name} has a skew of {matrix[0, 1]:g}, expected 0')
        rotation = _IDENTITY if rectified or not r.any() else tuple(r.tolist())
        square = np.reshape(rotation, (3, 3))
        if np.abs(square @ square.T - np.eye(3)).max() > 1e-3:
            raise GeometryError(f'camera_info: R is no rotation: {r.tolist()}')
        full = cls(
            int(info.width), int(info.height), float(matrix[0, 0]), float(matrix[1, 1]),
            float(matrix[0, 2]), float(matrix[1, 2]), model, distortion, rotation,
        )  # fmt: skip
        return full._cut(info.roi, max(1, int(info.binning_x)), max(1, int(info.binning_y)))

    def for_image(self, width: int, height: int) -> CameraModel:
        """The same camera for images resized to width x height.

        Raises GeometryError where the aspect ratio is another one: then it is not known which part
        of the picture the images show.
        """
        x, y = width / self.width, height / self.height
        if min(abs(height - self.height * x), abs(width - self.width * y)) > 1.0:
            raise GeometryError(
                f'camera_info is for images of {self.width}x{self.height}, found images of '
                f'{width}x{height}, which is another aspect ratio: publish the camera_info of '
                f'these images (with roi and binning where they are cut or binned)'
            )
        return self._scaled(width, height, x, y)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CameraModel:
        """Inverse of `dataclasses.asdict`, also after a way through JSON."""
        found: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        return cls(**found)

    @property
    def description(self) -> str:
        """`plumb_bob 1280x720`."""
        return f'{self.model} {self.width}x{self.height}'

    def rays(self, pixels: Floats) -> Floats:
        """Unit vectors [..., 3] in the camera frame of pixels [..., 2].

        NaN where the distortion model has no inverse: outside what the lens can show.
        """
        pixels = np.asarray(pixels, np.float64)
        distorted = (pixels - (self.cx, self.cy)) / (self.fx, self.fy)
        if self.model == EQUIDISTANT:
            rays = self._equidistant_rays(distorted)
        else:
            flat = distorted if self.model == PINHOLE else self._undistorted(distorted)
            rays = np.concatenate([flat, np.ones_like(flat[..., :1])], -1)
            rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
        return rays @ np.reshape(self.rotation, (3, 3)).T

    def project(self, points: Floats) -> Floats:
        """Pixels [..., 2] of points [..., 3] in the camera frame, not clipped to the image.

        NaN for what the camera cannot show: behind it, or where the distortion model folds back.
        """
        points = np.asarray(points, np.float64) @ np.reshape(self.rotation, (3, 3))
        if self.model == EQUIDISTANT:
            across = np.linalg.norm(points[..., :2], axis=-1)
            angle = np.arctan2(across, points[..., 2])
            seen = angle <= self._limit
            scale = _odd_polynomial(angle, self.distortion)[0] / np.maximum(across, 1e-12)
            distorted = points[..., :2] * scale[..., None]
        else:
            seen = points[..., 2] > 1e-9
            flat = points[..., :2] / np.where(seen, points[..., 2], 1.0)[..., None]
            seen &= (flat**2).sum(-1) <= self._limit**2
            distorted = flat if self.model == PINHOLE else self._distorted(flat)[0]
        pixels = distorted * (self.fx, self.fy) + (self.cx, self.cy)
        return np.where(seen[..., None], pixels, np.nan)

    @cached_property
    def _limit(self) -> float:
        """Up to where the radial mapping rises: tan of the angle to the axis, or the angle."""
        if self.model == PINHOLE:
            return math.inf
        if self.model == EQUIDISTANT:
            radii = np.linspace(0.0, math.pi, 4001)
            mapped = _odd_polynomial(radii, self.distortion)[0]
        else:
            radii = np.tan(np.linspace(0.0, math.radians(89.5), 4001))
            mapped = radii * self._radial(radii**2)[0]
        falls = np.flatnonzero(np.diff(mapped) <= 0)
        return float(radii[falls[0]] if len(falls) else radii[-1])

    def _radial(self, r2: Floats) -> tuple[Floats, Floats]:
        """Radial factor and its derivative by r2."""
        k1, k2, _, _, k3, k4, k5, k6 = (*self.distortion, *(0.0,) * 8)[:8]
        above = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
        below = 1 + r2 * (k4 + r2 * (k5 + r2 * k6))
        above_slope = k1 + r2 * (2 * k2 + r2 * 3 * k3)
        below_slope = k4 + r2 * (2 * k5 + r2 * 3 * k6)
        factor = above / below
        return factor, (above_slope - factor * below_slope) / below

    def _distorted(self, flat: Floats) -> tuple[Floats, Floats]:
        """Distorted normalised coordinates [..., 2] and their Jacobian [..., 2, 2]."""
        p1, p2 = self.distortion[2:4]
        x, y = flat[..., 0], flat[..., 1]
        r2 = x * x + y * y
        factor, slope = self._radial(r2)
        mapped = np.stack(
            [
                x * factor + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
                y * factor + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
            ],
            -1,
        )
        mixed = 2 * x * y * slope + 2 * p1 * x + 2 * p2 * y
        jacobian = np.stack(
            [
                factor + 2 * x * x * slope + 2 * p1 * y + 6 * p2 * x, mixed,
                mixed, factor + 2 * y * y * slope + 6 * p1 * y + 2 * p2 * x,
            ],
            -1,
        )  # fmt: skip
        return mapped, jacobian.reshape(*flat.shape, 2)

    def _undistorted(self, distorted: Floats) -> Floats:
        """Inverse of `_distorted` by Newton's method; NaN where it does not converge."""
        flat = distorted.copy()
        with np.errstate(all='ignore'):
            for _ in range(_NEWTON_STEPS):
                mapped, jacobian = self._distorted(flat)
                error = mapped - distorted
                if not np.abs(error).max(initial=0.0) > _RESIDUAL:
                    break
                (a, b), (c, d) = np.moveaxis(jacobian, (-2, -1), (0, 1))
                step = np.stack(
                    [d * error[..., 0] - b * error[..., 1], a * error[..., 1] - c * error[..., 0]],
                    -1,
                )
                flat = flat - step / (a * d - b * c)[..., None]
            error = np.abs(self._distorted(flat)[0] - distorted).max(-1)
            good = (error <= 1e-6) & ((flat**2).sum(-1) <= self._limit**2)
        return np.where(good[..., None], flat, np.nan)

    def _equidistant_rays(self, distorted: Floats) -> Floats:
        radius = np.linalg.norm(distorted, axis=-1)
        angle = radius.copy()
        with np.errstate(all='ignore'):
            for _ in range(_NEWTON_STEPS):
                mapped, slope = _odd_polynomial(angle, self.distortion)
                angle = angle - (mapped - radius) / slope
            error = np.abs(_odd_polynomial(angle, self.distortion)[0] - radius)
            good = (error <= 1e-6) & (angle <= self._limit)
        angle = np.where(good, angle, np.nan)
        across = distorted * (np.sin(angle) / np.maximum(radius, 1e-12))[..., None]
        return np.concatenate([across, np.cos(angle)[..., None]], -1)

    def _cut(self, roi: Any, binning_x: int, binning_y: int) -> CameraModel:
        """The camera of what is delivered of the full image: a region, then binned."""
        width, height = int(roi.width) or self.width, int(roi.height) or self.height
        left, top = int(roi.x_offset), int(roi.y_offset)
        if left + width > self.width or top + height > self.height:
            raise GeometryError(
                f'camera_info: the roi {width}x{height} at ({left}, {top}) reaches beyond the '
                f'image of {self.width}x{self.height}'
            )
        region = replace(self, width=width, height=height, cx=self.cx - left, cy=self.cy - top)
        size = max(1, width // binning_x), max(1, height // binning_y)
        return region._scaled(*size, 1 / binning_x, 1 / binning_y)

    def _scaled(self, width: int, height: int, x: float, y: float) -> CameraModel:
        """Pixels grow about the image's corner, which lies at (-0.5, -0.5)."""
        return replace(
            self, width=width, height=height, fx=self.fx * x, fy=self.fy * y,
            cx=(self.cx + 0.5) * x - 0.5, cy=(self.cy + 0.5) * y - 0.5,
        )  # fmt: skip


def is_rectified(topic: str) -> bool:
    """Whether an image topic holds rectified images, by image_proc's names: `image_rect`, ..."""
    parts = topic.removesuffix('/compressed').rsplit('/', 1)
    return 'rect' in parts[-1].split('_')


def info_topic(image_topic: str) -> str:
    """`/front/camera_info` of `/front/image_raw`, as image_transport finds it: beside the image."""
    base = image_topic.removesuffix('/compressed')
    return f'{base.rpartition("/")[0]}/camera_info'


def _distortion(name: str, values: Floats) -> tuple[str, tuple[float, ...]]:
    """Model and coefficients of a CameraInfo; raises GeometryError on what is not known."""
    model = SYNONYMS.get(name, name)
    if model not in COEFFICIENTS:
        raise GeometryError(
            f'camera_info: unknown distortion model {name!r}, expected one of '
            f'{", ".join([*COEFFICIENTS, *filter(None, SYNONYMS)])}; rectify the images '
            f'(image_proc) and remap ~/image to image_rect'
        )
    if len(values) not in COEFFICIENTS[model]:
        counts = ' or '.join(str(count) for count in COEFFICIENTS[model])
        raise GeometryError(
            f'camera_info: {model} has {counts} coefficients, found {len(values)} in D'
        )
    if model != EQUIDISTANT and not values.any():
        return PINHOLE, ()
    return model, tuple(values.tolist())


def _odd_polynomial(angle: Floats, coefficients: Sequence[float]) -> tuple[Floats, Floats]:
    """angle * (1 + k1 angle² + k2 angle⁴ + ...) and its derivative."""
    squared = angle * angle
    value = slope = np.ones_like(angle)
    power = np.ones_like(angle)
    for degree, factor in enumerate(coefficients, 1):
        power = power * squared
        value = value + factor * power
        slope = slope + (2 * degree + 1) * factor * power
    return angle * value, slope
