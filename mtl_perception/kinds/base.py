# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What the vehicle has to know about a kind of task: its tensors, decoding, message, overlay."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from mtl_perception.decode.contract import Outputs, Thresholds
from mtl_perception.frame import Result
from mtl_perception.letterbox import Letterbox
from mtl_perception.painting import Image, Style
from mtl_perception.tasks import Task

if TYPE_CHECKING:
    from mtl_perception.manifest import OutputSpec

IMAGE = 'sensor_msgs/msg/Image'
Types = Callable[[str], Any]
"""A message class by its ROS name: `node/messages.py` has them, so that kinds import no ROS."""


class Kind(ABC):
    """One kind. An object of it without state, `KIND`, is what each file of this folder has.

    name: as tasks say it. needed: sets of meanings of output tensors, each of which is enough to
    decode; grids: those whose last two axes are a grid over the input. message: ROS name of the
    message that an answer becomes. has_classes: whether a task of it needs class names.
    topic_folder: what its topics begin with. always_painted: whether overlay and annotations show
    all tasks of the kind, not a chosen one.

    What else can be made of an answer. is_label: calibrated and believed from a threshold on, since
    it is one class of the frame with its probability. has_boxes: tracks and places on the road,
    since it is a `Detections`. is_mask: outlines, points and names beside it (`LabelInfo`), since
    it is uint8 [H, W] class ids. is_depth: points, since it is float32 [H, W] metres.
    """

    name: ClassVar[str]
    needed: ClassVar[tuple[frozenset[str], ...]]
    grids: ClassVar[frozenset[str]] = frozenset()
    message: ClassVar[str]
    has_classes: ClassVar[bool] = True
    topic_folder: ClassVar[str] = ''
    always_painted: ClassVar[bool] = False
    is_label: ClassVar[bool] = False
    has_boxes: ClassVar[bool] = False
    is_mask: ClassVar[bool] = False
    is_depth: ClassVar[bool] = False

    @property
    def meanings(self) -> frozenset[str]:
        """Everything that an output tensor of such a task may hold."""
        return frozenset().union(*self.needed)

    @property
    def is_image(self) -> bool:
        """Whether an answer is as large as the frame."""
        return self.message == IMAGE

    @abstractmethod
    def decode(
        self,
        task: Task,
        specs: Mapping[str, OutputSpec],
        outputs: Outputs,
        letterbox: Letterbox,
        thresholds: Thresholds,
    ) -> Any:
        """Outputs by meaning -> the answer in source pixels (`frame.Answer`).

        specs: by meaning too. Raises EngineError on values that mean nothing.
        """

    @abstractmethod
    def to_message(self, types: Types, header: Any, answer: Any, task: Task) -> Any:
        """The answer as a message of the type `message`; header: of the image, passed on."""

    def caption(self, answer: Any, task: Task) -> tuple[str, float | None] | None:
        """What the overlay writes in its corner, and how probable that is; None for nothing."""
        return None

    def paint(self, image: Image, result: Result, task: Task, style: Style) -> None:
        """Paint the task's answer into uint8 [H, W, 3] RGB, in place; nothing by default."""
        return None
