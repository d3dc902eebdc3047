# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Draw BDD100K's polygon and RLE labels as the masks that training reads.

    python -m training.data.to_masks ROOT

reads labels/{drivable,sem_seg,lane}/{rles,polygons}/{kind}_{split}.json, or the areas and lanes of
the label files of 2018, and writes labels/{kind}/masks/{split}/NAME.png where that folder is not
there yet; a run that stops halfway leaves no such folder. A `poly2d` holds vertices with a type
each: L is a point, C C are the controls of a cubic Bezier curve that ends in the next vertex, for
the last curve of an area in the first one. Later labels lie over earlier ones. All as the toolkit's
`to_mask` has it.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from mtl_evaluation.truth.label_files import IMAGE_SUFFIX, Frame, scalabel_frames
from mtl_perception.tasks import DRIVABLE, LANE, SEMANTIC, UNLABELLED
from training.command import at_least, run
from training.data.bdd100k import MASK_KINDS
from training.data.bdd_folders import find_old_labels, image_folders, undrawn
from training.data.index import as_dataset_error, by_name
from training.data.pictures import picture_size
from training.data.sample import DatasetError

SIZE = (1280, 720)
"""Of BDD100K's images, where neither the image nor the label file is there to tell."""
CURVE_POINTS = 16
BACKGROUND = {DRIVABLE.name: 2, SEMANTIC.name: UNLABELLED, LANE.name: UNLABELLED}
AREAS_2018 = {'area/drivable': 'direct', 'area/alternative': 'alternative'}
LANE_CATEGORIES = (
    'crosswalk', 'double other', 'double white', 'double yellow', 'road curb', 'single other',
    'single white', 'single yellow',
)  # fmt: skip
"""In the order of the toolkit's `label/label.py`: their index is bits 0 to 2 of a lane mask."""
DIRECTIONS, STYLES = ('parallel', 'vertical'), ('solid', 'dashed')


def convert(root: Path, tasks: Sequence[str], workers: int) -> Iterator[str]:
    """Write the masks of every split that has none; yields one line per split for a person.

    A split's folder appears when all of its masks are written. Raises DatasetError on label files
    that cannot be read or drawn, on a folder that cannot be written, and when there is nothing to
    convert.
    """
    found = False
    for task in tasks:
        for source, split in _sources(root, task):
            found = True
            folder = _labels_above(source) / MASK_KINDS[task] / 'masks' / split
            if folder.is_dir():
                yield f'{folder} is there already, {source.name} left alone'
                continue
            with as_dataset_error():
                frames = scalabel_frames(source)
            images = {
                name: path
                for part in image_folders(root, split)
                for name, path in by_name(
                    (path.name, path) for path in part.rglob(f'*{IMAGE_SUFFIX}')
                ).items()
            }
            _check_names(frames, source)
            unfinished = folder.with_name(f'.{split}.new')
            shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
            try:
                unfinished.mkdir(parents=True)
                write = partial(_write, task, unfinished, images)
                with ThreadPoolExecutor(workers) as pool:
                    done = pool.map(write, frames)
                    for _ in track(done, description=f'{task} {split}', total=len(frames)):
                        pass
                unfinished.rename(folder)
            except OSError as error:
                raise DatasetError(
                    f'{folder} cannot be written: {error}; none of its masks are kept, make room '
                    f'or give write access and run this again'
                ) from error
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
            yield f'{folder}: {len(frames)} masks from {source}'
    if not found:
        raise DatasetError(
            f'{root}/labels has no {[MASK_KINDS[task] for task in tasks]} in rles/ or polygons/ '
            f'and no label file of 2018'
        )


