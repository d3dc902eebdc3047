# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What is found at which size and distance: recall by box height and by distance of the object.

An object counts as found when a detection of its class, of at least the score from which the node
shows it, takes it at IoU 0.5 (`average_precision.match`). Ignored truth boxes are left out.

Distance is metres ahead of the camera on a flat road (`geometry.py`, as the node has it): the
middle of a box's lower edge is taken for the object's contact with the road. The camera with its
distortion comes from CameraInfo, and frames whose CameraInfo cannot be used are left out and
counted with the reason. No such message says how high the camera sits: height and angles have to
be given, unless the truth of a frame tells them (generated drives), and without them distance is
not measured. One pixel at 50 m is 1.7 m for a camera 1.5 m up with 1000 pixels of focal length,
and a hill breaks the assumption. Traffic lights and signs do not stand on the road and are left
out. Where the truth tells the places of objects too, the error of the distance of those that were
found is measured, at the lower edges of the detections that the image does not cut off.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.metrics.average_precision import ScoredImage
from mtl_perception.camera_model import CameraModel
from mtl_perception.decode import Thresholds
from mtl_perception.geometry import Mount, foot_pixels, on_ground

SCORE = Thresholds().score
HEIGHTS_PX = (16.0, 32.0, 64.0, 128.0)
DISTANCES_M = (10.0, 20.0, 30.0, 50.0, 80.0)
"""Ends of the bands; the last band has none."""

AIRBORNE = frozenset({'traffic light', 'traffic sign'})
NOT_PLACED = 'at or above the horizon'


