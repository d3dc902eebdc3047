# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What is known about a frame.

A task that a frame's truth does not mention is unlabelled there: it adds nothing to any metric.
That is not the same as labelled and empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mtl_perception.geometry import Mount
from mtl_perception.tasks import Task


@dataclass(frozen=True)
class TruthBoxes:
    """Labelled objects of one frame: float32 [N, 4] xyxy source pixels, N class names.

    ignore bool [N]: there is something, but it is not scored (crowds, merged boxes). ids: who each
    is, the same name in every frame of a drive, '' where that is unknown; empty: of none.
    """

    boxes: NDArray[np.float32]
    classes: tuple[str, ...]
    ignore: NDArray[np.bool_]
    ids: tuple[str, ...] = ()

    @property
    def has_identities(self) -> bool:
        """Whether it is known who every scored object is; of no object: yes."""
        known = [bool(name) for name in self.ids] or [False] * len(self.ignore)
        return bool((self.ignore | np.array(known, bool)).all())

    @classmethod
    def none(cls) -> TruthBoxes:
        """A frame that was labelled and holds no object."""
        return cls(np.zeros((0, 4), np.float32), (), np.zeros(0, bool))


@dataclass(frozen=True)
class TruthPlaces:
    """Where the objects of `TruthBoxes` stand, and the camera: metres.

    feet: float64 [N, 3], each object's point of contact with the road that is nearest to the
    camera, in the base frame (x forward, y left, z up), NaN where that is unknown. mount: of the
    camera in that frame.
    """

    feet: NDArray[np.float64]
    mount: Mount


@dataclass(frozen=True)
class Truth:
    """Labels of one frame by task name; a missing key or None is unlabelled.

    masks: uint8 [H, W] class ids, 255 = unlabelled pixel. labels: class name a classification task.
    places: of the boxes. maps: depth float32 [H, W] metres, normals float32 [H, W, 3] unit vectors,
    zeros where unknown. others: of kinds that plug-ins add, plain data by
    kind and then by task.
    """

    boxes: TruthBoxes | None = None
    masks: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    places: TruthPlaces | None = None
    maps: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    others: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether anything at all is known."""
        return self.boxes is not None or bool(self.masks or self.labels or self.maps or self.others)

    def joined(self, other: Truth) -> Truth:
        """What either says, the other first where both do."""
        kinds = self.others.keys() | other.others.keys()
        return Truth(
            self.boxes if other.boxes is None else other.boxes,
            {**self.masks, **other.masks},
            {**self.labels, **other.labels},
            other.places or self.places,
            {**self.maps, **other.maps},
            {
                kind: {**self.others.get(kind, {}), **other.others.get(kind, {})}
                for kind in sorted(kinds)
            },
        )


def class_ids(task: Task, names: Iterable[str]) -> list[int]:
    """Ids of class names; raises ValueError naming the unknown class and the task's table."""
    ids = {name: index for index, name in enumerate(task.classes)}
    try:
        return [ids[name] for name in names]
    except KeyError as error:
        raise ValueError(
            f'the truth names class {error.args[0]!r}, task {task.name} has '
            f'{", ".join(task.classes)}: bag and model were made with different class tables'
        ) from None


def same_size(truth: NDArray[Any], prediction: NDArray[Any]) -> NDArray[Any]:
    """The truth mask or map at the prediction's size: some data sets store it at another one."""
    height, width = prediction.shape[:2]
    if truth.shape[:2] == (height, width):
        return truth
    resized = cv2.resize(truth, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(resized, truth.dtype)
