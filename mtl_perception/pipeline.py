"""Frame -> letterbox -> engine -> decode -> Result: the whole way of one image, without ROS."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from mtl_perception.batching import Batch, open_batch
from mtl_perception.bundle import Bundle, BundleError, find_bundle
from mtl_perception.decode import DECODERS, NEEDED, Detections, Thresholds
from mtl_perception.decode.confidence import confidence_to_source
from mtl_perception.engines import Options, open_engine
from mtl_perception.engines.base import Engine, EngineError, EngineInfo
from mtl_perception.geometry import GroundPoints
from mtl_perception.letterbox import Letterbox
from mtl_perception.tasks import Task
from mtl_perception.tracking import Tracks

__all__ = ['Detections', 'Frame', 'Pipeline', 'Result', 'Thresholds']

log = logging.getLogger(__name__)

DEFAULT_THRESHOLDS = Thresholds()


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

    masks: uint8 [H, W] class ids of source pixels, 255 unlabelled. confidences: uint8 [H, W], of
    masks for which they were asked, 255 = sure. probabilities: float32 [C].
    maps: float32 of source pixels, depth [H, W] in metres, normals [H, W, 3] unit vectors.
    tracks: which detections are of which track, where they are tracked. places: where on the road
    the detections are, where the camera's geometry is known.
    timings_ms: 'letterbox', 'engine', 'decode'.
    """

    detections: dict[str, Detections] = field(default_factory=dict)
    masks: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    probabilities: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    maps: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    tracks: dict[str, Tracks] = field(default_factory=dict)
    places: dict[str, GroundPoints] = field(default_factory=dict)
    confidences: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    timings_ms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Ran:
    """What the engine made of one frame: outputs by tensor name, without the batch axis."""

    letterbox: Letterbox
    outputs: Mapping[str, NDArray[Any]]
    timings_ms: Mapping[str, float]


