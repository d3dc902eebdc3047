# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What the evaluation has to know about a kind of task: truth, metric, figures, flaws, pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.metrics.gathered import Gathered, Summed
from mtl_evaluation.metrics.sums import SumTable
from mtl_evaluation.metrics.temporal import Stability
from mtl_evaluation.truth.truth import Truth
from mtl_perception import kinds as vehicle
from mtl_perception import overlay
from mtl_perception.frame import Result
from mtl_perception.tasks import Task

Image = NDArray[np.uint8]
Curve = tuple[NDArray[np.float64], NDArray[np.float64]]
Parts = dict[str, tuple[float, float]]
"""Part and whole by figure."""


@dataclass(frozen=True)
class Figure:
    """A figure as a person reads it. unit: '%' of a share, else its own, '' for none."""

    title: str
    unit: str = '%'
    lower_is_better: bool = False

    @property
    def is_share(self) -> bool:
        """Whether it is a fraction, shown in percent and compared in points."""
        return self.unit == '%'

    def shown(self, value: float, form: str = '.2f') -> str:
        """A value, or a difference: hundredths of a share, else with its unit."""
        if self.is_share:
            return f'{100 * value:{form}}'
        return f'{value:{form}} {self.unit}'.rstrip()

    def points(self, value: float, form: str = '.2f') -> str:
        """The same in words: a share in points."""
        return f'{self.shown(value, form)} points' if self.is_share else self.shown(value, form)


@dataclass(frozen=True)
class Flaw:
    """How wrong a frame is at one task: 0 is right, more is worse; and the same in words."""

    badness: float
    text: str


@dataclass(frozen=True)
class Panel:
    """One picture of a frame, uint8 [H, W, 3] RGB, and what it shows."""

    title: str
    image: Image


class Kind(ABC):
    """One kind. An object of it without state, `KIND`, is what each file of this folder has.

    name: as of `mtl_perception.kinds`. metric: a class such as `metrics.segmentation` has.

    figures: those that its results and comparisons name, before any `/CLASS`. headlines: of them
    the ones that stand for a task in a comparison, the first one alone where there is room for one;
    that one is a share, and higher is better. in_slices: those that are compared in every slice.
    class_figure: the one that a result has by class, '' for none. checked: the one that an engine
    may lose only little of (`compile --check`), '' for none.

    flaw_title: what a plot of flaws has on its axis. worst_rule: what makes a frame one of the
    worst. counted: what its confusion counts; background: whether that has a last row and column
    for nothing. named: whether a viewer is told the names of its classes.
    """

    name: ClassVar[str]
    metric: ClassVar[Any]
    figures: ClassVar[Mapping[str, Figure]]
    headlines: ClassVar[tuple[str, ...]]
    in_slices: ClassVar[tuple[str, ...]] = ()
    class_figure: ClassVar[str] = ''
    checked: ClassVar[str] = ''
    flaw_title: ClassVar[str]
    worst_rule: ClassVar[str]
    counted: ClassVar[str] = 'frames'
    background: ClassVar[bool] = False
    named: ClassVar[bool] = False

    @property
    def is_label(self) -> bool:
        """Whether an answer is one class of the frame, right or wrong."""
        return vehicle.KINDS[self.name].is_label

    @property
    def has_boxes(self) -> bool:
        """Whether pieces are `DetectionMetric`: recall by size, faults and tracks follow."""
        return vehicle.KINDS[self.name].has_boxes

    # --- truth ------------------------------------------------------------------------------------

    def truth(self, truth: Truth, task: Task) -> Any:
        """What is known about a frame at a task, None where it is unlabelled."""
        return truth.others.get(self.name, {}).get(task.name)

    def truth_from(self, message: Any, name: str) -> Truth:
        """What a message on the ground-truth topic of a task says; raises BagError, ValueError.

        A kind without a method of its own reads what `from_message` does.
        """
        value = self.from_message(message, Task(name, self.name))
        return Truth(others={self.name: {name: value}})

    def as_answer(self, truth: Any, task: Task) -> Any:
        """The truth of a frame as a perfect answer, for painting."""
        return truth

    # --- messages in a bag ------------------------------------------------------------------------

    @abstractmethod
    def to_message(self, header: Any, answer: Any, task: Task) -> Any:
        """What the node would publish, of rosbags' types (`messages.cdr`)."""

    @abstractmethod
    def from_message(self, message: Any, task: Task) -> Any:
        """The answer that a message of the node holds; raises ValueError, BagError."""

    def rerun(self, rr: Any, answer: Any, task: Task, labels: Sequence[str]) -> Any:
        """What Rerun (the module `rr`) shows; labels: texts of boxes."""
        return rr.TextLog(str(answer))

    # --- metric -----------------------------------------------------------------------------------

    @abstractmethod
    def measure(
        self, metric: Any, key: str, answer: Any, truth: Any, size: tuple[int, int]
    ) -> None:
        """Add a frame, by name, of (width, height) `size`; raises ValueError as the metric does."""

    def gathered(self, task: Task) -> Gathered:
        """Sums over the frames of a run and of its slices, from no frame."""
        return Summed(lambda: self.metric(task))

    def table(self, task: Task) -> Any:
        """An empty table for the frames of a run one by one, for figures under weights."""
        return SumTable(self.metric, task)

    def figure_names(self, task: Task) -> list[str]:
        """Names of all figures of the table, the headline first."""
        return list(self.metric.figure_names(task))

    @abstractmethod
    def fingerprint(self, piece: Any) -> int:
        """Of the labels of one frame; equal labels, equal numbers in a process."""

    @abstractmethod
    def flaw(self, piece: Any) -> Flaw:
        """How wrong the one frame is that a metric piece holds."""

    def ratio_names(self, task: Task) -> list[str]:
        """Names of the figures that are one sum over frames divided by another."""
        return []

    def ratios(self, task: Task, piece: Any, stability: Stability | None) -> Parts:
        """Part and whole that one frame gives to each of them; piece: None where unlabelled."""
        return {}

    # --- words and pictures -----------------------------------------------------------------------

    def rows(self, result: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Key and title of the figures of a result that a table of accuracy shows."""
        return [(key, self.figures[key].title) for key in self.headlines]

    def by_class(self, result: Mapping[str, Any]) -> dict[str, float | None]:
        """`class_figure` of every class, None where it is not labelled."""
        return dict(result.get(self.class_figure, {}))

    def confusion(self, piece: Any) -> NDArray[np.int64] | None:
        """Of one frame, by [truth, answer]; None for kinds without classes."""
        return None

    def curves(self, table: Any) -> dict[str, Curve]:
        """Class -> recall and best precision, of the frames in a table; none by default."""
        return {}

    def panels(self, image: Image, answer: Any, truth: Any, task: Task) -> Iterator[Panel]:
        """The answer, the truth, and what differs; either may be None where there is none."""
        found = Result() if answer is None else Result({task.name: answer})
        yield Panel('predicted', overlay.draw(image, found, [task], task.name))
        known = Result() if truth is None else Result({task.name: self.as_answer(truth, task)})
        believed = replace(task, taught=None, threshold=0.0)
        yield Panel('truth', overlay.draw(image, known, [believed], task.name))
