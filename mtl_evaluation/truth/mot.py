# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Tracking labels of MOTChallenge (Milan et al., arXiv 1603.00831) -> Scalabel frames.

    SEQUENCE/gt/gt.txt      frame, id, left, top, width, height, scored, class, visibility
    SEQUENCE/seqinfo.ini    optional: how many frames there are, and how their files are named

Frames count from 1, and so do pixels. Static persons, persons on vehicles, distractors, reflections
and crowds, and whatever the file marks as not scored, become ignored regions; occluders are left
out.
"""

from __future__ import annotations

from collections.abc import Mapping
from configparser import ConfigParser
from configparser import Error as IniError
from math import isfinite
from pathlib import Path
from typing import Any

from mtl_evaluation.truth.errors import LabelError

CLASSES = {
    -1: 'pedestrian', 1: 'pedestrian', 2: 'rider', 3: 'car', 4: 'bicycle', 5: 'motorcycle',
    7: 'pedestrian', 8: 'pedestrian', 12: 'pedestrian', 13: 'pedestrian',
}  # fmt: skip
"""BDD100K's name for a class number; -1: the sets of 2015, which have pedestrians only."""

NOT_SCORED = {2, 7, 8, 12, 13}
COLUMNS = 7
"""Fewest that a line has."""

MOST_FRAMES = 1_000_000


def mot_frames(path: Path) -> list[Mapping[str, Any]]:
    """Frames of a `gt.txt`, also those without an object; raises LabelError naming the line."""
    sequence, length, suffix = _about(path)
    labels: dict[int, list[dict[str, Any]]] = {}
    try:
        lines = path.read_text('utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LabelError(f'{path} cannot be read: {error}') from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                frame, found = _label(line)
            except ValueError as error:
                raise LabelError(
                    f'{path}, line {number}: {error}; expected the comma-separated numbers frame, '
                    f'id, left, top, width, height, scored, class, visibility of MOTChallenge'
                ) from error
            labels.setdefault(frame, []).extend(found)
    last = max(length, max(labels, default=0))
    if last > MOST_FRAMES:
        raise LabelError(f'{path}: frame {last}, expected at most {MOST_FRAMES}')
    return [
        {
            'name': f'{frame:06d}{suffix}',
            'videoName': sequence,
            'frameIndex': frame - 1,
            'labels': labels.get(frame, []),
        }
        for frame in range(1, last + 1)
    ]


def is_mot_sequence(folder: Path) -> bool:
    """Whether a folder is a sequence with truth."""
    return (folder / 'gt' / 'gt.txt').is_file()


def _label(line: str) -> tuple[int, list[dict[str, Any]]]:
    """Frame number and its label, none of an occluder."""
    values = [float(value) for value in line.split(',')]
    if len(values) < COLUMNS or not all(map(isfinite, values)):
        raise ValueError(f'{len(values)} values, {line!r:.60}')
    frame, identity = int(values[0]), int(values[1])
    if frame < 1:
        raise ValueError(f'frame {frame}')
    left, top, width, height = values[2:6]
    kind = int(values[7]) if len(values) > COLUMNS else -1
    if kind not in CLASSES:
        return frame, []
    label = {
        'id': str(identity),
        'category': CLASSES[kind],
        'attributes': {'crowd': kind in NOT_SCORED or values[6] == 0},
        'box2d': {
            'x1': left - 1, 'y1': top - 1, 'x2': left - 1 + width, 'y2': top - 1 + height,
        },
    }  # fmt: skip
    return frame, [label]


def _about(path: Path) -> tuple[str, int, str]:
    """Name of the sequence, its frames (0: not known) and the suffix of its images."""
    folder = path.parent.parent if path.parent.name == 'gt' else path.parent
    file = folder / 'seqinfo.ini'
    name = folder.name if path.stem == 'gt' else path.stem
    if not file.is_file():
        return name, 0, '.jpg'
    parser = ConfigParser()
    try:
        parser.read(file, 'utf-8')
        about = parser['Sequence']
        return about.get('name', name), about.getint('seqLength', 0), about.get('imExt', '.jpg')
    except (IniError, KeyError, ValueError, UnicodeDecodeError) as error:
        raise LabelError(f'{file} is not a seqinfo.ini of MOTChallenge: {error}') from error
