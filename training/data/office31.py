# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Office-31 (Saenko et al., ECCV 2010): 31 classes of objects in three domains, a task a domain.

    ROOT/{amazon,dslr,webcam}/images/CLASS/NAME.jpg

An image is labelled for its own domain's task only. There is no published split for this use: of
each class of a domain, in the order of names, every fifth image is `val` and the one after it
`test`.
"""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

from mtl_perception.tasks import OFFICE31, OFFICE_DOMAINS
from training.data.index import Index, LayoutConfig
from training.data.sample import DatasetError

SPLITS = {'train': (0, 1, 2), 'val': (3,), 'test': (4,)}
"""Places among each five images of a class."""


def index(config: LayoutConfig, split: str) -> Index:
    """Files and labels of a split; raises DatasetError on another split and unknown classes."""
    if split not in SPLITS:
        raise DatasetError(f'data set {config.name!r}: split {split!r}, expected {list(SPLITS)}')
    images: dict[str, Path] = {}
    labels: dict[str, dict[str, int]] = {}
    for domain, task in OFFICE_DOMAINS.items():
        own = labels.setdefault(task.name, {})
        for folder in sorted((config.folder / domain / 'images').glob('*/')):
            if folder.name not in OFFICE31:
                raise DatasetError(f'{folder}: no class of Office-31, expected {list(OFFICE31)}')
            for place, path in enumerate(sorted(folder.glob('*.jpg'))):
                name = f'{domain}/{folder.name}/{path.name}'
                if place % 5 in SPLITS[split] and fnmatch(name, config.pattern):
                    images[name] = path
                    own[name] = OFFICE31.index(folder.name)
    folders = f'{config.folder}/*/images'
    return Index(images, {}, {}, None, folders, False, labels=labels)
