# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Label files of several forms -> Scalabel frames, the one form that everything else reads.

    det_{split}.json, box_track_20/**/*.json    Scalabel: a list of frames, or {"frames": [...]}
    bdd100k_labels_images_{split}.json          BDD100K of 2018: the same
    100k/{split}/NAME.json                      BDD100K of 2018: one file per image, with `objects`
    instances_{split}.json                      COCO: images, annotations, categories
    SEQUENCE/gt/gt.txt                          MOTChallenge: a box a line, by frame and identity

A frame is a mapping with `name`, `attributes` (of the image) and `labels`, a list that may be
empty, each with `category`, `attributes` and `box2d`, `poly2d` or `rle`; a COCO frame also has
`size`, and where a label's `id` stays with its object over the frames of a clip, the frame has that
clip's `videoName`. Class names stay as the file has them. An image that a file lists several times
becomes one frame with all of its labels, and `listed` says how often.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mtl_evaluation.truth.errors import LabelError
from mtl_evaluation.truth.mot import mot_frames

__all__ = ['Frame', 'LabelError', 'flag', 'id_text', 'number', 'read_json', 'scalabel_frames']

log = logging.getLogger(__name__)

IMAGE_SUFFIX = '.jpg'
"""What BDD100K's files of one image leave out of `name`."""

Frame = Mapping[str, Any]


def scalabel_frames(path: Path) -> list[Frame]:
    """Frames of a label file, or of a folder of files that hold one image each; a name stands once.

    Raises LabelError when a file is not JSON or of none of the forms, and where what it says of one
    image does not go together.
    """
    if path.suffix == '.txt':
        return mot_frames(path)
    if path.is_dir():
        files = sorted(path.glob('*.json'))
        return _joined((_of_one_image(read_json(file), file) for file in files), path)
    data = read_json(path)
    if isinstance(data, dict) and 'images' in data and 'categories' in data:
        return _joined(_of_coco(data, path), path)
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
    return _joined((_with_labels(frame, path) for frame in frames), path)


