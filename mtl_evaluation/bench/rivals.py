# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Other networks beside the model in `mtl-perception bench`: bundles, or ONNX files of any origin.

An ONNX file with a float [B, 3, H, W] input gets what our own graph holds, a uint8 [B, H, W, 3]
input scaled to 0-1, so that both pay for it.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from mtl_perception.bundle import Bundle, InputSpec, Manifest, OutputSpec, find_bundle, sha256_of
from mtl_perception.engines import Engine, EngineError, EngineInfo
from mtl_perception.frame import Frame, Result
from mtl_perception.letterbox import Letterbox

GRAPH = 'model.onnx'


class EngineOnly:
    """Letterbox and engine, without decoding: for networks, or parts, that the pipeline cannot."""

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        """An engine for single frames."""
        self.engine = engine
        self._spec = bundle.manifest.input
        self._buffer: Any = None

    @property
    def info(self) -> EngineInfo:
        """What really runs."""
        return self.engine.info

    def __call__(self, frame: Frame) -> Result:
        """A result with nothing but times; frames of one size only."""
        started = time.perf_counter()
        height, width = frame.pixels.shape[:2]
        box = Letterbox.fit(width, height, self._spec.width, self._spec.height)
        if self._buffer is None:
            self._buffer = box.new_buffer(self._spec.letterbox_colour)
        batch = box.apply(frame.pixels, self._buffer)[None]
        boxed = time.perf_counter()
        self.engine.run(batch)
        ran = time.perf_counter()
        return Result(
            timings_ms={'letterbox': (boxed - started) * 1e3, 'engine': (ran - boxed) * 1e3}
        )

    def close(self) -> None:
        """Free the engine."""
        self.engine.close()


def find_rival(path: str, folder: Path) -> Bundle:
    """A bundle by folder or name, or one made of an ONNX file below `folder`.

    Raises BundleError and EngineError.
    """
    if not path.endswith('.onnx'):
        return Bundle.open(find_bundle(path))
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise EngineError(
            f'--against {path}: ONNX files are read with onnx and onnxruntime ({error}). '
            f"Install them: pip install 'mtl_perception[onnxruntime]'"
        ) from error
    file = Path(path).expanduser()
    try:
        model = onnx.load(file)
    except Exception as error:  # protobuf's error, a package of its own
        raise EngineError(f'--against {path} is no ONNX graph: {error}') from error
    sides = _adapt(model, file)
    target = folder / file.stem
    target.mkdir(parents=True)
    onnx.save(model, target / GRAPH)
    name = model.graph.input[0].name
    session = onnxruntime.InferenceSession(str(target / GRAPH), providers=['CPUExecutionProvider'])
    answers = session.run(None, {name: np.zeros((1, *sides, 3), np.uint8)})
    outputs = tuple(
        OutputSpec(port.name, '', 'logits', answer.dtype.name, answer.shape[1:])
        for port, answer in zip(session.get_outputs(), answers, strict=True)
    )
    manifest = Manifest(
        name=file.stem,
        tasks=(),
        input=InputSpec(*sides, name=name),
        outputs=outputs,
        files={GRAPH: sha256_of(target / GRAPH)},
        licence='of its own',
        training_data=(),
    )
    return Bundle(target, manifest)


def _adapt(model: Any, file: Path) -> tuple[int, int]:
    """Give the graph a uint8 [B, H, W, 3] input, in place; returns its height and width."""
    from onnx import TensorProto, helper, numpy_helper

    initial = {item.name for item in model.graph.initializer}
    ports = [port for port in model.graph.input if port.name not in initial]
    shape = [side.dim_value for side in ports[0].type.tensor_type.shape.dim]
    kind = ports[0].type.tensor_type.elem_type
    if len(ports) == 1 and len(shape) == 4 and min(shape[1:]) > 0:
        if kind == TensorProto.UINT8 and shape[3] == 3:
            return shape[1], shape[2]
        if kind == TensorProto.FLOAT and shape[1] == 3:
            name = ports[0].name
            image = helper.make_tensor_value_info(
                'image', TensorProto.UINT8, ['B', shape[2], shape[3], 3]
            )
            scale = numpy_helper.from_array(np.array(1 / 255, np.float32), 'image.scale')
            model.graph.initializer.append(scale)
            for node in reversed(
                [
                    helper.make_node('Cast', ['image'], ['image.float'], to=TensorProto.FLOAT),
                    helper.make_node('Mul', ['image.float', 'image.scale'], ['image.unit']),
                    helper.make_node('Transpose', ['image.unit'], [name], perm=[0, 3, 1, 2]),
                ]
            ):
                model.graph.node.insert(0, node)
            model.graph.input.remove(ports[0])
            model.graph.input.insert(0, image)
            return shape[2], shape[3]
    raise EngineError(
        f'--against {file}: expected one input, float [B, 3, H, W] or uint8 [B, H, W, 3] of fixed '
        f'height and width, found {[(port.name, shape) for port in ports]}'
    )
