# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Look at what training sees: `python -m training.data.preview CONFIG --output sheet.png`.

A row a draw, exactly as the loader yields it: the image with boxes (ignored regions dashed and
hatched), then each segmentation task of the configuration tinted on it (grey hatching: unlabelled;
coloured stripes: one of several classes), depth and normals beside it. The caption names source and
image, the attributes, and what the draw is not labelled for. `--split val` shows whole images
instead.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mtl_perception import kinds
from mtl_perception.frame import Result
from mtl_perception.painting import Style
from mtl_perception.tasks import UNLABELLED, Task
from training import tasks as trained
from training.command import at_least, check_output, run
from training.config import ConfigError, RunConfig, load_config
from training.data.box_classes import label_names
from training.data.layout import open_layouts
from training.data.loader import Draws
from training.data.pictures import write_picture
from training.data.sample import Boxes, DatasetError, Sample
from training.tasks.segmentation import GROUPS

Image = NDArray[np.uint8]
Colour = tuple[int, int, int]

TINT = 0.5
CAPTION = 34
"""Rows above a picture."""
GAP = 6
DARK: Colour = (24, 26, 30)
TEXT: Colour = (235, 235, 235)
GREY: Colour = (150, 150, 150)
FONT = cv2.FONT_HERSHEY_SIMPLEX


def sheet(config: RunConfig, split: str, count: int, columns: int) -> Image:
    """A contact sheet of `count` samples, uint8 RGB; raises DatasetError."""
    tasks = config.task_table()
    rows = [strip(sample, tasks) for sample in _samples(config, split, count)]
    while len(rows) % columns:
        rows.append(np.full_like(rows[0], DARK))
    width = max(row.shape[1] for row in rows)
    cells = [_padded(row, width) for row in rows]
    lines = []
    for begin in range(0, len(cells), columns):
        line = cells[begin : begin + columns]
        height = max(len(cell) for cell in line)
        lines.append(np.hstack([_padded(cell, width, height) for cell in line]))
    return np.vstack(lines)


def strip(sample: Sample, tasks: Sequence[Task]) -> Image:
    """One sample: boxes, then its masks side by side, a caption above."""
    image = np.ascontiguousarray(sample.image)
    boxed = image.copy()
    for task in tasks:
        if task.name in sample.boxes:
            draw_boxes(boxed, sample.boxes[task.name], task)
    panels = [boxed]
    for task in tasks:
        kind, label = kinds.of(task), trained.of(task).label(sample, task)
        if kind.is_mask:
            none = np.full(image.shape[:2], UNLABELLED, np.uint8)
            panels.append(tinted(image, none if label is None else label, task))
        elif kind.is_image and label is not None:
            panels.append(image.copy())
            kind.paint(panels[-1], Result({task.name: label}), task, Style.for_height(len(image)))
    gap = np.full((len(image), GAP, 3), DARK, np.uint8)
    joined = np.hstack([part for panel in panels for part in (panel, gap)])
    return np.vstack([_caption(sample, tasks, joined.shape[1]), joined, gap_row(joined)])


def gap_row(image: Image) -> Image:
    """A dark line as wide as the image."""
    return np.full((GAP, image.shape[1], 3), DARK, np.uint8)


