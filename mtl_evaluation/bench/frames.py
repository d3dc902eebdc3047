# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Images of a folder or data set: what int8 engines are calibrated with and engines checked on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from mtl_perception.bundle import Bundle
from mtl_perception.engines import Calibration, EngineError
from mtl_perception.letterbox import Letterbox
from mtl_scenes import random_scene

if TYPE_CHECKING:
    from mtl_evaluation.bags.sources import Images

log = logging.getLogger(__name__)

CALIBRATION_FRAMES = 128
SCENES = 32


def images(path: Path, split: str, limit: int) -> Images:
    """At most `limit` images, evenly spaced by name, and the labels beside them.

    path: a folder of images, or a data set in BDD100K layout, of which `split` is taken. Raises
    SourceError when there is nothing, LabelError on broken labels, EngineError on a limit below 1.
    """
    from mtl_evaluation.bags.sources import DatasetSplit, ImageFolder, Images

    if limit < 1:
        raise EngineError(f'--frames {limit}: expected at least 1')
    dataset = (path / 'images').is_dir()
    found: Images = DatasetSplit(path, split) if dataset else ImageFolder(path)
    count = len(found.paths)
    if count <= limit:
        return found
    chosen = [found.paths[i * count // limit] for i in range(limit)]
    return Images(chosen, f'{found.where}, {limit} of {count}', 1.0)


def calibration(bundle: Bundle, path: Path | None) -> Calibration:
    """Letterboxed frames of a folder or the train split of a data set; generated scenes without."""
    if path is not None:
        found = images(path, 'train', CALIBRATION_FRAMES)
        pictures = [read_bgr(file)[..., ::-1] for file in found.paths]
        return Calibration([_letterboxed(bundle, p) for p in pictures], found.description)
    log.warning(
        'int8 takes its ranges from generated scenes; --calibrate FOLDER takes them from images of '
        'the camera that it will see'
    )
    spec = bundle.manifest.input
    scenes = [random_scene(seed, spec.width, spec.height).image for seed in range(SCENES)]
    return Calibration(scenes, f'{SCENES} generated scenes')


def read_bgr(path: Path) -> NDArray[np.uint8]:
    """Uint8 [H, W, 3]; raises EngineError on what is no image."""
    image = cv2.imread(str(path))
    if image is None:
        raise EngineError(f'{path} does not decode as an image')
    return np.asarray(image, np.uint8)


def _letterboxed(bundle: Bundle, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    spec = bundle.manifest.input
    box = Letterbox.fit(rgb.shape[1], rgb.shape[0], spec.width, spec.height)
    return box.apply(np.ascontiguousarray(rgb), box.new_buffer(spec.letterbox_colour))
