# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Where the files of BDD100K lie: as the zips of 2018 and 2020 unpack, and in Kaggle's copy.

ROOT/images/{100k,10k}/{split}    ROOT/labels/...                       the zips of 2020
ROOT/seg/images/{split}           ROOT/seg/labels/{split}/NAME_train_id.png             of 2018
                                  ROOT/drivable_maps/labels/{split}/NAME_drivable_id.png
ROOT/bdd100k/...                  where a zip was unpacked in ROOT
ROOT/*/bdd100k/...                Kaggle's copy: a folder for each zip
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

PARTS = ('images', 'labels', 'seg', 'drivable_maps')
"""Folders that the zips unpack."""

DRIVABLE_2018 = ('drivable_maps/labels/{split}', '_drivable_id.png')
SEMANTIC_2018 = ('seg/labels/{split}', '_train_id.png')
"""Folder and suffix of the masks of 2018."""

DET_20 = 'det_20'
"""Folder of the boxes of 2020, below `labels/`."""

OLD_BOXES = ('labels/bdd100k_labels_images_{split}.json', 'labels/100k/{split}')
"""Label files of 2018: boxes, drivable areas and lanes in one."""


def tops(root: Path) -> list[Path]:
    """Folders that hold `images/`, `labels/` and so on: `root` itself, else those that it nests."""
    if _holds_parts(root):
        return [root]
    nested = [root / 'bdd100k', *sorted(root.glob('*/bdd100k'))]
    return [folder for folder in nested if _holds_parts(folder)] or [root]


def find(root: Path, *places: str) -> Path | None:
    """The first of some places below a top folder that exists; earlier places go first."""
    folders = tops(root)
    paths = (folder / place for place in places for folder in folders)
    return next((path for path in paths if path.exists()), None)


def image_folders(root: Path, split: str) -> list[Path]:
    """The image folders of a split: of the 100k, the 10k and further parts."""
    return [
        path
        for folder in tops(root)
        for path in (*sorted(folder.glob(f'images/*/{split}')), folder / 'seg' / 'images' / split)
        if path.is_dir()
    ]


def splits(root: Path) -> list[str]:
    """Splits that have a folder of images."""
    return sorted(
        {
            path.name
            for folder in tops(root)
            for pattern in ('images/*/*', 'seg/images/*')
            for path in folder.glob(pattern)
            if path.is_dir()
        }
    )


def find_box_file(root: Path, split: str, folder: str = DET_20) -> Path | None:
    """The boxes of a split in a folder; of BDD100K's own the newest edition that is there."""
    editions = [f'labels/{folder}/det_{split}.json']
    if folder == DET_20:
        editions += _of(OLD_BOXES, split)
    return find(root, *editions)


def find_old_labels(root: Path, split: str) -> Path | None:
    """The label file (or folder of files) of 2018 of a split, which holds areas and lanes too."""
    return find(root, *_of(OLD_BOXES, split))


def undrawn(root: Path, kind: str, split: str) -> Path | None:
    """Labels of a kind of mask (`lane`) as run lengths or polygons, to be drawn by `to_masks`."""
    names = [f'labels/{kind}/{form}/{kind}_{split}.json' for form in ('rles', 'polygons')]
    return find(root, *names)


def _of(places: tuple[str, ...], split: str) -> Iterator[str]:
    return (place.format(split=split) for place in places)


def _holds_parts(folder: Path) -> bool:
    return any((folder / part).is_dir() for part in PARTS)
