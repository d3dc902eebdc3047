# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What depth and normals have in common: a map of numbers whose labels have holes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.kinds.base import Flaw, Image, Kind, Panel
from mtl_evaluation.messages.cdr import map_message, map_of
from mtl_evaluation.truth.truth import Truth, same_size
from mtl_perception.tasks import Task

FAR_OFF = np.array([235, 45, 60], np.float32)


class MapKind(Kind):
    """The truth is a map like the answer, with zeros where it is unknown.

    near_title: what the headline is the share of.
    """

    near_title: ClassVar[str]

    def truth(self, truth: Truth, task: Task) -> NDArray[np.float32] | None:
        """Its map."""
        return truth.maps.get(task.name)

    def truth_from(self, message: Any, name: str) -> Truth:
        """Of an image of floats."""
        return Truth(maps={name: map_of(message)})

    def to_message(self, header: Any, answer: NDArray[np.float32], task: Task) -> Any:
        """32FC1 or 32FC3."""
        return map_message(header, answer)

    def from_message(self, message: Any, task: Task) -> NDArray[np.float32]:
        """Of an image of floats."""
        return map_of(message)

    def measure(
        self, metric: Any, key: str, answer: NDArray[np.float32], truth: NDArray[np.float32],
        size: tuple[int, int],
    ) -> None:  # fmt: skip
        """At the size of the answer."""
        metric.update(answer, same_size(truth, answer))

    def fingerprint(self, piece: Any) -> int:
        """Of the number of labelled pixels, which is all that a piece keeps of them."""
        return hash(int(piece.result()['labelled_pixels']))

    def flaw(self, piece: Any) -> Flaw:
        """1 - the headline: the share of pixels that are far off."""
        headline, error = self.headlines[:2]
        result = piece.result()
        if result[headline] is None:
            return Flaw(0.0, 'nothing labelled')
        known = self.figures[error]
        text = (
            f'{100 * result[headline]:.0f} % {self.near_title}, {known.title} '
            f'{result[error]:.2f} {known.unit}'
        )
        return Flaw(1 - result[headline], text)

    def panels(
        self, image: Image, answer: NDArray[np.float32] | None, truth: NDArray[np.float32] | None,
        task: Task,
    ) -> Iterator[Panel]:  # fmt: skip
        """The pixels that are far off are red, those without a truth dark."""
        yield from super().panels(image, answer, truth, task)
        if answer is None or truth is None:
            return
        expected = same_size(truth, answer)
        painted = (0.6 * image).astype(np.uint8)
        far, known = self.far_off(answer, expected)
        painted[~known] //= 3
        painted[far] = (0.35 * painted[far] + 0.65 * FAR_OFF).astype(np.uint8)
        yield Panel(f'not {self.near_title}: red', painted)

    def far_off(
        self, answer: NDArray[np.float32], truth: NDArray[np.float32]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which pixels the headline does not count as right, and which have a truth: [H, W]."""
        raise NotImplementedError
