"""From a sample to the network input: random for training, the deployed letterbox for validation.

One affine map (scale, shift, flip) is drawn and applied to image, masks and boxes alike. Drivable
labels stay true under a flip because direct and alternative are relative to the own lane.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from mtl_perception.letterbox import Letterbox
from mtl_perception.tasks import UNLABELLED
from training.data.sample import Boxes, Sample

MIN_BOX_SIDE = 3.0
"""Input pixels; what the crop leaves smaller is an ignored region."""
MIN_VISIBLE = 0.3
"""Share of a box that must stay inside the crop for it to stay a truth box."""


@dataclass(frozen=True)
class AugmentConfig:
    """height, width: the training crop, pixels. scale: factor range on the letterbox scale."""

    height: int = 256
    width: int = 448
    input_height: int = 384
    input_width: int = 640
    scale_min: float = 0.6
    scale_max: float = 1.5
    flip: float = 0.5
    photometric: float = 0.8
    letterbox_colour: tuple[int, int, int] = (114, 114, 114)


def augment(sample: Sample, config: AugmentConfig, rng: np.random.Generator) -> Sample:
    """Randomly scaled, cropped, flipped and recoloured sample of the crop size."""
    height, width = sample.image.shape[:2]
    fit = Letterbox.fit(width, height, config.input_width, config.input_height)
    scale = fit.scale_x * rng.uniform(config.scale_min, config.scale_max)
    # The crop may overhang the scaled image by a tenth of itself, so that borders are seen too.
    x = _offset(rng, width * scale, config.width)
    y = _offset(rng, height * scale, config.height)
    flip = rng.random() < config.flip
    # Pixel edges: source -> crop. A flip mirrors the crop.
    edges = np.array([[scale, 0, -x], [0, scale, -y]])
    if flip:
        edges[0] = [-scale, 0, config.width + x]
    # warpAffine counts pixel centres as integers, half a pixel from the edges.
    centres = edges.copy()
    centres[:, 2] += 0.5 * edges[:, :2].sum(1) - 0.5
    size = (config.width, config.height)
    source, from_source = _shrunk(sample.image, centres, scale)
    image = cv2.warpAffine(
        source, from_source, size, flags=cv2.INTER_LINEAR, borderValue=config.letterbox_colour
    )
    if rng.random() < config.photometric:
        image = recolour(image, rng)
    masks = {
        task: cv2.warpAffine(mask, centres, size, flags=cv2.INTER_NEAREST, borderValue=UNLABELLED)
        for task, mask in sample.masks.items()
    }
    boxes = {task: _move(b, edges, config) for task, b in sample.boxes.items()}
    return replace(sample, image=image, masks=masks, boxes=boxes)


def _offset(rng: np.random.Generator, length: float, crop: int) -> float:
    """Where the crop begins on a scaled axis, in input pixels."""
    slack = length - crop
    return float(rng.uniform(min(slack, 0), max(slack, 0)) + rng.uniform(-0.1, 0.1) * crop)


def _shrunk(
    image: NDArray[np.uint8], centres: NDArray[np.float64], scale: float
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Shrink by area first where the map does: warpAffine alone would alias thin things."""
    if scale > 0.7:
        return image, centres
    height, width = image.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    fx, fy = size[0] / width, size[1] / height
    back = np.array([[1 / fx, 0, 0.5 / fx - 0.5], [0, 1 / fy, 0.5 / fy - 0.5], [0, 0, 1]])
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA), centres @ back


def _move(boxes: Boxes, edges: NDArray[np.float64], config: AugmentConfig) -> Boxes:
    """Boxes through the map, clipped to the crop; slivers become ignored, what is outside goes."""
    xs = boxes.xyxy[:, [0, 2]] * edges[0, 0] + edges[0, 2]
    ys = boxes.xyxy[:, [1, 3]] * edges[1, 1] + edges[1, 2]
    xs.sort(axis=1)
    area = (xs[:, 1] - xs[:, 0]) * (ys[:, 1] - ys[:, 0])
    xs, ys = xs.clip(0, config.width), ys.clip(0, config.height)
    wide, high = xs[:, 1] - xs[:, 0], ys[:, 1] - ys[:, 0]
    present = (wide > 1) & (high > 1)
    small = np.minimum(wide, high) < MIN_BOX_SIDE
    hidden = wide * high < MIN_VISIBLE * np.maximum(area, 1e-6)
    moved = np.stack((xs[:, 0], ys[:, 0], xs[:, 1], ys[:, 1]), 1).astype(np.float32)
    return Boxes(moved[present], boxes.labels[present], (boxes.ignored | small | hidden)[present])


def recolour(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Brightness, contrast, colour cast, gamma through one table; then saturation and blur."""
    gamma = float(np.exp(rng.uniform(-0.4, 0.4)))
    gain = rng.uniform(0.75, 1.25) * rng.uniform(0.93, 1.07, 3)
    bias = rng.uniform(-20, 20)
    ramp = (np.arange(256) / 255.0) ** gamma * 255.0
    table = np.clip(ramp[:, None] * gain + bias, 0, 255).astype(np.uint8)
    image = cv2.LUT(image, table[None])
    if rng.random() < 0.5:
        grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        keep = float(rng.uniform(0.4, 1.5))
        image = cv2.addWeighted(image, keep, grey, 1 - keep, 0)
    if rng.random() < 0.1:
        image = cv2.GaussianBlur(image, (3, 3), 0)
    return image
