"""Data sets in the BDD100K layout, which real, derived and generated data share here.

    images/{100k,10k}/{split}/NAME.jpg          one index by NAME over both folders
    labels/det_20/det_{split}.json              Scalabel frames: boxes and image attributes
    labels/{drivable,sem_seg}/masks/{split}/NAME.png    index = class id, 255 = unlabelled

A frame listed in the detection file is labelled for detection even when it has no box; an attribute
`undefined`, a missing mask and an unlisted frame are unlabelled. Categories that are not among the
ten (`other vehicle`, ...) and boxes marked crowd or suspectMerged are ignored regions.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mtl_perception.replay.labels import LabelError, read_mask, scalabel_frames, truth_boxes
from mtl_perception.tasks import DETECTION, DRIVABLE, SCENE, SEMANTIC, TIME_OF_DAY, WEATHER
from training.data.sample import Boxes, DatasetError, Sample

log = logging.getLogger(__name__)

ATTRIBUTES = {task.name: task for task in (WEATHER, SCENE, TIME_OF_DAY)}


@dataclass(frozen=True)
class LayoutConfig:
    """Where a data set lies and what its labels mean.

    pattern picks image names. weight is the share of training draws. semantic_masks is the folder
    of the semantic labels; for `coarse7` its ids are class sets. drivable_split False says that the
    masks know road and background only, so that road means direct or alternative. An optional data
    set that is not there is left out, with a log line.
    """

    name: str
    root: str
    pattern: str = '*'
    weight: float = 1.0
    semantic_masks: str = 'sem_seg'
    drivable_split: bool = True
    optional: bool = False


class Bdd100kLayout:
    """Index over one split; `load(i)` reads a `Sample`.

    Raises DatasetError when the folder has no images for the split, or on unreadable files.
    """

    def __init__(self, config: LayoutConfig, split: str) -> None:
        """Build the index by image name; reads the label file, no image."""
        self.config = config
        self.split = split
        self.root = Path(config.root).expanduser()
        self.images = {
            path.name: path
            for folder in sorted(self.root.glob(f'images/*/{split}'))
            for path in sorted(folder.rglob('*.jpg'))
            if fnmatch(path.name, config.pattern)
        }
        if not self.images:
            raise DatasetError(
                f'data set {config.name!r}: no images {config.pattern!r} under '
                f'{self.root}/images/*/{split}; see README, section Training, for the layout'
            )
        self.names = sorted(self.images)
        self.frames = self._read_frames()

    def __len__(self) -> int:
        """Number of images of the split."""
        return len(self.names)

    def load(self, index: int) -> Sample:
        """Read image and labels of the index-th name."""
        name = self.names[index]
        path = self.images[name]
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            raise DatasetError(f'{path} does not decode as an image')
        rgb = np.ascontiguousarray(image[..., ::-1])
        frame = self.frames.get(name)
        classes = {} if frame is None else _attributes(frame.get('attributes') or {})
        boxes = {} if frame is None else {DETECTION.name: _boxes(frame.get('labels') or [])}
        return Sample(name, self.config.name, rgb, boxes, self._masks(name, rgb.shape[:2]), classes)

    def _read_frames(self) -> Mapping[str, Mapping[str, Any]]:
        path = self.root / 'labels' / 'det_20' / f'det_{self.split}.json'
        if not path.is_file():
            return {}
        with _as_dataset_error():
            frames = scalabel_frames(path)
        return {frame['name']: frame for frame in frames if frame['name'] in self.images}

    def _masks(self, name: str, size: tuple[int, ...]) -> dict[str, NDArray[np.uint8]]:
        masks = {}
        drivable = self._mask('drivable', name, size, len(DRIVABLE.classes))
        if drivable is not None:
            if not self.config.drivable_split:
                drivable[drivable == 0] = len(DRIVABLE.classes)
            masks[DRIVABLE.name] = drivable
        coarse = self.config.semantic_masks != 'sem_seg'
        semantic = self._mask(self.config.semantic_masks, name, size, len(SEMANTIC.classes))
        if semantic is not None:
            if coarse:
                semantic[semantic != 255] += len(SEMANTIC.classes)
            masks[SEMANTIC.name] = semantic
        return masks

    def _mask(
        self, kind: str, name: str, size: tuple[int, ...], classes: int
    ) -> NDArray[np.uint8] | None:
        path = self.root / 'labels' / kind / 'masks' / self.split / f'{Path(name).stem}.png'
        if not path.is_file():
            return None
        with _as_dataset_error():
            mask = read_mask(path)
        if mask.shape != tuple(size):
            raise DatasetError(f'{path}: mask is {mask.shape}, its image is {tuple(size)}')
        unknown = np.setdiff1d(np.unique(mask), [*range(classes), 255])
        if len(unknown):
            raise DatasetError(f'{path}: unknown ids {unknown.tolist()}, expected 0-{classes - 1}')
        return mask


def open_layouts(configs: Sequence[LayoutConfig], split: str) -> list[Bdd100kLayout]:
    """Open a split of every data set; raises DatasetError when one that is needed is missing."""
    layouts = []
    for config in configs:
        if config.optional and not Path(config.root).expanduser().is_dir():
            log.warning('data set %r left out: no folder %s', config.name, config.root)
            continue
        layouts.append(Bdd100kLayout(config, split))
    if not layouts:
        raise DatasetError(
            f'none of the data sets {[c.name for c in configs]} is there; '
            f'`python -m training.data.scenes` draws one'
        )
    return layouts


@contextmanager
def _as_dataset_error() -> Iterator[None]:
    try:
        yield
    except LabelError as error:
        raise DatasetError(str(error)) from error


def _attributes(attributes: Mapping[str, str]) -> dict[str, int]:
    """Image attributes -> class ids, `undefined` left out."""
    return {
        name: task.classes.index(attributes[name])
        for name, task in ATTRIBUTES.items()
        if attributes.get(name) in task.classes
    }


def _boxes(labels: list[Mapping[str, Any]]) -> Boxes:
    truth = truth_boxes(labels)
    ids = [DETECTION.classes.index(name) for name in truth.classes]
    return Boxes(truth.boxes, np.array(ids, np.int64), truth.ignore)
