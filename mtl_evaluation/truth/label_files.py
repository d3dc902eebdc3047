"""Label files of several forms -> Scalabel frames, the one form that everything else reads.

    det_{split}.json, box_track_20/**/*.json    Scalabel: a list of frames, or {"frames": [...]}
    bdd100k_labels_images_{split}.json          BDD100K of 2018: the same
    100k/{split}/NAME.json                      BDD100K of 2018: one file per image, with `objects`
    instances_{split}.json                      COCO: images, annotations, categories
    SEQUENCE/gt/gt.txt                          MOTChallenge: a box a line, by frame and identity

A frame is a mapping with `name`, `attributes` (of the image) and `labels`, each with `category`,
`attributes` and `box2d`, `poly2d` or `rle`; a COCO frame also has `size`, and where a label's `id`
stays with its object over the frames of a clip, the frame has that clip's `videoName`. Class names
stay as the file has them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtl_evaluation.truth.errors import LabelError
from mtl_evaluation.truth.mot import mot_frames

__all__ = ['Frame', 'LabelError', 'read_json', 'scalabel_frames']

IMAGE_SUFFIX = '.jpg'
"""What BDD100K's files of one image leave out of `name`."""

Frame = Mapping[str, Any]


def scalabel_frames(path: Path) -> list[Frame]:
    """Frames of a label file, or of a folder of files that hold one image each.

    Raises LabelError when a file is not JSON or of none of the forms.
    """
    if path.suffix == '.txt':
        return mot_frames(path)
    if path.is_dir():
        return [_of_one_image(read_json(file), file) for file in sorted(path.glob('*.json'))]
    data = read_json(path)
    if isinstance(data, dict) and 'images' in data and 'categories' in data:
        return _of_coco(data, path)
    if _is_of_one_image(data):
        return [_of_one_image(data, path)]
    frames = data.get('frames') if isinstance(data, dict) else data
    if not isinstance(frames, list) or not all(
        isinstance(frame, dict) and isinstance(frame.get('name'), str) for frame in frames
    ):
        raise LabelError(
            f'{path}: expected Scalabel frames with names, one image with `objects`, or COCO '
            f'images and categories'
        )
    return frames


def read_json(path: Path) -> Any:
    """Whatever the file holds; raises LabelError naming the file and the place of the fault."""
    try:
        return json.loads(path.read_text('utf-8'))
    except (OSError, ValueError) as error:
        raise LabelError(f'{path} is not readable JSON: {error}') from error


def _is_of_one_image(data: Any) -> bool:
    if not isinstance(data, dict) or not isinstance(data.get('frames'), list):
        return False
    return 'name' in data and all(
        isinstance(frame, dict) and 'objects' in frame for frame in data['frames']
    )


def _of_one_image(data: Any, path: Path) -> Frame:
    """`{name, attributes, frames: [{objects}]}` -> frame; poly2d of [x, y, type] rows is kept."""
    if not _is_of_one_image(data) or len(data['frames']) != 1:
        raise LabelError(f'{path}: expected `name` and one frame with `objects` (BDD100K, 2018)')
    name = str(data['name'])
    return {
        'name': name if Path(name).suffix else name + IMAGE_SUFFIX,
        'attributes': data.get('attributes') or {},
        'labels': data['frames'][0]['objects'],
    }


def _of_coco(data: Mapping[str, Any], path: Path) -> list[Frame]:
    """COCO (Lin et al., ECCV 2014): x, y, width, height become corners; a crowd stays a crowd.

    `attributes` of an image (weather, scene, timeofday) are an extension that COCO readers skip.
    """
    try:
        categories = {entry['id']: entry['name'] for entry in data['categories']}
        frames: dict[Any, dict[str, Any]] = {
            image['id']: {
                'name': image['file_name'],
                'size': {'width': image['width'], 'height': image['height']},
                'attributes': image.get('attributes') or {},
                'labels': [],
            }
            for image in data['images']
        }
        for annotation in data.get('annotations') or []:
            x, y, width, height = annotation['bbox']
            frames[annotation['image_id']]['labels'].append(
                {
                    'id': str(annotation.get('id', '')),
                    'category': categories[annotation['category_id']],
                    'attributes': {
                        'crowd': bool(annotation.get('iscrowd') or annotation.get('ignore'))
                    },
                    'box2d': {'x1': x, 'y1': y, 'x2': x + width, 'y2': y + height},
                }
            )
    except KeyError as error:
        raise LabelError(f'{path}: COCO file without {error}, which an entry needs') from error
    except (TypeError, ValueError) as error:
        raise LabelError(f'{path}: COCO file with a malformed entry: {error}') from error
    return list(frames.values())
