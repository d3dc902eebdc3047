# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""How accuracy is put into words: the same lines in the terminal, in JSON and in the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtl_evaluation import kinds

NOT_MEASURED = 'not measured'

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
    return [
        (name, title, shown(key, result[key]), result['frames'])
        for name, result in scores.items()
        for key, title in kinds.named(result['kind']).rows(result)
    ]


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
    kind = kinds.named(result['kind'])
    return kinds.figure(kind.class_figure).title, kind.by_class(result)


def main_figure(kind: str) -> tuple[str, str]:
    """The one figure that stands for a kind of tasks: key in its results, and its title."""
    key = kinds.named(kind).headlines[0]
    return key, kinds.figure(key).title


def headline(result: Mapping[str, Any]) -> tuple[str, float | None]:
    """The one figure that stands for a task: its title and value."""
    key, title = main_figure(result['kind'])
    return title, result[key]


def shown(key: str, value: float | None) -> str:
    """A figure in its unit."""
    figure = kinds.figure(key)
    return percent(value) if figure.is_share or value is None else figure.shown(value, '.3f')


def percent(value: float | None, places: int = 1) -> str:
    """A fraction as percent; what was not measured says so."""
    return NOT_MEASURED if value is None else f'{100 * value:.{places}f} %'


def note(origin: str, scores: Mapping[str, Mapping[str, Any]]) -> str:
    """What the reader has to know about the figures; `origin` is where the drive came from."""
    if not any(result['frames'] for result in scores.values()):
        return NO_TRUTH_NOTE
    text = GENERATED_NOTE if origin == 'generated' else REAL_NOTE
    drivable = [result['official_iou'] for result in scores.values() if 'official_iou' in result]
    road_only = any({None} < {*iou.values()} for iou in drivable)
    return f'{text} {ROAD_ONLY_NOTE}' if road_only else text
