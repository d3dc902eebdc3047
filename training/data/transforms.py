# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""From a sample to the network input: random for training, the deployed letterbox for validation.

One affine map (scale, shift, flip) is drawn and applied to image, masks and boxes alike; then the
looks of weather, night and camera (`weather.py`) and colour. Drivable labels stay true under a flip
because direct and alternative are relative to the own lane.

Depth under the random part of the scale, `zoom`: an image that is enlarged shows its things as if
they were nearer, so metres are divided by it (as MTAN does); the letterbox's own scale is what the
deployed network sees too and leaves metres alone. A mirrored normal changes the sign of its x.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from mtl_perception.letterbox import Letterbox
from mtl_perception.tasks import LANE, UNLABELLED
from training.data import weather
from training.data.bonnet import with_bonnet
from training.data.sample import Boxes, Sample
from training.tasks import KINDS

MIN_BOX_SIDE = 3.0
"""Input pixels; what the crop leaves smaller is an ignored region."""
MIN_VISIBLE = 0.3
"""Share of a box that must stay inside the crop for it to stay a truth box."""
DRAWN_WIDTH = 3
"""Pixels of the lines that label lane markings in BDD100K's masks."""
LINE_WIDTH = 4.0
"""Input pixels. Nearest-neighbour resizing would tear such lines: they are widened to this first,
8 pixels of 1280x720, as for YOLOP and before it Hou et al. (ICCV 2019)."""
AREA_BELOW = 0.7
"""Smaller scales shrink the image by area first: warpAffine alone would alias thin things."""


@dataclass(frozen=True)
class AugmentConfig:
    """How training images are varied.

    height, width: the training crop, pixels. scale: factor range on the letterbox scale. The rest
    are probabilities: flip; photometric (brightness, contrast, colour); fog, rain, night and sensor
    as in `weather.py`; mosaic, four images in one, as in `mosaic.py`; bonnet, the vehicle's own, as
    in `bonnet.py`. Raises ValueError on values
    that these cannot have.
    """

    height: int = 256
    width: int = 448
    input_height: int = 384
    input_width: int = 640
    scale_min: float = 0.6
    scale_max: float = 1.5
    flip: float = 0.5
    photometric: float = 0.8
    fog: float = 0.0
    rain: float = 0.0
    night: float = 0.0
    sensor: float = 0.0
    mosaic: float = 0.0
    bonnet: float = 0.0
    letterbox_colour: tuple[int, int, int] = (114, 114, 114)

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ('flip', 'photometric', 'fog', 'rain', 'night', 'sensor', 'mosaic', 'bonnet'):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f'augment.{name}: {value} is no probability, expected 0 to 1')
        if not all(0 <= value <= 255 for value in self.letterbox_colour):
            raise ValueError(
                f'augment.letterbox_colour: {list(self.letterbox_colour)}, expected three values '
                f'of 0 to 255'
            )
        if not 0 < self.scale_min <= self.scale_max:
            raise ValueError(
                f'augment.scale_min, scale_max: {self.scale_min}, {self.scale_max}; expected '
                f'0 < scale_min <= scale_max'
            )


