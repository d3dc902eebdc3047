# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""A kind of a plug-in, in the vehicle: how bright the frame is, as sensor_msgs/Illuminance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtl_perception.decode.contract import Outputs, Thresholds
from mtl_perception.engine_error import EngineError
from mtl_perception.kinds.base import Kind, Types
from mtl_perception.letterbox import Letterbox
from mtl_perception.tasks import Task


class GlowKind(Kind):
    """The answer is a float from 0 to 1."""

    name = 'glow'
    needed = (frozenset({'brightness'}),)
    message = 'sensor_msgs/msg/Illuminance'
    has_classes = False
    topic_folder = 'glow/'
    always_painted = True

    def decode(
        self,
        task: Task,
        specs: Mapping[str, Any],
        outputs: Outputs,
        letterbox: Letterbox,
        thresholds: Thresholds,
    ) -> float:
        """Raises EngineError outside 0 to 1."""
        value = float(outputs['brightness'][0])
        if not 0 <= value <= 1:
            raise EngineError(f'task {task.name!r}: brightness {value}, expected 0 to 1')
        return value

    def to_message(self, types: Types, header: Any, answer: float, task: Task) -> Any:
        """As it is."""
        return types(self.message)(header=header, illuminance=answer)

    def caption(self, answer: float, task: Task) -> tuple[str, None]:
        """The number."""
        return f'{answer:.2f}', None


KIND = GlowKind()
