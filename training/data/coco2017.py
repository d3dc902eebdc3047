# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""COCO (Lin et al., ECCV 2014) as it is unpacked: boxes and masks of its 80 categories.

    ROOT/{train,val}2017/NAME.jpg
    ROOT/annotations/instances_{train,val}2017.json   coco_detection; crowds are ignored regions
    ROOT/masks/{train,val}2017/NAME.png               coco_segmentation; 255 is a crowd

The masks are drawn from the instances once, by `python -m training.data.coco2017 ROOT`.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from mtl_evaluation.truth.label_files import (
    Frame,
    flag,
    id_text,
    number,
    read_json,
    scalabel_frames,
)
from mtl_perception.tasks import COCO_DETECTION, COCO_SEGMENTATION, UNLABELLED
from training.command import at_least, run
from training.data.index import Index, LayoutConfig, MaskFiles, as_dataset_error, id_table
from training.data.pictures import write_picture
from training.data.sample import DatasetError
from training.data.to_masks import decode_rle, draw

SPLITS = ('train', 'val')
BACKGROUND = COCO_SEGMENTATION.classes.index('background')


def index(config: LayoutConfig, split: str) -> Index:
    """Files and frames of a split; raises DatasetError on a label file that cannot be read."""
    root = config.folder
    labels = _label_file(root, split)
    with as_dataset_error():
        frames = scalabel_frames(labels)
    chosen = [_with_ignored(frame) for frame in frames if fnmatch(frame['name'], config.pattern)]
    folder = root / f'{split}2017'
    masks = {
        frame['name']: path
        for frame in chosen
        if (path := mask_path(root, split, frame['name'])).is_file()
    }
    table = id_table(len(COCO_SEGMENTATION.classes))
    return Index(
        {frame['name']: folder / frame['name'] for frame in chosen},
        {frame['name']: frame for frame in chosen},
        {COCO_SEGMENTATION.name: MaskFiles(masks, table)}, labels, str(folder),
        detection=COCO_DETECTION,
    )  # fmt: skip


def mask_path(root: Path, split: str, name: str) -> Path:
    """Where the mask of an image lies."""
    return root / 'masks' / f'{split}2017' / f'{Path(name).stem}.png'


def convert(root: Path, split: str, workers: int = 4) -> int:
    """Draw the masks of a split; the number of them. Raises DatasetError on bad labels."""
    labels = _label_file(root, split)
    with as_dataset_error():
        scalabel_frames(labels)  # refuses ids that repeat, and what cannot be read
        data = read_json(labels)
    try:
        names = {id_text(entry['id']): entry['name'] for entry in data['categories']}
        instances = defaultdict(list)
        for annotation in data['annotations']:
            instances[id_text(annotation['image_id'])].append(annotation)
        images = [(image, instances[id_text(image['id'])]) for image in data['images']]
    except (KeyError, TypeError) as error:
        raise DatasetError(f'{labels} is no COCO instances file: {error!r}') from error
    mask_path(root, split, '').parent.mkdir(parents=True, exist_ok=True)
    write = partial(_write, root, split, names)
    with ThreadPoolExecutor(workers) as pool:
        return sum(track(pool.map(write, images), description=split, total=len(images)))


def draw_mask(
    image: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]], names: Mapping[str, str]
) -> NDArray[np.uint8]:
    """Class ids uint8 [H, W]: the smaller instance lies over the larger one, crowds are 255.

    names: category id as text -> name. Raises DatasetError on an instance that cannot be drawn.
    """
    size = (int(number(image['width'])), int(number(image['height'])))
    mask = np.full(size[::-1], BACKGROUND, np.uint8)
    for annotation in sorted(annotations, key=_painting_order):
        try:
            value = COCO_SEGMENTATION.classes.index(names[id_text(annotation['category_id'])])
            shape = annotation['segmentation']
            if isinstance(shape, Mapping):
                value = UNLABELLED if flag(annotation.get('iscrowd')) else value
                mask[decode_rle(shape, size)] = value
                continue
            for polygon in shape:
                draw(mask, np.reshape(np.asarray(polygon, np.float64), (-1, 2)), True, value)
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(
                f'{image["file_name"]}: annotation {annotation.get("id")} cannot be drawn '
                f'({type(error).__name__}: {error})'
            ) from error
    return mask


def _painting_order(annotation: Mapping[str, Any]) -> tuple[bool, float]:
    """Crowds first, then from large to small."""
    return not flag(annotation.get('iscrowd')), -float(annotation.get('area', 0))


def _write(
    root: Path, split: str, names: Mapping[str, str], image: tuple[Mapping[str, Any], list[Any]]
) -> bool:
    path = mask_path(root, split, image[0]['file_name'])
    write_picture(path, draw_mask(*image, names))
    return True


def _with_ignored(frame: Frame) -> Frame:
    """The frame with its crowds as ignored regions."""
    labels = [
        {**label, 'attributes': {'ignored': label['attributes']['crowd']}}
        for label in frame['labels']
    ]
    return {**frame, 'labels': labels}


def _label_file(root: Path, split: str) -> Path:
    path = root / 'annotations' / f'instances_{split}2017.json'
    if not path.is_file():
        raise DatasetError(f'no {path}; COCO has it for the splits {SPLITS}')
    return path


def main(argv: list[str] | None = None) -> int:
    """Command line; exit code 1 with one sentence when labels cannot be read or drawn."""
    parser = argparse.ArgumentParser(prog='python -m training.data.coco2017', description=__doc__)
    parser.add_argument('root', type=Path, help='folder of train2017, val2017 and annotations')
    parser.add_argument('--splits', nargs='+', choices=SPLITS, default=list(SPLITS))
    parser.add_argument('--workers', type=at_least(1), default=4)
    args = parser.parse_args(argv)
    try:
        for split in args.splits:
            count = convert(args.root, split, args.workers)
            print(f'{mask_path(args.root, split, "").parent}: {count} masks')
    except DatasetError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(run(main))
