# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What is to be looked at in the page of a run: the worst frames, the videos."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote, unquote

from mtl_evaluation import kinds
from mtl_evaluation.kinds.detection import SHOWN_SCORE
from mtl_evaluation.pictures.video import plays_in_browsers
from mtl_evaluation.report import page
from mtl_evaluation.report.gallery import Shot, gallery
from mtl_evaluation.report.page import Section, card, dim
from mtl_evaluation.report.pictures import task_panels
from mtl_evaluation.report.review import Shown, TaskReview, galleries, records_of
from mtl_evaluation.runs.revisit import Pictures
from mtl_evaluation.runs.run import Run

OPENED_WITH = {
    '': 'Foxglove, with config/foxglove_replay.json; RViz, with config/replay.rviz',
    '.mp4': 'a desktop video player',
    '.rrd': 'rerun',
}
"""What shows a recording, by the ending of its name."""


def worst_frames(
    run: Run, reviews: Mapping[str, TaskReview], pictures: Pictures | None
) -> Iterator[Section]:
    """A gallery per task."""
    shown = galleries(run, reviews)
    shots = _shots(run, reviews, shown, pictures) if pictures is not None else {}
    parts = []
    for name, frames in shown.items():
        rule = kinds.of(reviews[name].task).worst_rule
        parts.append(page.subheading(f'{name}: {rule}'))
        places = [(name, item.record.key) for item in frames]
        parts.append(gallery([shots[place] for place in places if place in shots], 3))
        listed = [
            (item.record.key, item.flaw.text)
            for item, place in zip(frames, places, strict=True)
            if place not in shots
        ]
        if listed:
            parts.append(card('', page.table(('frame', 'what is wrong'), listed, ())))
    if parts:
        rule = (
            'Chosen by the rules below, worst first; of frames within a second only the worst. '
            f'Boxes with a score of at least {SHOWN_SCORE:g}. Click a picture to enlarge it.'
        )
        yield Section('Worst frames', dim(rule) + page.joined(parts))


def _shots(
    run: Run,
    reviews: Mapping[str, TaskReview],
    shown: Mapping[str, Sequence[Shown]],
    pictures: Pictures,
) -> dict[tuple[str, str], Shot]:
    """Pictures of the frames of the galleries, by task and key; frames are asked for in order."""
    wanted: dict[str, list[tuple[str, Shown]]] = {}
    for name, frames in shown.items():
        for item in frames:
            wanted.setdefault(item.record.key, []).append((name, item))
    shots = {}
    for key, record in records_of(run, wanted).items():
        seen = pictures(record)
        if seen is None:
            continue
        for name, item in wanted[key]:
            shots[name, key] = Shot.of(_caption(item), task_panels(seen, reviews[name].task))
    return shots


def _caption(item: Shown) -> str:
    record = item.record
    where = record.name or f'{record.bag} frame {record.index}'
    labels = ', '.join(record.slices.values())
    return ' · '.join(part for part in (where, labels, item.flaw.text) if part)


def recordings(run: Run, beside: Path) -> Iterator[Section]:
    """Videos, and what else lies in RUN/recordings/<bag>, as seen from the page's folder."""
    parts, rows = [], []
    for folder in sorted((run.path / 'recordings').glob('*')):
        bag = unquote(folder.name, errors='surrogateescape')
        for file in sorted(folder.iterdir()):
            where = os.path.relpath(file, beside)
            if file.suffix == '.mp4' and plays_in_browsers(file):
                source = quote(where, errors='surrogateescape')
                parts.append(page.subheading(bag) + page.video(source))
            else:
                rows.append((bag, where, OPENED_WITH.get(file.suffix, '')))
    if rows:
        parts.append(card('', page.table(('bag', 'file', 'to be opened with'), rows, ())))
    if parts:
        yield Section('Recordings', page.joined(parts))
