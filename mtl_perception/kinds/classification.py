# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Classification: one class for the whole frame, as vision_msgs/Classification."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mtl_perception.decode.answers import UNKNOWN, answer, calibrated
from mtl_perception.decode.contract import Outputs, Thresholds
from mtl_perception.engine_error import EngineError
from mtl_perception.kinds.base import Kind, Types
from mtl_perception.letterbox import Letterbox
from mtl_perception.tasks import Task

if TYPE_CHECKING:
    from mtl_perception.manifest import OutputSpec


class ClassificationKind(Kind):
    """The answer is the calibrated probability of every class, float32 [C].

    A message does not say what it answers: its topic does, below `scene/`.
    """

    name = 'classification'
    needed = (frozenset({'probabilities'}),)
    message = 'vision_msgs/msg/Classification'
    topic_folder = 'scene/'
    always_painted = True
    is_label = True

    def decode(
        self,
        task: Task,
        specs: Mapping[str, OutputSpec],
        outputs: Outputs,
        letterbox: Letterbox,
        thresholds: Thresholds,
    ) -> NDArray[np.float32]:
        """Raises EngineError on values outside 0-1."""
        probabilities = np.array(outputs['probabilities'], np.float32)
        if not (probabilities >= -1e-3).all() or not (probabilities <= 1 + 1e-3).all():
            raise EngineError(
                f'task {task.name!r}: output {specs["probabilities"].name!r} should hold '
                f'probabilities, found {probabilities}. Export the bundle again.'
            )
        return calibrated(probabilities, task.temperature)

    def to_message(
        self, types: Types, header: Any, probabilities: NDArray[np.float32], task: Task
    ) -> Any:
        """The answer first, then every class of the task with its probability, the best first.

        The answer is the most probable class, or `unknown` where the model is not to be believed.
        """
        hypothesis = types('vision_msgs/msg/ObjectHypothesis')
        order = np.argsort(-probabilities, kind='stable')
        results = [
            hypothesis(class_id=task.classes[index], score=float(probabilities[index]))
            for index in order
        ]
        name, score = answer(probabilities, task)
        if name == UNKNOWN:
            results.insert(0, hypothesis(class_id=name, score=score))
        return types(self.message)(header=header, results=results)

    def caption(self, probabilities: NDArray[np.float32], task: Task) -> tuple[str, float]:
        """The answer and its probability."""
        return answer(probabilities, task)


KIND = ClassificationKind()
