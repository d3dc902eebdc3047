# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Frame -> letterbox -> engine -> decode -> Result: the whole way of one image, without ROS."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from mtl_perception import kinds
from mtl_perception.bundle import Bundle, BundleError, find_bundle
from mtl_perception.decode import Thresholds
from mtl_perception.decode.confidence import confidence_to_source
from mtl_perception.engines import Options, open_engine
from mtl_perception.engines.base import Engine, EngineInfo
from mtl_perception.frame import Detections, Frame, Result
from mtl_perception.letterbox import Letterbox
from mtl_perception.tasks import Task

__all__ = ['Detections', 'Frame', 'Inference', 'Pipeline', 'Result', 'Thresholds']

T = TypeVar('T')

DEFAULT_THRESHOLDS = Thresholds()


@dataclass(frozen=True)
class Inference:
    """What the engine computed for one frame: outputs by tensor name, without the batch axis."""

    pipeline: Pipeline
    letterbox: Letterbox
    outputs: Mapping[str, NDArray[Any]]
    timings_ms: Mapping[str, float]

    def decode(
        self, tasks: Collection[str] | None = None, confidences: Collection[str] = ()
    ) -> Result:
        """The answers in source pixels, of all tasks or of those named; in any thread.

        confidences: tasks whose masks are to tell how sure they are; nothing is known of a mask
        that leaves the graph as classes. Raises ValueError on an unknown task name and EngineError
        on outputs that mean nothing.
        """
        started = time.perf_counter()
        pipeline, result = self.pipeline, Result()
        thresholds = pipeline.thresholds
        for task in pipeline.requested(tasks):
            specs = pipeline.bundle.manifest.outputs_of(task.name)
            tensors = {meaning: self.outputs[spec.name] for meaning, spec in specs.items()}
            answer = kinds.of(task).decode(task, specs, tensors, self.letterbox, thresholds)
            result.answers[task.name] = answer
            if task.name in confidences and 'logits' in tensors:
                result.confidences[task.name] = confidence_to_source(
                    tensors['logits'], answer, self.letterbox, specs['logits'].stride
                )
        decode = _milliseconds(decode=time.perf_counter() - started)
        result.timings_ms.update(**self.timings_ms, **decode)
        return result


