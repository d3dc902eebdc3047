# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""How accuracy is put into words: the same lines in the terminal, in JSON and in the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NOT_MEASURED = 'not measured'

HEADLINES: dict[str, tuple[tuple[str, str], ...]] = {
    'detection': (('AP50', 'AP50'), ('AP', 'AP (0.50:0.95)')),
    'classification': (('accuracy', 'accuracy'), ('macro_f1', 'macro F1')),
    'depth': (
        ('delta1', 'within a factor of 1.25'),
        ('abs_error', 'absolute error'),
        ('rel_error', 'relative error'),
    ),
    'normals': (
        ('within_11_25', 'within 11.25°'),
        ('mean_error', 'mean angle'),
        ('median_error', 'median angle'),
    ),
}
MAIN: dict[str, tuple[str, str]] = {
    'detection': ('AP50', 'AP50'),
    'segmentation': ('miou', 'mIoU'),
    'classification': ('accuracy', 'accuracy'),
    'depth': ('delta1', 'within a factor of 1.25'),
    'normals': ('within_11_25', 'within 11.25°'),
}
"""The one figure a task kind: key in its result, and its name."""

UNITS = {
    'abs_error': 'm', 'rmse': 'm', 'rel_error': '', 'mean_error': '°', 'median_error': '°',
}  # fmt: skip
"""Units of the figures that are no shares; lower is better."""

SEGMENTATION = (('miou', 'mIoU'), ('pixel_accuracy', 'pixel accuracy'))
DRIVABLE = (
    ('miou', 'mIoU strict'),
    ('official_miou', 'mIoU as BDD100K counts it'),
    ('two_class_miou', 'mIoU drivable / not'),
)

GENERATED_NOTE = (
    'Generated scenes are no evidence of real-world accuracy: these figures only show that the '
    'whole way from pixels to metrics works.'
)
REAL_NOTE = (
    'Accuracy against the labels that came with these frames, over the frames that were processed.'
)
ROAD_ONLY_NOTE = (
    'The drivable labels have no pixel of class "alternative". If they only tell road from the '
    'rest, the figure for drivable / not is the fair one, and the strict one is not.'
)
NO_TRUTH_NOTE = 'These frames came without labels, so no accuracy was measured.'
EXPLAINED = (
    'AP as in BDD100K (COCO’s, at most 100 detections per class and frame). mIoU is the mean over '
    'classes that the labels contain; unlabelled pixels do not count. BDD100K’s drivable figure '
    'leaves out all pixels labelled background and so forgives painting the pavement; the strict '
    'one does not.'
)
"""What the figures mean, under every table of them."""


def accuracy_rows(scores: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, str, int]]:
    """Task, metric, value and frames it was measured on, one row a headline figure."""
    rows = []
    for name, result in scores.items():
        kind = result['kind']
        if kind == 'segmentation':
            # With one class beside the background all three figures are nearly one.
            tells_areas_apart = 'official_miou' in result and len(result['iou']) > 2
            lines: Sequence[tuple[str, str]] = DRIVABLE if tells_areas_apart else SEGMENTATION
        else:
            lines = HEADLINES[kind]
        rows += [(name, title, shown(key, result[key]), result['frames']) for key, title in lines]
    return rows


def published_line(counts: Mapping[str, Any]) -> str:
    """What is right and wrong with the boxes that are published, in one line."""
    return (
        f'published boxes (score {counts["score"]:g}) of {counts["frames"]} frames: '
        f'{counts["right"]} right, {counts["second"]} second boxes on one object, '
        f'{counts["loose"]} loose, {counts["wrong_class"]} of a wrong class, '
        f'{counts["false"]} false; {counts["missed"]} objects missed'
    )


TRACKING: dict[str, str] = {
    'HOTA': 'HOTA',
    'DetA': 'DetA: detection',
    'AssA': 'AssA: association',
    'IDF1': 'IDF1',
    'MOTA': 'MOTA',
    'mHOTA': 'mHOTA, the mean over classes',
}


def tracking_rows(scores: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Task, metric and value of what the truth's identities say about tracks."""
    rows = []
    for name, result in scores.items():
        rows += [(name, title, percent(result[key])) for key, title in TRACKING.items()]
        objects = result['objects']
        rows += [
            (name, 'id switches', f'{result["id_switches"]} of {result["truth"]} boxes'),
            (name, 'tracks interrupted', f'{result["fragments"]} of {objects} objects'),
            (name, 'mostly tracked, mostly lost',
             f'{result["mostly_tracked"]}, {result["mostly_lost"]} of {objects} objects'),
        ]  # fmt: skip
    return rows


def class_values(result: Mapping[str, Any]) -> tuple[str, dict[str, float | None]]:
    """Name of a task's figure by class, and its value for every class (None: not labelled).

    No values for kinds without classes.
    """
    if result['kind'] == 'detection':
        return 'AP50', {label: value['AP50'] for label, value in result['per_class'].items()}
    if result['kind'] == 'segmentation':
        return 'IoU', dict(result['iou'])
    return 'F1', dict(result.get('f1', {}))


def headline(result: Mapping[str, Any]) -> tuple[str, float | None]:
    """The one figure that stands for a task: its name and value."""
    key, title = MAIN[result['kind']]
    return title, result[key]


def shown(key: str, value: float | None) -> str:
    """A figure in its unit."""
    if key not in UNITS or value is None:
        return percent(value)
    return f'{value:.3f} {UNITS[key]}'.rstrip()


def percent(value: float | None, places: int = 1) -> str:
    """A fraction as percent; what was not measured says so."""
    return NOT_MEASURED if value is None else f'{100 * value:.{places}f} %'


def note(kind: str, scores: Mapping[str, Mapping[str, Any]]) -> str:
    """What the reader has to know about the figures; `kind` is where the drive came from."""
    if not any(result['frames'] for result in scores.values()):
        return NO_TRUTH_NOTE
    text = GENERATED_NOTE if kind == 'generated' else REAL_NOTE
    drivable = [result['official_iou'] for result in scores.values() if 'official_iou' in result]
    road_only = any({None} < {*iou.values()} for iou in drivable)
    return f'{text} {ROAD_ONLY_NOTE}' if road_only else text