@dataclass(frozen=True)
class View:
    """The map from pixels of a labelled image to a crop of height x width: scale, shift, flip.

    zoom: the part of the scale by which things look nearer than they are.
    """

    scale: float
    x: float
    y: float
    flip: bool
    height: int
    width: int
    zoom: float = 1.0

    @classmethod
    def draw(
        cls, size: tuple[int, int], config: AugmentConfig, rng: np.random.Generator,
        crop: tuple[int, int] | None = None, factor: float = 1.0,
    ) -> View:  # fmt: skip
        """A random view of an image of (width, height).

        crop: (height, width), the configured one by default. factor: on the drawn scale.
        """
        width, height = size
        crop_height, crop_width = crop or (config.height, config.width)
        fit = Letterbox.fit(width, height, config.input_width, config.input_height)
        zoom = factor * rng.uniform(config.scale_min, config.scale_max)
        scale = fit.scale_x * zoom
        # The crop may overhang the scaled image by a tenth of itself, so that borders are seen too.
        x = _offset(rng, width * scale, crop_width)
        y = _offset(rng, height * scale, crop_height)
        return cls(scale, x, y, bool(rng.random() < config.flip), crop_height, crop_width, zoom)

    @property
    def edges(self) -> NDArray[np.float64]:
        """Affine map [2, 3] of pixel edges, label pixels -> crop; a flip mirrors the crop."""
        if self.flip:
            return np.array([[-self.scale, 0, self.width + self.x], [0, self.scale, -self.y]])
        return np.array([[self.scale, 0, -self.x], [0, self.scale, -self.y]])

    def covered(self, size: tuple[int, int]) -> tuple[slice, slice]:
        """Rows and columns of the crop that an image of (width, height) covers."""
        corners = np.array([[0, 0], size]) * self.edges[[0, 1], [0, 1]] + self.edges[:, 2]
        limits = (self.width, self.height)
        left, top = np.clip(corners.min(axis=0).round(), 0, limits).astype(int)
        right, bottom = np.clip(corners.max(axis=0).round(), 0, limits).astype(int)
        return slice(top, bottom), slice(left, right)

    def apply(self, sample: Sample, colour: tuple[int, int, int]) -> Sample:
        """The sample as this view shows it; what the image does not cover has `colour`."""
        size = (self.width, self.height)
        source, centres = _shrunk(sample.image, self.edges, sample.shrink, self.scale, size)
        image = _uint8(
            cv2.warpAffine(source, centres, size, flags=cv2.INTER_LINEAR, borderValue=colour)
        )
        centres = _centres(self.edges)
        masks = {}
        for task, mask in sample.masks.items():
            fine = _widened(mask, self.scale) if task == LANE.name else mask
            masks[task] = _uint8(
                cv2.warpAffine(fine, centres, size, flags=cv2.INTER_NEAREST, borderValue=UNLABELLED)
            )
        maps = {}
        for task, values in sample.maps.items():
            warped = cv2.warpAffine(values, centres, size, flags=cv2.INTER_NEAREST)
            maps[task] = self._seen(warped)
        boxes = {task: self._move(b) for task, b in sample.boxes.items()}
        others = {
            kind: {task: KINDS[kind].seen(label, self) for task, label in by_task.items()}
            for kind, by_task in sample.others.items()
        }
        return replace(
            sample, image=image, masks=masks, maps=maps, boxes=boxes, others=others, shrink=1
        )

    def _seen(self, values: object) -> NDArray[np.float32]:
        """Numbers of a map as this view changes them: metres [H, W] or vectors [H, W, 3]."""
        seen = np.asarray(values, np.float32)
        if seen.ndim == 2:
            seen /= self.zoom
        elif self.flip:
            seen[..., 0] *= -1
        return seen

    def _move(self, boxes: Boxes) -> Boxes:
        """Boxes clipped to the crop; slivers become ignored, what is outside goes."""
        edges = self.edges
        xs = boxes.xyxy[:, [0, 2]] * edges[0, 0] + edges[0, 2]
        ys = boxes.xyxy[:, [1, 3]] * edges[1, 1] + edges[1, 2]
        xs.sort(axis=1)
        area = (xs[:, 1] - xs[:, 0]) * (ys[:, 1] - ys[:, 0])
        xs, ys = xs.clip(0, self.width), ys.clip(0, self.height)
        wide, high = xs[:, 1] - xs[:, 0], ys[:, 1] - ys[:, 0]
        present = (wide > 1) & (high > 1)
        small = np.minimum(wide, high) < MIN_BOX_SIDE
        hidden = wide * high < MIN_VISIBLE * np.maximum(area, 1e-6)
        moved = np.stack((xs[:, 0], ys[:, 0], xs[:, 1], ys[:, 1]), 1).astype(np.float32)
        ignored = boxes.ignored | small | hidden
        return replace(
            boxes, xyxy=moved[present], labels=boxes.labels[present], ignored=ignored[present]
        )


def augment(sample: Sample, config: AugmentConfig, rng: np.random.Generator) -> Sample:
    """Randomly scaled, cropped, flipped and recoloured sample of the crop size."""
    height, width = sample.image.shape[:2]
    view = View.draw((width * sample.shrink, height * sample.shrink), config, rng)
    return finish(outdoors(view, sample, config, rng), config, rng)


