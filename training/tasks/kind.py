# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What training has to know about a kind of task beside its head: its labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from mtl_perception.tasks import Task
from training.tasks.base import Head

if TYPE_CHECKING:
    from training.data.sample import Sample
    from training.data.transforms import View


class TaskKind:
    """One kind. An object of it without state, `KIND`, is what each kind's file of this folder has.

    name: as of `mtl_perception.kinds`. head: has loss, divisor and deployed form; it takes the
    kind's options where `NetworkConfig` has some of its name. by_attribute: whether `kind: coco`
    data tell its labels as attributes of an image. label_bytes: of each pixel of an image, in the
    memory that loader workers share. is_dense: whether structures that let tasks exchange maps
    (PAD-Net, MTI-Net) take part with it; such a kind has a `decoder` among its options.
    """

    name: ClassVar[str]
    head: ClassVar[type[Head]]
    by_attribute: ClassVar[bool] = False
    label_bytes: ClassVar[int] = 0
    is_dense: ClassVar[bool] = False

    def label(self, sample: Sample, task: Task) -> Any:
        """What an image is labelled with, None where it is not.

        A number, or a tensor of one shape in all images, is a target of the head as it is.
        """
        return sample.others.get(self.name, {}).get(task.name)

    def of_attribute(self, value: Any, task: Task) -> Any:
        """The label that an attribute of an image says; raises ValueError for one that is none."""
        raise ValueError(f'{task.name} is of kind {self.name}, which no attribute tells')

    def seen(self, label: Any, view: View) -> Any:
        """The label in a scaled, shifted, mirrored view of its image; of kinds of plug-ins only."""
        return label

    def truth(self, label: Any, task: Task) -> Any:
        """The label as `mtl_evaluation.kinds` of this name measures it."""
        return label