class Pipeline:
    """An opened model: call it with frames of any size.

    Not thread-safe: buffers are reused, so one thread calls it. `thresholds` may be assigned at any
    time, also from another thread, and counts from the next frame on.
    """

    def __init__(
        self, bundle: Bundle, engine: Engine, thresholds: Thresholds = DEFAULT_THRESHOLDS
    ) -> None:
        """Check that every task of the bundle can be decoded from what the engine computes.

        Raises BundleError on a task without its outputs.
        """
        self.bundle = bundle
        self.engine = engine
        self.thresholds = thresholds
        for task in bundle.manifest.tasks:
            _check_decodable(bundle, task)
        spec = bundle.manifest.input
        shape = (engine.info.batch, spec.height, spec.width, 3)
        # The engine's own buffer spares it a copy.
        self._input = np.zeros(shape, np.uint8) if engine.input is None else engine.input
        self._scratch = np.empty(spec.height * spec.width * 3, np.uint8)

    @classmethod
    def open(
        cls,
        model: str | Path,
        engine: str = 'auto',
        device: str = 'auto',
        precision: str = 'auto',
        build: bool = False,
        thresholds: Thresholds = DEFAULT_THRESHOLDS,
    ) -> Pipeline:
        """Open a bundle (folder, or name of one under `models/`) and the engine built for it.

        With `build` a missing engine is built first, which the log says; without it that is an
        EngineError with the command that builds it. Raises BundleError and EngineError.
        """
        bundle = Bundle.open(find_bundle(model))
        options = Options(None, device, precision)
        return cls(bundle, open_engine(bundle, engine, options, build), thresholds)

    @property
    def info(self) -> EngineInfo:
        """What really runs."""
        return self.engine.info

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks that the bundle answers."""
        return self.bundle.manifest.tasks

    def __call__(self, frame: Frame, tasks: Collection[str] | None = None) -> Result:
        """Run one frame; `tasks` names those to decode (None: all, empty: none).

        Raises ValueError on an unknown task name and EngineError when the engine fails.
        """
        self.requested(tasks)  # a wrong name is found before the engine runs
        return self.infer(frame).decode(tasks)

    def infer(self, frame: Frame) -> Inference:
        """Letterbox and run one frame; raises EngineError when the engine fails."""
        [outcome] = self.infer_batch([frame])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def infer_batch(self, frames: Sequence[Frame]) -> list[Inference | Exception]:
        """Run 1 to `info.batch` frames of any sizes at once; one outcome per frame.

        A frame that cannot be letterboxed has the exception as its outcome and affects no other.
        Raises what the engine raises.
        """
        started = time.perf_counter()
        boxes = [
            _outcome(self._letterbox, frame, row)
            for frame, row in zip(frames, self._input, strict=False)
        ]
        boxed = time.perf_counter()
        if all(isinstance(box, Exception) for box in boxes):
            return [box for box in boxes if isinstance(box, Exception)]
        outputs = self.engine.run(self._input)
        timings_ms = _milliseconds(letterbox=boxed - started, engine=time.perf_counter() - boxed)
        rows = [{name: each[row] for name, each in outputs.items()} for row in range(len(boxes))]
        return [
            box if isinstance(box, Exception) else Inference(self, box, row, timings_ms)
            for box, row in zip(boxes, rows, strict=True)
        ]

    def requested(self, names: Collection[str] | None) -> Sequence[Task]:
        """The tasks of those names, or all; raises ValueError on an unknown name."""
        return self.tasks if names is None else [self._task(name) for name in names]

    def run_empty(self) -> None:
        """Run the engine on an empty picture; raises what it raises."""
        self.engine.run(np.zeros_like(self._input))

    def close(self) -> None:
        """Free the engine; a second call does nothing."""
        self.engine.close()

    def __enter__(self) -> Pipeline:
        """Close on leaving the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _task(self, name: str) -> Task:
        for task in self.tasks:
            if task.name == name:
                return task
        names = [task.name for task in self.tasks]
        near = get_close_matches(name, names, n=1)
        hint = f', did you mean {near[0]!r}?' if near else ''
        model = self.bundle.manifest.name
        raise ValueError(f'model {model!r} has no task {name!r}{hint}; it has {names}')

    def _letterbox(self, frame: Frame, out: NDArray[np.uint8]) -> Letterbox:
        """Resize, put into RGB order and pad, straight into what the engine reads."""
        height, width = frame.pixels.shape[:2]
        spec = self.bundle.manifest.input
        box = Letterbox.fit(width, height, spec.width, spec.height)
        inner = box.inner(out)
        if frame.order == 'rgb':
            box.resize(frame.pixels, inner)
        else:
            resized = self._scratch[: inner.size].reshape(inner.shape)
            box.resize(frame.pixels, resized)
            cv2.cvtColor(resized, cv2.COLOR_BGR2RGB, dst=inner)
        box.pad(out, spec.letterbox_colour)
        return box


def _outcome(call: Callable[..., T], *arguments: Any) -> T | Exception:
    """What a call returns, or what it raises."""
    try:
        return call(*arguments)
    except Exception as error:  # given on to whoever asked for this frame
        return error


def _milliseconds(**seconds: float) -> dict[str, float]:
    return {stage: value * 1e3 for stage, value in seconds.items()}


def _check_decodable(bundle: Bundle, task: Task) -> None:
    found = frozenset(bundle.manifest.outputs_of(task.name))
    enough = kinds.of(task).needed
    if not any(needed <= found for needed in enough):
        needs = ' or '.join(str(sorted(needed)) for needed in enough)
        raise BundleError(
            f'bundle {bundle.path}: {task.kind} task {task.name!r} needs outputs {needs}, '
            f'found {sorted(found)}. Export the bundle again.'
        )
