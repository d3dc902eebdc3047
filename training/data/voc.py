# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Pascal VOC (Everingham et al., IJCV 2010): boxes and masks of 20 classes.

    ROOT/JPEGImages/ID.jpg                            ROOT is VOCdevkit/VOC2012 or another year
    ROOT/ImageSets/Main/{split}.txt                   images with boxes: task voc_detection
    ROOT/Annotations/ID.xml                           `difficult` objects are ignored regions
    ROOT/ImageSets/Segmentation/{split}.txt           images with masks: task voc_segmentation
    ROOT/SegmentationClass/ID.png                     palette PNG, 255 unlabelled

The two lists were split independently: what either holds out is left out of training.
"""

from __future__ import annotations

import logging
import xml.etree.ElementTree as ElementTree
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from mtl_evaluation.truth.label_files import Frame
from mtl_perception.tasks import VOC_DETECTION, VOC_SEGMENTATION
from training.data.index import Index, LayoutConfig, MaskFiles, id_table
from training.data.sample import DatasetError

log = logging.getLogger(__name__)

HELD_OUT = ('val', 'test')


def index(config: LayoutConfig, split: str) -> Index:
    """Files and frames of a split; raises DatasetError without lists, and on a broken XML."""
    root = config.folder
    lists = {kind: _listed(root, kind, split) for kind in ('Main', 'Segmentation')}
    if not any(lists.values()):
        raise DatasetError(
            f'data set {config.name!r}: no list {root}/ImageSets/Main/{split}.txt nor '
            f'Segmentation/{split}.txt; root is the folder of a year, such as VOCdevkit/VOC2012'
        )
    if split == 'train':
        other = {name for kind in lists for held in HELD_OUT for name in _listed(root, kind, held)}
        leaking = {name for names in lists.values() for name in names} & other
        if leaking:
            log.warning(
                'data set %r: %d training images are held out in the other list (%s, ...) and are '
                'left out', config.name, len(leaking), min(leaking),
            )  # fmt: skip
        lists = {kind: [n for n in names if n not in leaking] for kind, names in lists.items()}
    chosen = {n for names in lists.values() for n in names if fnmatch(f'{n}.jpg', config.pattern)}
    images = {f'{name}.jpg': root / 'JPEGImages' / f'{name}.jpg' for name in sorted(chosen)}
    frames = {
        f'{name}.jpg': read_frame(root / 'Annotations' / f'{name}.xml')
        for name in lists['Main']
        if name in chosen
    }
    masks = {
        f'{name}.jpg': root / 'SegmentationClass' / f'{name}.png'
        for name in lists['Segmentation']
        if name in chosen
    }
    table = id_table(len(VOC_SEGMENTATION.classes))
    return Index(
        images, frames, {VOC_SEGMENTATION.name: MaskFiles(masks, table)}, root / 'Annotations',
        str(root / 'JPEGImages'), detection=VOC_DETECTION,
    )  # fmt: skip


def read_frame(path: Path) -> Frame:
    """The objects of an annotation; VOC counts pixels from 1, the last one included."""
    try:
        root = ElementTree.parse(path).getroot()
        labels = [_label(node) for node in root.iter('object')]
    except (OSError, ElementTree.ParseError, AttributeError, TypeError, ValueError) as error:
        raise DatasetError(f'{path} is no VOC annotation: {error!r}') from error
    return {'name': f'{path.stem}.jpg', 'attributes': {}, 'labels': labels}


def _label(node: Any) -> dict[str, Any]:
    corner = {key: float(node.find('bndbox').find(key).text) for key in _CORNERS}
    difficult = node.findtext('difficult', '0').strip() == '1'
    return {
        'category': node.findtext('name', '').strip(),
        'box2d': {
            'x1': corner['xmin'] - 1, 'y1': corner['ymin'] - 1, 'x2': corner['xmax'],
            'y2': corner['ymax'],
        },
        'attributes': {'ignored': difficult},
    }  # fmt: skip


_CORNERS = ('xmin', 'ymin', 'xmax', 'ymax')


def _listed(root: Path, kind: str, split: str) -> list[str]:
    path = root / 'ImageSets' / kind / f'{split}.txt'
    if not path.is_file():
        return []
    return [line.split()[0] for line in path.read_text('utf-8').splitlines() if line.strip()]
