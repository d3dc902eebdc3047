# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Classification: accuracy and F1 of one label per frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mtl_evaluation.kinds.base import Figure, Flaw, Kind
from mtl_evaluation.messages.cdr import CLASSIFICATION, typestore
from mtl_evaluation.metrics.classification import ClassificationMetric
from mtl_evaluation.truth.truth import Truth, class_ids
from mtl_perception.decode import answers
from mtl_perception.tasks import Task


class ClassificationKind(Kind):
    """The truth is the name of a class."""

    name = 'classification'
    metric = ClassificationMetric
    figures: ClassVar[Mapping[str, Figure]] = {
        'accuracy': Figure('accuracy'),
        'macro_f1': Figure('macro F1'),
        'f1': Figure('F1'),
    }
    headlines = ('accuracy',)
    class_figure = 'f1'
    flaw_title = 'wrong'
    worst_rule = 'wrong labels, spread over the run'

    def truth(self, truth: Truth, task: Task) -> str | None:
        """Its label."""
        return truth.labels.get(task.name)

    def truth_from(self, message: Any, name: str) -> Truth:
        """The first hypothesis of a Classification."""
        found = message.results[0].class_id if message.results else answers.UNKNOWN
        return Truth() if found == answers.UNKNOWN else Truth(labels={name: found})

    def as_answer(self, truth: str, task: Task) -> NDArray[np.float32]:
        """Certain of it."""
        probabilities = np.zeros(len(task.classes), np.float32)
        probabilities[class_ids(task, [truth])] = 1
        return probabilities

    def to_message(self, header: Any, answer: NDArray[np.float32], task: Task) -> Any:
        """Every class with its probability, the best first."""
        types = typestore().types
        hypotheses = [
            types['vision_msgs/msg/ObjectHypothesis'](task.classes[index], float(answer[index]))
            for index in np.argsort(-answer, kind='stable')
        ]
        return types[CLASSIFICATION](header, hypotheses)

    def from_message(self, message: Any, task: Task) -> NDArray[np.float32]:
        """Of a Classification."""
        probabilities = np.zeros(len(task.classes), np.float32)
        known = [item for item in message.results if item.class_id != answers.UNKNOWN]
        ids = class_ids(task, [item.class_id for item in known])
        probabilities[ids] = [item.score for item in known]
        return probabilities

    def rerun(self, rr: Any, answer: NDArray[np.float32], task: Task, labels: Sequence[str]) -> Any:
        """The answer as a line of text."""
        return rr.TextLog(answers.answer(answer, task)[0])

    def measure(
        self, metric: ClassificationMetric, key: str, answer: NDArray[np.float32], truth: str,
        size: tuple[int, int],
    ) -> None:  # fmt: skip
        """The most probable class."""
        metric.update(int(answer.argmax()), class_ids(metric.task, (truth,))[0])

    def fingerprint(self, piece: ClassificationMetric) -> int:
        """Of the class."""
        return hash(piece.confusion.sum(1).tobytes())

    def flaw(self, piece: ClassificationMetric) -> Flaw:
        """1 when it is wrong."""
        classes = piece.task.classes
        truth, found = (int(piece.confusion.sum(axis).argmax()) for axis in (1, 0))
        if truth == found:
            return Flaw(0.0, f'{classes[truth]}, rightly')
        return Flaw(1.0, f'called {classes[found]}, is {classes[truth]}')

    def rows(self, result: Any) -> list[tuple[str, str]]:
        """With the mean over classes."""
        return [('accuracy', 'accuracy'), ('macro_f1', 'macro F1')]

    def confusion(self, piece: ClassificationMetric) -> NDArray[np.int64]:
        """Of frames."""
        return piece.confusion


KIND = ClassificationKind()
