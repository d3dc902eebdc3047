# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Task tables: the one owner of task names, kinds, class names, class order and colours.

Ids follow the BDD100K toolkit (Yu et al., CVPR 2020): detection classes in the order of
`bdd100k/configs/det.toml`, semantic train ids as in Cityscapes, drivable 0 direct, 1 alternative,
2 background. Attribute value `undefined` is not a class: such a frame is unlabelled for that task.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

UNLABELLED = 255
"""Mask value of a pixel without a label; never a class id."""


TASK_NAME = re.compile(r'[A-Za-z](_?[A-Za-z0-9])*')
"""What a task may be called: its name becomes part of ROS topics."""
NODE_TOPICS = frozenset(
    {'annotations', 'depth_image', 'detections', 'image', 'objects', 'overlay', 'tracks'}
)
"""Topics of the node itself, next to which those of the tasks are."""
MAX_TEMPERATURE = 100.0
ROAD = 'road'
"""What `direct` is called where it is all of the road."""


@dataclass(frozen=True)
class Task:
    """One thing the network answers about a frame.

    classes: class id = index. colours: one RGB triple (0-255) a class; empty for kinds without
    classes.

    How far a model is to be believed, which is no part of what makes two tasks equal: taught, the
    classes that real data taught it, all of them by default; for a classification also temperature,
    which its logits are divided by (Guo et al., ICML 2017), and threshold, the least probability
    of an answer (`decode/answers.py`). Raises ValueError when these do not fit together.
    """

    name: str
    kind: str
    classes: tuple[str, ...] = ()
    colours: tuple[tuple[int, int, int], ...] = ()
    taught: tuple[str, ...] | None = field(default=None, compare=False)
    temperature: float = field(default=1.0, compare=False)
    threshold: float = field(default=0.0, compare=False)

    def __post_init__(self) -> None:
        """Check that classes and colours fit together; `kinds.check` knows what the kind needs."""
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f'task {self.name!r}: class names repeat: {self.classes}')
        if any(len(c) != 3 or not all(0 <= value <= 255 for value in c) for c in self.colours):
            raise ValueError(
                f'task {self.name!r}: a colour is red, green and blue of 0 to 255, found '
                f'{self.colours}'
            )
        if self.colours and len(self.colours) != len(self.classes):
            raise ValueError(
                f'task {self.name!r}: {len(self.colours)} colours for {len(self.classes)} classes'
            )
        if unknown := [name for name in self.believed if name not in self.classes]:
            raise ValueError(
                f'task {self.name!r}: taught names {unknown}, expected some of {self.classes}'
            )
        if not 0 < self.temperature <= MAX_TEMPERATURE or not 0 <= self.threshold <= 1:
            raise ValueError(
                f'task {self.name!r}: temperature {self.temperature}, threshold {self.threshold}; '
                f'expected above 0 up to {MAX_TEMPERATURE:g}, and 0 to 1'
            )

    @property
    def published(self) -> dict[int, str]:
        """Class ids that an answer may hold, with the names to publish for them.

        A model that no real data taught to tell the own lane from others says `road`.
        """
        names = {i: name for i, name in enumerate(self.classes) if name in self.believed}
        if self.name == 'drivable' and 'alternative' in self.classes and len(names) == 2:
            names[0] = ROAD
        return names

    @property
    def believed(self) -> tuple[str, ...]:
        """Classes that a model is to be believed."""
        return self.classes if self.taught is None else self.taught


DETECTION = Task(
    'detection',
    'detection',
    (
        'pedestrian', 'rider', 'car', 'truck', 'bus',
        'train', 'motorcycle', 'bicycle', 'traffic light', 'traffic sign',
    ),
    (
        (220, 20, 60), (255, 99, 71), (0, 160, 255), (0, 90, 200), (0, 200, 180),
        (120, 120, 255), (200, 80, 255), (255, 140, 0), (250, 210, 30), (60, 210, 60),
    ),
)  # fmt: skip

EXCLUSIVE = (
    frozenset({'pedestrian', 'person', 'rider'}),
    frozenset({'car', 'truck', 'bus', 'train', 'van', 'trailer'}),
    frozenset({'motorcycle', 'motorbike', 'bicycle'}),
    frozenset({'traffic light', 'traffic sign'}),
)
"""Detection classes, by name, of which one thing is at most one: two boxes on it are one too many.

A rider and the bicycle below are two things, a car and a truck in one place are not.
"""

DRIVABLE = Task(
    'drivable',
    'segmentation',
    ('direct', 'alternative', 'background'),
    ((219, 94, 86), (86, 211, 219), (0, 0, 0)),
)

LANE = Task('lane', 'segmentation', ('lane', 'background'), ((255, 235, 59), (0, 0, 0)))
"""Lane markings of every kind, as YOLOP and its successors take them; `docs/data.md` says why."""

SEMANTIC = Task(
    'semantic',
    'segmentation',
    (
        'road', 'sidewalk', 'building', 'wall', 'fence', 'pole', 'traffic light', 'traffic sign',
        'vegetation', 'terrain', 'sky', 'person', 'rider', 'car', 'truck', 'bus', 'train',
        'motorcycle', 'bicycle',
    ),
    (
        (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153),
        (153, 153, 153), (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152),
        (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100),
        (0, 80, 100), (0, 0, 230), (119, 11, 32),
    ),
)  # fmt: skip

WEATHER = Task(
    'weather',
    'classification',
    ('rainy', 'snowy', 'clear', 'overcast', 'partly cloudy', 'foggy'),
)

SCENE = Task(
    'scene',
    'classification',
    ('tunnel', 'residential', 'parking lot', 'city street', 'gas stations', 'highway'),
)

