"""Frame -> letterbox -> engine -> decode -> Result: the whole way of one image, without ROS."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from mtl_perception.bundle import Bundle, BundleError, find_bundle
from mtl_perception.decode import DECODERS, NEEDED, Detections, Thresholds
from mtl_perception.engines import Options, open_engine
from mtl_perception.engines.base import Engine, EngineError, EngineInfo
from mtl_perception.letterbox import Letterbox
from mtl_perception.tasks import Task

__all__ = ['Detections', 'Frame', 'Pipeline', 'Result', 'Thresholds']

DEFAULT_THRESHOLDS = Thresholds()

_KEPT_BUFFERS = 8
"""Source sizes whose letterbox buffer is kept; more cameras than that reallocate."""


@dataclass(frozen=True)
class Frame:
    """An image as it came: uint8 [H, W, 3], a view with padded rows is fine.

    Raises ValueError on another dtype or shape.
    """

    pixels: NDArray[np.uint8]
    order: Literal['rgb', 'bgr'] = 'rgb'

    def __post_init__(self) -> None:
        """Check dtype, shape and order."""
        shape = self.pixels.shape
        if self.pixels.dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
            raise ValueError(
                f'frame: expected uint8 [H, W, 3], found {self.pixels.dtype} {list(shape)}'
            )
        if self.order not in ('rgb', 'bgr'):
            raise ValueError(f"frame: order must be 'rgb' or 'bgr', found {self.order!r}")


@dataclass(frozen=True)
class Result:
    """What is known about one frame, by task name; only tasks that were wanted are there.

    masks: uint8 [H, W] class ids of source pixels, 255 unlabelled. probabilities: float32 [C].
    maps: float32 of source pixels, depth [H, W] in metres, normals [H, W, 3] unit vectors.
    timings_ms: 'letterbox', 'engine', 'decode'.
    """

    detections: dict[str, Detections] = field(default_factory=dict)
    masks: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    probabilities: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    maps: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    timings_ms: dict[str, float] = field(default_factory=dict)


class Pipeline:
    """An opened model: call it with frames of any size.

    Not thread-safe: buffers are reused, so one thread calls it. `thresholds` may be assigned at any
    time, also from another thread, and counts from the next frame on.
    """

    def __init__(
        self, bundle: Bundle, engine: Engine, thresholds: Thresholds = DEFAULT_THRESHOLDS
    ) -> None:
        """Check that every task of the bundle can be decoded from what the engine computes.

        Raises BundleError on a task without its outputs, and
        EngineError when the engine is not open for a single frame a run.
        """
        self.bundle = bundle
        self.engine = engine
        self.thresholds = thresholds
        if engine.info.batch != 1:
            raise EngineError(
                f'the pipeline runs one frame at a time, engine {engine.info.name} is open for '
                f'batches of {engine.info.batch}'
            )
        for task in bundle.manifest.tasks:
            _check_decodable(bundle, task)
        self._buffers: dict[tuple[int, int, str], tuple[Letterbox, NDArray[np.uint8]]] = {}
        spec = bundle.manifest.input
        self._input = np.empty((1, spec.height, spec.width, 3), np.uint8)

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
        opened = open_engine(bundle, engine, Options(None, device, precision), build)
        return cls(bundle, opened, thresholds)

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
        wanted = self.tasks if tasks is None else [self._task(name) for name in tasks]
        thresholds = self.thresholds
        started = time.perf_counter()
        letterbox, batch = self._letterbox(frame)
        boxed = time.perf_counter()
        outputs = self.engine.run(batch)
        ran = time.perf_counter()
        result = Result()
        stores: dict[str, dict[str, Any]] = {
            'detection': result.detections,
            'segmentation': result.masks,
            'classification': result.probabilities,
            'depth': result.maps,
            'normals': result.maps,
        }
        for task in wanted:
            specs = self.bundle.manifest.outputs_of(task.name)
            tensors = {meaning: outputs[spec.name][0] for meaning, spec in specs.items()}
            stores[task.kind][task.name] = DECODERS[task.kind](
                task, specs, tensors, letterbox, thresholds
            )
        decoded = time.perf_counter()
        result.timings_ms.update(
            letterbox=(boxed - started) * 1e3,
            engine=(ran - boxed) * 1e3,
            decode=(decoded - ran) * 1e3,
        )
        return result

    def close(self) -> None:
        """Free the engine; a second call does nothing."""
        self.engine.close()
        self._buffers.clear()

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

    def _letterbox(self, frame: Frame) -> tuple[Letterbox, NDArray[np.uint8]]:
        height, width = frame.pixels.shape[:2]
        key = (height, width, frame.order)
        # Taken out and put back: the least recently used size is the first to go.
        found = self._buffers.pop(key, None)
        if found is None:
            spec = self.bundle.manifest.input
            letterbox = Letterbox.fit(width, height, spec.width, spec.height)
            red, green, blue = spec.letterbox_colour
            colour = (red, green, blue) if frame.order == 'rgb' else (blue, green, red)
            found = letterbox, letterbox.new_buffer(colour)
        self._buffers[key] = found
        while len(self._buffers) > _KEPT_BUFFERS:
            del self._buffers[next(iter(self._buffers))]
        letterbox, buffer = found
        letterbox.apply(frame.pixels, buffer)
        if frame.order == 'rgb':
            return letterbox, buffer[None]
        cv2.cvtColor(buffer, cv2.COLOR_BGR2RGB, dst=self._input[0])
        return letterbox, self._input


def _check_decodable(bundle: Bundle, task: Task) -> None:
    found = frozenset(bundle.manifest.outputs_of(task.name))
    if not any(needed <= found for needed in NEEDED[task.kind]):
        needs = ' or '.join(str(sorted(needed)) for needed in NEEDED[task.kind])
        raise BundleError(
            f'bundle {bundle.path}: {task.kind} task {task.name!r} needs outputs {needs}, '
            f'found {sorted(found)}. Export the bundle again.'
        )