def draw_mask(frame: Frame, task: str, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The mask of a frame as the toolkit stores it, uint8 [H, W]; size is (width, height).

    Raises DatasetError on a label that cannot be drawn.
    """
    width, height = size
    mask = np.full((height, width), BACKGROUND[task], np.uint8)
    label: Any = None
    try:
        for label in frame.get('labels') or []:
            value = mask_value(label, task)
            if value is None:
                continue
            if label.get('rle'):
                mask[decode_rle(label['rle'], size)] = value
                continue
            for vertices, types in polygons(label.get('poly2d') or []):
                closed = task != LANE.name
                draw(mask, flatten(vertices, types, closed), closed, value)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        which = label.get('id') if isinstance(label, Mapping) else repr(label)
        raise DatasetError(
            f'{frame["name"]}: label {which} cannot be drawn ({type(error).__name__}: {error})'
        ) from error
    return mask


def mask_value(label: Mapping[str, Any], task: str) -> int | None:
    """What a label writes into the mask of a task; None where it is none of the task's.

    Raises ValueError on a direction or style of a lane that there is not.
    """
    category = str(label.get('category'))
    attributes = label.get('attributes') or {}
    if task == LANE.name:
        kind = category.removeprefix('lane/')
        if category == 'lane':
            kind = str(attributes.get('laneTypes', attributes.get('laneType')))
        if kind not in LANE_CATEGORIES:
            return None
        direction = attributes.get('laneDirection', attributes.get('direction', 'parallel'))
        style = attributes.get('laneStyle', attributes.get('style', 'solid'))
        if direction not in DIRECTIONS or style not in STYLES:
            raise ValueError(
                f'lane of direction {direction!r} and style {style!r}, expected one of '
                f'{DIRECTIONS} and one of {STYLES}'
            )
        return (
            LANE_CATEGORIES.index(kind)
            + (DIRECTIONS.index(direction) << 5)
            + (STYLES.index(style) << 4)
        )
    if task == DRIVABLE.name:
        if category == 'drivable area':
            category = str(attributes.get('areaType'))
        category = AREAS_2018.get(category, category)
        return DRIVABLE.classes.index(category) if category in DRIVABLE.classes[:2] else None
    return SEMANTIC.classes.index(category) if category in SEMANTIC.classes else None


def polygons(poly2d: Sequence[Any]) -> Iterator[tuple[NDArray[np.float64], str]]:
    """Vertices [N, 2] and types of each polygon; of 2018, one polygon as rows of x, y, type."""
    if poly2d and not isinstance(poly2d[0], Mapping):
        yield (
            np.array([row[:2] for row in poly2d], np.float64),
            ''.join(str(row[2]) for row in poly2d),
        )
        return
    for polygon in poly2d:
        yield np.array(polygon['vertices'], np.float64), str(polygon['types'])


def flatten(vertices: NDArray[np.float64], types: str, closed: bool) -> NDArray[np.float64]:
    """Curves as short lines: points [M, 2], pixel edges as the vertices are."""
    if len(vertices) != len(types) or set(types) - set('LC'):
        raise ValueError(f'{len(vertices)} vertices with types {types!r}')
    points = [vertices[:1]]
    if closed:
        vertices, types = np.concatenate((vertices, vertices[:1])), types + 'L'
    at = 1
    steps = np.linspace(0, 1, CURVE_POINTS + 1)[1:, None]
    while at < len(vertices):
        if types[at] == 'L':
            points.append(vertices[at : at + 1])
            at += 1
            continue
        begin, (a, b, end) = points[-1][-1], vertices[at : at + 3]
        points.append(
            (1 - steps) ** 3 * begin
            + 3 * (1 - steps) ** 2 * steps * a
            + 3 * (1 - steps) * steps**2 * b
            + steps**3 * end
        )
        at += 3
    return np.concatenate(points)


def draw(
    mask: NDArray[np.uint8], points: NDArray[np.float64], closed: bool, value: int
) -> None:  # fmt: skip
    """Fill an area, or draw a line of about 3 pixels, which official lane masks have.

    The toolkit, too, fills what an outline touches.

    0.5 from pixel edges to centres: of the ways to round, this agrees best with official masks.
    """
    pixels = [np.round(points - 0.5).astype(np.int32)]
    if closed:
        cv2.fillPoly(mask, pixels, (value,))
    else:
        cv2.polylines(mask, pixels, False, (value,), 2)


def decode_rle(rle: Mapping[str, Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """COCO run lengths -> bool [H, W]; raises ValueError when they are of another size."""
    from faster_coco_eval.core import mask as coco_mask

    width, height = size
    if list(rle['size']) != [height, width]:
        raise ValueError(f'RLE of size {rle["size"]}, its image has {[height, width]}')
    counts = rle['counts']
    if isinstance(counts, str):
        counts = counts.encode()
    if isinstance(counts, list):
        return np.asarray(coco_mask.decode(coco_mask.frPyObjects(dict(rle), height, width)), bool)
    return np.asarray(coco_mask.decode({'size': [height, width], 'counts': counts}), bool)


def _sources(root: Path, task: str) -> Iterator[tuple[Path, str]]:
    """The label file of each split: RLE, else polygons, else the file of 2018."""
    for split in ('train', 'val', 'test'):
        path = undrawn(root, MASK_KINDS[task], split)
        if path is None and task != SEMANTIC.name:
            path = find_old_labels(root, split)
        if path is not None:
            yield path, split


def _check_names(frames: Sequence[Frame], source: Path) -> None:
    """Raise DatasetError for frames whose masks would overwrite each other."""
    counts = Counter(Path(frame['name']).stem for frame in frames)
    if counts and max(counts.values()) > 1:
        name = max(counts, key=counts.__getitem__)
        raise DatasetError(
            f'{source}: {counts[name]} images are called {name}, in different folders, and masks '
            f'are named as their image: expected each name once'
        )


def _labels_above(source: Path) -> Path:
    """The folder `labels` that a label file lies in."""
    return next(folder for folder in source.parents if folder.name == 'labels')


def _write(task: str, folder: Path, images: Mapping[str, Path], frame: Frame) -> None:
    name = Path(frame['name']).name
    if name in images:
        size = picture_size(images[name])
    else:
        told = frame.get('size') or {}
        size = (int(told.get('width', SIZE[0])), int(told.get('height', SIZE[1])))
    _, data = cv2.imencode('.png', draw_mask(frame, task, size))
    # imwrite says nothing when a full disk takes only the beginning of a small file.
    (folder / f'{Path(name).stem}.png').write_bytes(data.tobytes())


def main(argv: list[str] | None = None) -> int:
    """Command line; exit code 1 with one sentence when labels cannot be read or drawn."""
    parser = argparse.ArgumentParser(prog='python -m training.data.to_masks', description=__doc__)
    parser.add_argument('root', type=Path, help='folder in BDD100K layout')
    parser.add_argument('--tasks', nargs='+', choices=list(MASK_KINDS), default=list(MASK_KINDS))
    parser.add_argument('--workers', type=at_least(1), default=4)
    args = parser.parse_args(argv)
    try:
        for line in convert(args.root, args.tasks, args.workers):
            print(line)
    except DatasetError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(run(main))