def outdoors(
    view: View, sample: Sample, config: AugmentConfig, rng: np.random.Generator
) -> Sample:  # fmt: skip
    """What the camera looks at: the view of the sample, in a weather and at an hour."""
    if config.bonnet and rng.random() < config.bonnet:
        sample = with_bonnet(sample, rng)
    seen = view.apply(sample, config.letterbox_colour)
    height, width = (side * sample.shrink for side in sample.image.shape[:2])
    rows, columns = view.covered((width, height))
    horizon = weather.HORIZON * height * view.scale - view.y - rows.start
    place = weather.Place(horizon, width * view.scale)
    part, classes = seen.image[rows, columns], seen.classes
    for look, probability in (
        (weather.NIGHT, config.night), (weather.FOG, config.fog), (weather.RAIN, config.rain),
    ):  # fmt: skip
        if probability and part.size and rng.random() < probability:
            part, classes = weather.put_on(look, part, classes, place, rng)
    seen.image[rows, columns] = part
    return replace(seen, classes=classes)


def finish(sample: Sample, config: AugmentConfig, rng: np.random.Generator) -> Sample:
    """What the camera makes of it: colours, then noise and compression."""
    image = sample.image
    if rng.random() < config.photometric:
        image = recolour(image, rng)
    if config.sensor and rng.random() < config.sensor:
        image = weather.sensor(image, rng)
    return replace(sample, image=image)


def _offset(rng: np.random.Generator, length: float, crop: int) -> float:
    """Where the crop begins on a scaled axis, in input pixels."""
    slack = length - crop
    return float(rng.uniform(min(slack, 0), max(slack, 0)) + rng.uniform(-0.1, 0.1) * crop)


def _centres(edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same map as warpAffine counts: pixel centres are integers, half a pixel from edges."""
    centres = edges.copy()
    centres[:, 2] += 0.5 * edges[:, :2].sum(1) - 0.5
    return centres


def _shrunk(
    image: NDArray[np.uint8], edges: NDArray[np.float64], shrink: int, scale: float,
    size: tuple[int, int],
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:  # fmt: skip
    """The image, and the map of its pixel centres to the crop of (width, height) `size`.

    `edges` maps label pixels, of which an image pixel has `shrink` a side. Far smaller scales cut
    out what the crop shows and shrink that by area.
    """
    edges = edges.copy()
    edges[:, :2] *= shrink
    scale *= shrink
    if scale > AREA_BELOW:
        return image, _centres(edges)
    height, width = image.shape[:2]
    # Corners of the crop in the image, with a margin for the filters.
    corners = (np.array([[0, 0], size]) - edges[:, 2]) / edges[[0, 1], [0, 1]]
    margin = 2 / scale
    left, top = np.clip(np.floor(corners.min(0) - margin), 0, (width - 1, height - 1)).astype(int)
    right, bottom = np.clip(np.ceil(corners.max(0) + margin), (left + 1, top + 1), (width, height))
    part = image[top : int(bottom), left : int(right)]
    small = (max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale)))
    fx, fy = part.shape[1] / small[0], part.shape[0] / small[1]
    to_source = np.array([[fx, 0, left], [0, fy, top], [0, 0, 1]])
    part = _uint8(cv2.resize(part, small, interpolation=cv2.INTER_AREA))
    return part, _centres(edges @ to_source)


def _widened(lines: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """Lane markings drawn so wide that they are LINE_WIDTH wide after scaling; class 0 is lane."""
    width = max(1, round(LINE_WIDTH / scale) - DRAWN_WIDTH + 1)
    return _uint8(cv2.erode(lines, np.ones((width, width), np.uint8)))


def recolour(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Brightness, contrast, colour cast, gamma through one table; then saturation and blur."""
    gamma = float(np.exp(rng.uniform(-0.4, 0.4)))
    gain = rng.uniform(0.75, 1.25) * rng.uniform(0.93, 1.07, 3)
    bias = rng.uniform(-20, 20)
    ramp = (np.arange(256) / 255.0) ** gamma * 255.0
    table = np.clip(ramp[:, None] * gain + bias, 0, 255).astype(np.uint8)
    image = _uint8(cv2.LUT(image, table[None]))
    if rng.random() < 0.5:
        grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        keep = float(rng.uniform(0.4, 1.5))
        image = _uint8(cv2.addWeighted(image, keep, grey, 1 - keep, 0))
    if rng.random() < 0.1:
        image = _uint8(cv2.GaussianBlur(image, (3, 3), 0))
    return image


def _uint8(image: object) -> NDArray[np.uint8]:
    """What OpenCV returns for uint8 images, typed as what it is."""
    return np.asarray(image, np.uint8)