class Pipeline:
    """An opened model: call it with frames of any size.

    Not thread-safe: buffers are reused, so one thread calls it. `thresholds` may be assigned at any
    time, also from another thread, and counts from the next frame on.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        thresholds: Thresholds = DEFAULT_THRESHOLDS,
        batch: Batch | None = None,
    ) -> None:
        """Check that every task of the bundle can be decoded from what the engine computes.

        batch: the same for several frames a run. Raises BundleError on a task without its outputs,
        and EngineError when the engine is not open for a single frame a run.
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
        self._input = self._buffer(engine)
        self._batch = batch
        self._batch_input = None if batch is None else self._buffer(batch.engine)
        spec = bundle.manifest.input
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
        cameras: int = 1,
    ) -> Pipeline:
        """Open a bundle (folder, or name of one under `models/`) and the engine built for it.

        With `build` a missing engine is built first, which the log says; without it that is an
        EngineError with the command that builds it. cameras: frames that may wait at once. Raises
        BundleError and EngineError.
        """
        bundle = Bundle.open(find_bundle(model))
        options = Options(None, device, precision)
        return cls.of(bundle, engine, options, build, thresholds, cameras)

    @classmethod
    def of(
        cls,
        bundle: Bundle,
        engine: str,
        options: Options,
        build: bool = False,
        thresholds: Thresholds = DEFAULT_THRESHOLDS,
        cameras: int = 1,
    ) -> Pipeline:
        """As `open`, of an opened bundle and with all options of its engine."""
        opened = open_engine(bundle, engine, options, build)
        batch = None
        if cameras > 1:
            batch = open_batch(bundle, opened, replace(options, batch=cameras), build)
        return cls(bundle, opened, thresholds, batch)

    @property
    def info(self) -> EngineInfo:
        """What really runs."""
        return self.engine.info

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks that the bundle answers."""
        return self.bundle.manifest.tasks

    @property
    def together(self) -> tuple[int, int]:
        """From how many frames on one run of all is faster, and how many that can be at most."""
        return (1, 1) if self._batch is None else (self._batch.least, self._batch.most)

    def run_together(self, frames: Sequence[Frame]) -> list[Ran | None]:
        """Run frames in one batch where that is faster: for each what `__call__` decodes.

        None for each, so that they are run one by one, where it is not, and when the batch fails:
        it is given up then, and the log says so.
        """
        least, most = self.together
        batch, pixels = self._batch, self._batch_input
        if batch is None or pixels is None or not least <= len(frames) <= most:
            return [None] * len(frames)
        started = time.perf_counter()
        boxes = [self._letterbox(frame, row) for frame, row in zip(frames, pixels, strict=False)]
        boxed = time.perf_counter()
        try:
            outputs = batch.engine.run(pixels)
        except Exception as error:  # whatever a runtime throws: the engine for one is still there
            log.warning('frames are run one by one from now on: a batch failed: %s', error)
            self._batch = None
            batch.engine.close()
            return [None] * len(frames)
        timings_ms = _milliseconds(letterbox=boxed - started, engine=time.perf_counter() - boxed)
        return [
            Ran(box, {name: values[row] for name, values in outputs.items()}, timings_ms)
            for row, box in enumerate(boxes)
        ]

    def __call__(
        self,
        frame: Frame,
        tasks: Collection[str] | None = None,
        ran: Ran | None = None,
        confidences: Collection[str] = (),
    ) -> Result:
        """Run one frame; `tasks` names those to decode (None: all, empty: none).

        ran: what a batch has made of this frame already. confidences: those of the tasks whose
        masks are to tell how sure they are; of a mask that leaves the graph as classes nothing is
        known. Raises ValueError on an unknown task name and EngineError when the engine fails.
        """
        wanted = self.tasks if tasks is None else [self._task(name) for name in tasks]
        thresholds = self.thresholds
        ran = ran or self.run(frame)
        started = time.perf_counter()
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
            tensors = {meaning: ran.outputs[spec.name] for meaning, spec in specs.items()}
            stores[task.kind][task.name] = DECODERS[task.kind](
                task, specs, tensors, ran.letterbox, thresholds
            )
            if task.name in confidences and 'logits' in tensors:
                result.confidences[task.name] = confidence_to_source(
                    tensors['logits'], result.masks[task.name], ran.letterbox,
                    specs['logits'].stride,
                )  # fmt: skip
        decode = _milliseconds(decode=time.perf_counter() - started)
        result.timings_ms.update(**ran.timings_ms, **decode)
        return result

    def run_empty(self) -> None:
        """Run the engine on an empty picture; raises what it raises."""
        self.engine.run(np.zeros_like(self._input))

    def close(self) -> None:
        """Free the engine; a second call does nothing."""
        self.engine.close()
        if self._batch is not None:
            self._batch.engine.close()

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

    def run(self, frame: Frame) -> Ran:
        """Run one frame, for `__call__` to decode; that may be in another thread."""
        started = time.perf_counter()
        letterbox = self._letterbox(frame, self._input[0])
        boxed = time.perf_counter()
        outputs = self.engine.run(self._input)
        timings_ms = _milliseconds(letterbox=boxed - started, engine=time.perf_counter() - boxed)
        return Ran(letterbox, {name: values[0] for name, values in outputs.items()}, timings_ms)

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

    def _buffer(self, engine: Engine) -> NDArray[np.uint8]:
        """What frames are letterboxed into; the engine's own spares it a copy."""
        if engine.input is not None:
            return engine.input
        spec = self.bundle.manifest.input
        return np.empty((engine.info.batch, spec.height, spec.width, 3), np.uint8)


def _milliseconds(**seconds: float) -> dict[str, float]:
    return {stage: value * 1e3 for stage, value in seconds.items()}


def _check_decodable(bundle: Bundle, task: Task) -> None:
    found = frozenset(bundle.manifest.outputs_of(task.name))
    if not any(needed <= found for needed in NEEDED[task.kind]):
        needs = ' or '.join(str(sorted(needed)) for needed in NEEDED[task.kind])
        raise BundleError(
            f'bundle {bundle.path}: {task.kind} task {task.name!r} needs outputs {needs}, '
            f'found {sorted(found)}. Export the bundle again.'
        )
