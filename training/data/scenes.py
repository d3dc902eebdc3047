# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Write generated scenes as a data set: `python -m training.data.scenes --output .cache/scenes`.

The renderer is `mtl_scenes`; here its frames become a folder in BDD100K layout, so that
one loader serves real and generated data. Every frame is a world of its own; train and val use
disjoint seeds. `scenes.json` says which version of the labels a folder holds: those before 2 had
neither depth nor normals, and are drawn again under another name or over the old ones.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import cv2
from rich.progress import track

from mtl_perception.children import IsolatedSpawn
from mtl_perception.tasks import DEPTH, DETECTION, DRIVABLE, NORMALS, SEMANTIC
from mtl_scenes import SceneFrame, random_scene
from training.command import at_least, run
from training.data.bdd100k import MASK_KINDS
from training.data.index import GENERATED
from training.data.map_files import write_depth_cm, write_normals
from training.data.pictures import write_picture

VERSION = 2
ABOUT = GENERATED
SPLIT_SEEDS = {'train': 1_000_000, 'val': 2_000_000}
JPEG_QUALITY = 92


def write_split(
    output: Path, split: str, count: int, width: int, height: int, workers: int
) -> None:
    """Render `count` frames of a split into `output`; the label file is written last."""
    for folder in _folders(output, split).values():
        folder.mkdir(parents=True, exist_ok=True)
    render = partial(_write_frame, output, split, width, height)
    with ExitStack() as stack:
        rendered: Iterable[dict[str, Any]] = map(render, range(count))
        if workers > 1:
            # Spawned, not forked: a fork of a process with other threads can stand still for ever.
            pool = ProcessPoolExecutor(workers, IsolatedSpawn())
            rendered = stack.enter_context(pool).map(render, range(count), chunksize=8)
        frames = list(track(rendered, description=f'scenes {split}', total=count))
    path = output / 'labels' / 'det_20' / f'det_{split}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(frames), 'utf-8')


def scalabel_frame(name: str, frame: SceneFrame) -> dict[str, Any]:
    """Boxes and attributes of a frame as a Scalabel frame."""
    return {
        'name': name,
        'attributes': frame.attributes,
        'labels': [
            {
                'id': str(int(track_id)),
                'category': DETECTION.classes[int(label)],
                'box2d': dict(zip(('x1', 'y1', 'x2', 'y2'), map(float, box), strict=True)),
                'attributes': {},
            }
            for box, label, track_id in zip(frame.boxes, frame.labels, frame.track_ids, strict=True)
        ],
    }


def _folders(output: Path, split: str) -> dict[str, Path]:
    """By task, and of the images."""
    labels = output / 'labels'
    masks = (DRIVABLE.name, SEMANTIC.name)
    return {
        'images': output / 'images' / '100k' / split,
        **{task: labels / MASK_KINDS[task] / 'masks' / split for task in masks},
        **{task: labels / task / 'maps' / split for task in (DEPTH.name, NORMALS.name)},
    }


def _write_frame(output: Path, split: str, width: int, height: int, index: int) -> dict[str, Any]:
    cv2.setNumThreads(1)
    frame = random_scene(SPLIT_SEEDS[split] + index, width, height)
    folders = _folders(output, split)
    name = f'scene_{index:06d}'
    bgr = frame.image[..., ::-1]
    picture = folders['images'] / f'{name}.jpg'
    write_picture(picture, bgr, cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY)
    write_picture(folders[DRIVABLE.name] / f'{name}.png', frame.drivable)
    write_picture(folders[SEMANTIC.name] / f'{name}.png', frame.semantic)
    write_depth_cm(folders[DEPTH.name] / f'{name}.png', frame.depth)
    write_normals(folders[NORMALS.name] / f'{name}.png', frame.normals)
    return scalabel_frame(f'{name}.jpg', frame)


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog='python -m training.data.scenes', description=__doc__)
    parser.add_argument('--output', type=Path, default=Path('.cache/scenes'))
    parser.add_argument('--train', type=at_least(0), default=2000, help='training frames')
    parser.add_argument('--val', type=at_least(0), default=150, help='validation frames')
    parser.add_argument('--width', type=at_least(32), default=640)
    parser.add_argument('--height', type=at_least(32), default=360)
    parser.add_argument('--workers', type=at_least(1), default=2)
    args = parser.parse_args(argv)
    about = args.output / ABOUT
    about.unlink(missing_ok=True)  # until all is drawn
    for split, count in (('train', args.train), ('val', args.val)):
        write_split(args.output, split, count, args.width, args.height, args.workers)
    size = {'train': args.train, 'val': args.val, 'width': args.width, 'height': args.height}
    about.write_text(json.dumps({'version': VERSION, **size}) + '\n', 'utf-8')
    print(f'{args.train} + {args.val} generated scenes in {args.output}')
    return 0


if __name__ == '__main__':
    sys.exit(run(main))