def number(value: Any) -> float:
    """A number of a label file, or the text of one as some tools write it; raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f'{value!r} is no number')
    return float(value)


def flag(value: Any) -> bool:
    """A yes or no of a label file, as boolean, number or text; None is no. Raises ValueError."""
    if isinstance(value, str):
        if value.lower() not in FLAGS:
            raise ValueError(f'{value!r} is neither of {list(FLAGS)}')
        return FLAGS[value.lower()]
    return bool(value)


FLAGS = {'': False, '0': False, 'false': False, 'no': False, '1': True, 'true': True, 'yes': True}


def read_json(path: Path) -> Any:
    """Whatever the file holds; raises LabelError naming the file and the place of the fault."""
    try:
        return json.loads(path.read_text('utf-8'))
    except (OSError, ValueError, RecursionError) as error:
        raise LabelError(f'{path} is not readable JSON: {error}') from error


def _with_labels(frame: Frame, path: Path) -> Frame:
    """The frame with a list of labels, empty where it has none."""
    labels = frame.get('labels') or []
    if not isinstance(labels, list):
        raise LabelError(
            f'{path}: `labels` of {frame["name"]} is of type {type(labels).__name__}, expected a '
            f'list of labels'
        )
    return {**frame, 'labels': labels}


def _joined(frames: Iterable[Frame], path: Path) -> list[Frame]:
    """One frame per name, with the labels of all that have it; raises LabelError on contradictions.

    Labels that are equal in everything but their id count once.
    """
    by_name: dict[str, Frame] = {}
    repeated: list[str] = []
    for frame in frames:
        name = frame['name']
        if name in by_name:
            repeated.append(name)
            frame = _merged(by_name[name], frame, path)
        by_name[name] = frame
    if repeated:
        log.warning(
            '%s lists %d images more than once; the labels of %s, ... are taken together',
            path, len(set(repeated)), repeated[0],
        )  # fmt: skip
    return list(by_name.values())


def _merged(first: Frame, second: Frame, path: Path) -> Frame:
    for key in ('videoName', 'size'):
        if first.get(key) != second.get(key):
            raise LabelError(
                f'{path} lists {first["name"]} twice, with {key} {first.get(key)!r} and '
                f'{second.get(key)!r}: images are known by name, so these must be different names; '
                f'give them with their folder (drive1/000001.jpg)'
            )
    told, more = _told(first), _told(second)
    if clash := [key for key in told.keys() & more.keys() if told[key] != more[key]]:
        raise LabelError(
            f'{path} lists {first["name"]} twice, with {clash[0]} {told[clash[0]]!r} and '
            f'{more[clash[0]]!r}; expected one or the other'
        )
    labels = {
        json.dumps({**label, 'id': ''}, sort_keys=True) if isinstance(label, dict) else i: label
        for i, label in enumerate([*first['labels'], *second['labels']])
    }
    return {
        **first,
        'attributes': {**(first.get('attributes') or {}), **more},
        'labels': list(labels.values()),
        'listed': first.get('listed', 1) + 1,
    }


def _told(frame: Frame) -> Mapping[str, Any]:
    """Attributes of the image that say something."""
    attributes = frame.get('attributes') or {}
    if not isinstance(attributes, Mapping):
        return {}  # whoever reads them says what is wrong
    return {key: value for key, value in attributes.items() if value not in ('undefined', '', None)}


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
    frame = {
        'name': name if Path(name).suffix else name + IMAGE_SUFFIX,
        'attributes': data.get('attributes') or {},
        'labels': data['frames'][0]['objects'],
    }
    return _with_labels(frame, path)


def _of_coco(data: Mapping[str, Any], path: Path) -> list[Frame]:
    """COCO (Lin et al., ECCV 2014): x, y, width, height become corners; a crowd stays a crowd.

    `attributes` of an image (weather, scene, timeofday) are an extension that COCO readers skip.
    """
    try:
        categories = _by_id(data['categories'], 'name', 'category', path)
        names = _by_id(data['images'], 'file_name', 'image', path)
        frames: dict[str, dict[str, Any]] = {
            id_text(image['id']): {
                'name': names[id_text(image['id'])].replace('\\', '/'),
                'size': {side: int(number(image[side])) for side in ('width', 'height')},
                'attributes': image.get('attributes') or {},
                'labels': [],
            }
            for image in data['images']
        }
        for annotation in data.get('annotations') or []:
            x, y, width, height = map(number, annotation['bbox'])
            frames[id_text(annotation['image_id'])]['labels'].append(
                {
                    'id': str(annotation.get('id', '')),
                    'category': categories[id_text(annotation['category_id'])],
                    'attributes': {
                        'crowd': flag(annotation.get('iscrowd')) or flag(annotation.get('ignore'))
                    },
                    'box2d': {'x1': x, 'y1': y, 'x2': x + width, 'y2': y + height},
                }
            )
    except KeyError as error:
        raise LabelError(f'{path}: COCO file without {error}, which an entry needs') from error
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise LabelError(f'{path}: COCO file with a malformed entry: {error}') from error
    return list(frames.values())


def _by_id(entries: Any, key: str, what: str, path: Path) -> dict[str, str]:
    """Id -> name of images or categories; raises LabelError for an id that two names have."""
    names: dict[str, str] = {}
    for entry in entries:
        name = names.setdefault(id_text(entry['id']), entry[key])
        if name != entry[key]:
            raise LabelError(
                f'{path}: {what} id {entry["id"]} is of {name!r} and of {entry[key]!r}, so labels '
                f'cannot tell which they mean. Files that count from the same number were joined: '
                f'number them anew, or give each a data set of its own'
            )
    return names


def id_text(value: Any) -> str:
    """Ids are compared as text: some tools write 7 here and "7" or 7.0 there."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