class RoadRecall:
    """Objects and those found, by class and band; a sum over frames."""

    def __init__(self, classes: Sequence[str], mount: Mount | None = None) -> None:
        """Start from no frame."""
        self.classes = tuple(classes)
        self.mount = mount
        self.by_truth = False
        """Whether a frame's truth told the mount of its camera."""
        shape = (len(self.classes), len(HEIGHTS_PX) + 1, 2)
        self.by_height: NDArray[np.int64] = np.zeros(shape, np.int64)
        """Objects and objects found, [class, band, 2]."""
        shape = (len(self.classes), len(DISTANCES_M) + 2, 2)
        self.by_distance: NDArray[np.int64] = np.zeros(shape, np.int64)
        """The same; the last band is `NOT_PLACED`."""
        self.errors: list[array[float]] = [array('d') for _ in range(len(DISTANCES_M) + 1)]
        """Relative errors of the distance of objects that were found, by band of true distance."""
        self.left_out: Counter[str] = Counter()
        """Frames with objects whose camera is not known, by reason."""

    def add(
        self,
        image: ScoredImage,
        camera: CameraModel | str,
        mount: Mount | None = None,
        ahead_m: NDArray[np.float64] | None = None,
    ) -> None:
        """Add one frame.

        camera: for its pixels, or why it is not known. mount: of this frame, where its truth tells
        it, instead of the one given for all. ahead_m: true metres ahead of the truth boxes [N].
        """
        truth, labels = image.truth[~image.ignore], image.truth_labels[~image.ignore]
        if not len(truth):
            return
        taken_by = image.matches.taken_by[~image.ignore]
        found = (taken_by >= 0) & (np.append(image.scores, -np.inf)[taken_by] >= SCORE)
        bands = np.searchsorted(HEIGHTS_PX, truth[:, 3] - truth[:, 1], side='right')
        _count(self.by_height, labels, bands, found)
        mount = mount or self.mount
        if mount is None:
            return
        self.by_truth |= mount is not self.mount
        if isinstance(camera, str):
            self.left_out[camera] += 1
            return
        grounded = ~np.isin(labels, [self.classes.index(n) for n in AIRBORNE & {*self.classes}])
        if ahead_m is not None:
            known = ahead_m[~image.ignore]
            shown = found & grounded & np.isfinite(known) & (known > 0)
            boxes, known = image.predicted[taken_by[shown]], known[shown]
            whole = (boxes[:, 0] > 1) & (boxes[:, 2] < image.width - 1)
            whole &= boxes[:, 3] < image.height - 1
            self._compare(on_ground(foot_pixels(boxes[whole]), camera, mount)[:, 0], known[whole])
        distance = on_ground(foot_pixels(truth[grounded]), camera, mount)[:, 0]
        bands = np.searchsorted(DISTANCES_M, distance, side='right')
        bands[np.isnan(distance)] = len(DISTANCES_M) + 1
        _count(self.by_distance, labels[grounded], bands, found[grounded])

    def _compare(self, measured: NDArray[np.float64], known: NDArray[np.float64]) -> None:
        bands = np.searchsorted(DISTANCES_M, known, side='right')
        for band, error in zip(bands.tolist(), np.abs(measured / known - 1).tolist(), strict=True):
            self.errors[band].append(error)

    def merge(self, other: RoadRecall) -> None:
        """Add another one's frames."""
        self.by_truth |= other.by_truth
        for ours, theirs in zip(self.errors, other.errors, strict=True):
            ours.extend(theirs)
        self.by_height += other.by_height
        self.by_distance += other.by_distance
        self.left_out += other.left_out

    def result(self) -> dict[str, Any]:
        """Recall by band; `distance` is None with a reason in `distance_note` if not measured."""
        result: dict[str, Any] = {
            'score': SCORE,
            'iou': 0.5,
            'height_px': self._table(self.by_height, band_names(HEIGHTS_PX, 'px')),
            'distance_m': None,
            'distance_note': None,
            'distance_error': self._errors(),
        }
        if self.mount is None and not self.by_truth:
            result['distance_note'] = (
                'not measured: give --camera-height (and --camera-pitch), for bags with CameraInfo'
            )
        elif not self.by_distance.any():
            result['distance_note'] = (
                f'not measured: no frame with objects has a usable CameraInfo{self._reasons()}'
            )
        else:
            names = [*band_names(DISTANCES_M, 'm'), NOT_PLACED]
            result['distance_m'] = self._table(self.by_distance, names)
            mount = '' if self.mount is None else f', camera {self.mount.description}'
            mount += ', camera as the truth of the frame has it' if self.by_truth else ''
            result['distance_note'] = (
                f'flat ground{mount}; {self.left_out.total()} frames without a usable CameraInfo '
                f'left out{self._reasons()}'
            )
        return result

    def _errors(self) -> dict[str, Any] | None:
        """Of the distance of objects found, against the truth; None where that has no places."""
        if not any(self.errors):
            return None
        found = {}
        for name, errors in zip(band_names(DISTANCES_M, 'm'), self.errors, strict=True):
            known = np.array(errors)[np.isfinite(errors)]
            found[name] = {
                'objects': len(errors),
                'not_placed': len(errors) - len(known),
                'median': float(np.median(known)) if len(known) else None,
                'p90': float(np.quantile(known, 0.9)) if len(known) else None,
            }
        return found

    def _reasons(self) -> str:
        return ''.join(f'; {count}: {why}' for why, count in self.left_out.most_common(3))

    def _table(self, counts: NDArray[np.int64], names: Sequence[str]) -> dict[str, Any]:
        return {
            name: {
                **_recall(*counts[:, band].sum(0).tolist()),
                'classes': {
                    label: _recall(*counts[index, band].tolist())
                    for index, label in enumerate(self.classes)
                    if counts[index, band, 0]
                },
            }
            for band, name in enumerate(names)
        }


def band_names(ends: Sequence[float], unit: str) -> list[str]:
    """`< 16 px`, `16-32 px`, ..., `>= 128 px`."""
    between = [f'{low:g}-{high:g} {unit}' for low, high in zip(ends[:-1], ends[1:], strict=True)]
    return [f'< {ends[0]:g} {unit}', *between, f'>= {ends[-1]:g} {unit}']


def _count(
    counts: NDArray[np.int64],
    labels: NDArray[np.int64],
    bands: NDArray[np.int64],
    found: NDArray[np.bool_],
) -> None:
    np.add.at(counts[..., 0], (labels, bands), 1)
    np.add.at(counts[..., 1], (labels, bands), found)


def _recall(objects: int, found: int) -> Mapping[str, Any]:
    return {'objects': objects, 'found': found, 'recall': found / objects if objects else None}