def draw_boxes(image: Image, boxes: Boxes, task: Task) -> None:
    """Truth boxes with class names; ignored regions dashed and hatched."""
    for box, label, ignored in zip(boxes.xyxy, boxes.labels, boxes.ignored, strict=True):
        left, top, right, bottom = np.round(box).astype(int).tolist()
        names = label_names(label, task)
        colour = task.colours[task.classes.index(names[0])]
        if ignored:
            part = image[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
            part[_stripes(part.shape[:2], 8)] = GREY
            _dashed(image, (left, top, right, bottom), GREY)
            continue
        cv2.rectangle(image, (left, top), (right - 1, bottom - 1), colour, 1)
        name = '|'.join(names)
        (wide, high), _ = cv2.getTextSize(name, FONT, 0.32, 1)
        at = (min(left, image.shape[1] - wide), max(high + 1, top - 2))
        cv2.putText(image, name, at, FONT, 0.32, DARK, 2, cv2.LINE_AA)
        cv2.putText(image, name, at, FONT, 0.32, colour, 1, cv2.LINE_AA)


def tinted(image: Image, mask: NDArray[np.uint8], task: Task) -> Image:
    """The image with class colours; class sets striped in the colours of their members."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(task.classes)] = task.colours
    colours = table[mask]
    ys, xs = np.indices(mask.shape)
    for group, members in enumerate(GROUPS.get(task.name, ())):
        band = (xs + ys) // 6 % len(members)
        striped = table[np.array(members)][band]
        inside = mask == len(task.classes) + group
        colours[inside] = striped[inside]
    seen = cv2.addWeighted(image, 1 - TINT, colours, TINT, 0)
    seen[(mask == UNLABELLED) & _stripes(mask.shape, 10)] = GREY
    return np.asarray(seen, np.uint8)


def _samples(config: RunConfig, split: str, count: int) -> Iterator[Sample]:
    layouts = open_layouts(config.data, split)
    if split == 'train':
        draws = Draws(layouts, config.augment, config.seed, config.tasks)
        yield from (draws[draw] for draw in range(count))
        return
    for number in range(count):
        layout = layouts[number % len(layouts)]
        step = max(1, len(layout) * len(layouts) // count)
        yield layout.load(number // len(layouts) * step % len(layout), tasks=config.tasks)


def _caption(sample: Sample, tasks: Sequence[Task], width: int) -> Image:
    labels = [
        f'{task.name}: {task.classes[sample.classes[task.name]]}'
        for task in tasks
        if task.name in sample.classes
    ]
    for task in tasks:
        label = sample.others.get(task.kind, {}).get(task.name)
        if label is not None and (caption := kinds.of(task).caption(label, task)):
            labels.append(f'{task.name}: {caption[0]}')
    missing = [task.name for task in tasks if task.name not in sample.labelled]
    lines = (
        f'{sample.source}  {sample.name}',
        ', '.join(labels) + (f'   not labelled: {", ".join(missing)}' if missing else ''),
    )
    strip_above = np.full((CAPTION, width, 3), DARK, np.uint8)
    for row, line in enumerate(lines):
        cv2.putText(strip_above, line, (4, 13 + 15 * row), FONT, 0.38, TEXT, 1, cv2.LINE_AA)
    return strip_above


def _stripes(shape: tuple[int, ...], period: int) -> NDArray[np.bool_]:
    ys, xs = np.indices(shape)
    return np.asarray((xs + ys) % period == 0)


def _dashed(image: Image, corners: tuple[int, int, int, int], colour: Colour) -> None:
    left, top, right, bottom = corners
    for at in range(left, right, 8):
        for row in (top, bottom - 1):
            cv2.line(image, (at, row), (min(at + 4, right - 1), row), colour, 1)
    for at in range(top, bottom, 8):
        for column in (left, right - 1):
            cv2.line(image, (column, at), (column, min(at + 4, bottom - 1)), colour, 1)


def _padded(image: Image, width: int, height: int | None = None) -> Image:
    grown = np.full((height or len(image), width, 3), DARK, np.uint8)
    grown[: len(image), : image.shape[1]] = image
    return grown


def main(argv: list[str] | None = None) -> int:
    """Command line; exit code 1 with one sentence on a usage or data error."""
    parser = argparse.ArgumentParser(prog='python -m training.data.preview', description=__doc__)
    parser.add_argument('config', help='YAML file, see training/configs/')
    parser.add_argument('overrides', nargs='*', metavar='key=value')
    parser.add_argument('--output', type=Path, default=Path('sheet.png'))
    parser.add_argument('--split', default='train')
    parser.add_argument('--count', type=at_least(1), default=16)
    parser.add_argument('--columns', type=at_least(1), default=1)
    args = parser.parse_intermixed_args(argv)
    try:
        check_output('--output', args.output)
        config = load_config(args.config, args.overrides)
        picture = sheet(config, args.split, args.count, args.columns)
        write_picture(args.output, picture[..., ::-1])
    except (ConfigError, DatasetError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    print(f'{args.output}: {args.count} samples of {args.split}')
    return 0


if __name__ == '__main__':
    sys.exit(run(main))