TIME_OF_DAY = Task('timeofday', 'classification', ('daytime', 'night', 'dawn/dusk'))

DEPTH = Task('depth', 'depth')
"""Metres along the optical axis."""

NORMALS = Task('normals', 'normals')
"""Unit vectors towards the camera: x right, y down, z forward."""

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        DETECTION, DRIVABLE, SEMANTIC, WEATHER, SCENE, TIME_OF_DAY, LANE, DEPTH, NORMALS,
    )
}  # fmt: skip
"""Every task this package knows by name; a bundle may carry others, with tables of its own."""

NYU13 = Task(
    'nyu13',
    'segmentation',
    (
        'bed', 'books', 'ceiling', 'chair', 'floor', 'furniture', 'objects', 'picture', 'sofa',
        'table', 'tv', 'wall', 'window',
    ),
    (
        (120, 72, 200), (220, 130, 60), (190, 200, 210), (230, 80, 90), (150, 110, 80),
        (200, 170, 60), (90, 180, 120), (240, 120, 200), (60, 120, 220), (100, 190, 200),
        (40, 60, 120), (120, 130, 140), (160, 220, 240),
    ),
)  # fmt: skip
"""NYUv2's 40 classes in the 13 of Couprie et al. (ICLR 2013), in the order of MTAN's files."""

CITYSCAPES7 = Task(
    'cityscapes7',
    'segmentation',
    ('flat', 'construction', 'object', 'nature', 'sky', 'human', 'vehicle'),
    (
        (128, 64, 128), (70, 70, 70), (250, 170, 30), (107, 142, 35), (70, 130, 180),
        (220, 20, 60), (0, 0, 142),
    ),
)  # fmt: skip
"""Cityscapes' categories, as MTAN and LibMTL take them."""

VOC_CLASSES = (
    'aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair', 'cow',
    'diningtable', 'dog', 'horse', 'motorbike', 'person', 'pottedplant', 'sheep', 'sofa', 'train',
    'tvmonitor',
)  # fmt: skip


def bitwise_colours(first: int, last: int) -> tuple[tuple[int, int, int], ...]:
    """VOC's colours of the ids `first` to `last`: bits of the id dealt out to red, green, blue."""
    return tuple(
        (
            sum((i >> 3 * k & 1) << 7 - k for k in range(3)),
            sum((i >> 3 * k + 1 & 1) << 7 - k for k in range(3)),
            sum((i >> 3 * k + 2 & 1) << 7 - k for k in range(3)),
        )
        for i in range(first, last + 1)
    )


VOC_DETECTION = Task('voc_detection', 'detection', VOC_CLASSES, bitwise_colours(1, 20))
VOC_SEGMENTATION = Task(
    'voc_segmentation', 'segmentation', ('background', *VOC_CLASSES), bitwise_colours(0, 20)
)

COCO_CLASSES = (
    'person', 'bicycle', 'car', 'motorcycle', 'airplane', 'bus', 'train', 'truck', 'boat',
    'traffic light', 'fire hydrant', 'stop sign', 'parking meter', 'bench', 'bird', 'cat', 'dog',
    'horse', 'sheep', 'cow', 'elephant', 'bear', 'zebra', 'giraffe', 'backpack', 'umbrella',
    'handbag', 'tie', 'suitcase', 'frisbee', 'skis', 'snowboard', 'sports ball', 'kite',
    'baseball bat', 'baseball glove', 'skateboard', 'surfboard', 'tennis racket', 'bottle',
    'wine glass', 'cup', 'fork', 'knife', 'spoon', 'bowl', 'banana', 'apple', 'sandwich', 'orange',
    'broccoli', 'carrot', 'hot dog', 'pizza', 'donut', 'cake', 'chair', 'couch', 'potted plant',
    'bed', 'dining table', 'toilet', 'tv', 'laptop', 'mouse', 'remote', 'keyboard', 'cell phone',
    'microwave', 'oven', 'toaster', 'sink', 'refrigerator', 'book', 'clock', 'vase', 'scissors',
    'teddy bear', 'hair drier', 'toothbrush',
)  # fmt: skip
"""COCO's categories (Lin et al., ECCV 2014), in the order of its label files."""
COCO_DETECTION = Task('coco_detection', 'detection', COCO_CLASSES, bitwise_colours(1, 80))
COCO_SEGMENTATION = Task(
    'coco_segmentation', 'segmentation', ('background', *COCO_CLASSES), bitwise_colours(0, 80)
)

OFFICE31 = (
    'back_pack', 'bike', 'bike_helmet', 'bookcase', 'bottle', 'calculator', 'desk_chair',
    'desk_lamp', 'desktop_computer', 'file_cabinet', 'headphones', 'keyboard', 'laptop_computer',
    'letter_tray', 'mobile_phone', 'monitor', 'mouse', 'mug', 'paper_notebook', 'pen', 'phone',
    'printer', 'projector', 'punchers', 'ring_binder', 'ruler', 'scissors', 'speaker', 'stapler',
    'tape_dispenser', 'trash_can',
)  # fmt: skip
OFFICE_DOMAINS = {
    domain: Task(f'office_{domain}', 'classification', OFFICE31)
    for domain in ('amazon', 'dslr', 'webcam')
}
"""Office-31 (Saenko et al., ECCV 2010): a task a domain."""

RESEARCH: dict[str, Task] = {
    task.name: task
    for task in (
        NYU13,
        CITYSCAPES7,
        VOC_DETECTION,
        VOC_SEGMENTATION,
        COCO_DETECTION,
        COCO_SEGMENTATION,
        *OFFICE_DOMAINS.values(),
    )
}
"""Tasks of benchmarks: they can be trained and exported like all others; bags do not know them."""

ALL_TASKS = {**TASKS, **RESEARCH}
