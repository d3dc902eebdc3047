"""Task tables: the one owner of task names, kinds, class names, class order and colours.

Ids follow the BDD100K toolkit (Yu et al., CVPR 2020): detection classes in the order of
`bdd100k/configs/det.toml`, semantic train ids as in Cityscapes, drivable 0 direct, 1 alternative,
2 background. Attribute value `undefined` is not a class: such a frame is unlabelled for that task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal['detection', 'segmentation', 'classification', 'depth', 'normals']
KINDS: tuple[str, ...] = get_args(Kind)

UNLABELLED = 255
"""Mask value of a pixel without a label; never a class id."""


@dataclass(frozen=True)
class Task:
    """One thing the network answers about a frame.

    classes: class id = index. colours: one RGB triple (0-255) a class; empty for kinds without
    classes. Raises ValueError when the two do not fit together.
    """

    name: str
    kind: Kind
    classes: tuple[str, ...] = ()
    colours: tuple[tuple[int, int, int], ...] = ()

    def __post_init__(self) -> None:
        """Check that kind, classes and colours fit together."""
        if self.kind not in KINDS:
            raise ValueError(f'task {self.name!r}: kind {self.kind!r} is not one of {KINDS}')
        if self.kind in ('detection', 'segmentation', 'classification') and not self.classes:
            raise ValueError(f'task {self.name!r}: a {self.kind} task needs class names')
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f'task {self.name!r}: class names repeat: {self.classes}')
        if self.colours and len(self.colours) != len(self.classes):
            raise ValueError(
                f'task {self.name!r}: {len(self.colours)} colours for {len(self.classes)} classes'
            )


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

TASKS: dict[str, Task] = {
    task.name: task for task in (DETECTION, DRIVABLE, SEMANTIC, WEATHER, SCENE, TIME_OF_DAY, LANE)
}
"""Every task this package knows by name; a bundle may carry others, with tables of its own."""
