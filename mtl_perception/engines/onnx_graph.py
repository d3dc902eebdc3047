# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What is done to `model.onnx` before a runtime builds it: fewer outputs, half precision, int8.

Needed when an engine is built, not when it runs. Half precision and int8 are of convolutions and
matrix products only, with casts at their inputs and outputs: compilers fuse those into the
neighbours. What follows the last of them stays in single precision: boxes are pixels, and half
precision holds no quarter of one beyond 512.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtl_perception.engines.base import EngineError
from mtl_perception.engines.built import Plan

HEAVY = {'Conv', 'ConvTranspose', 'MatMul', 'Gemm'}


def changed_graph(plan: Plan, fp16: bool = False, int8: bool = False) -> Any:
    """The bundle's graph with the outputs wanted and the arithmetic asked for, as a ModelProto.

    int8: QuantizeLinear and DequantizeLinear around the heavy operations, symmetric, weights by
    output channel, which is what TensorRT takes. Raises EngineError when the onnx package is
    missing or the graph is none.
    """
    onnx = _onnx(plan.key.engine)
    try:
        model = onnx.load_model_from_string(plan.graph_bytes())
    except EngineError:
        raise
    except Exception as error:  # protobuf's error, a package of its own
        raise EngineError(f'{plan.graph} is no ONNX graph: {error}') from error
    if plan.prunes:
        model = pruned(model, plan.outputs, plan.graph)
    if int8:
        model = _quantised(model, plan)
    if fp16:
        model = _half(model)
    return model


def fixed_graph(graph: bytes, plan: Plan) -> bytes:
    """A graph for any size as one for the plan's; raises EngineError without the onnx package."""
    onnx = _onnx(plan.key.engine)
    return bytes(fixed_size(onnx.load_from_string(graph), plan.shape).SerializeToString())


def fixed_size(model: Any, shape: Sequence[int]) -> Any:
    """A copy of a graph for any size, for the input [B, H, W, 3] only; shapes inside are left open.

    ONNX Runtime takes names of free sides, but none for those that are worked out from them.
    """
    copy = type(model)()
    copy.CopyFrom(model)
    for side, length in zip(copy.graph.input[0].type.tensor_type.shape.dim, shape, strict=True):
        side.dim_value = length
    del copy.graph.value_info[:]
    for output in copy.graph.output:
        for side in output.type.tensor_type.shape.dim:
            if side.dim_param:
                side.ClearField('dim_param')
    return copy


def pruned(model: Any, outputs: Sequence[str], where: object) -> Any:
    """Only what those outputs need."""
    onnx = _onnx('onnxruntime')
    known = [output.name for output in model.graph.output]
    missing = [name for name in outputs if name not in known]
    if missing:
        raise EngineError(f'{where} has no output {missing[0]!r}; it has {known}')
    inputs = [item.name for item in model.graph.input]
    return onnx.utils.Extractor(model).extract_model(inputs, list(outputs))


def cast_first(model: Any) -> None:
    """Make the uint8 input a float one at once, in place: TensorRT takes uint8 into a Cast only."""
    onnx = _onnx('tensorrt')
    name = model.graph.input[0].name
    for node in model.graph.node:
        node.input[:] = [f'{name}.float' if item == name else item for item in node.input]
    cast = onnx.helper.make_node(
        'Cast', [name], [f'{name}.float'], name=f'{name}.cast', to=onnx.TensorProto.FLOAT
    )
    model.graph.node.insert(0, cast)


def _half(model: Any) -> Any:
    """Cast what goes into the heavy operations and what comes out; weights once, here."""
    onnx = _onnx('tensorrt')
    _fold_casts(model)
    graph, kinds = model.graph, onnx.TensorProto
    stored = {item.name: item for item in graph.initializer}
    halves: dict[str, str] = {}
    nodes = []

    def cast(source: str, target: str, kind: int) -> None:
        node = onnx.helper.make_node('Cast', [source], [target], name=f'{target}.cast', to=kind)
        nodes.append(node)

    def half(name: str) -> str:
        if name not in halves:
            halves[name] = f'{name}.fp16'
            if name in stored:
                values = onnx.numpy_helper.to_array(stored[name]).astype(np.float16)
                graph.initializer.append(onnx.numpy_helper.from_array(values, halves[name]))
            else:
                cast(name, halves[name], kinds.FLOAT16)
        return halves[name]

    for node in list(graph.node):
        heavy = node.op_type in HEAVY
        if heavy:
            node.input[:] = [half(name) if name else '' for name in node.input]
            result, node.output[0] = node.output[0], f'{node.output[0]}.lower'
        nodes.append(node)
        if heavy:
            cast(node.output[0], result, kinds.FLOAT)
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [item for item in graph.initializer if item.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return model


def _quantised(model: Any, plan: Plan) -> Any:
    try:
        from onnxruntime import quantization
    except ImportError as error:
        raise EngineError(
            f'int8 graphs are made with onnxruntime, which cannot be imported ({error}). '
            f"Install it: pip install 'mtl_perception[onnxruntime]'"
        ) from error
    onnx = _onnx(plan.key.engine)
    frames = plan.calibrated().frames
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f'{node.op_type}.{index}'
    _fold_casts(model)
    name = plan.bundle.manifest.input.name

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(frames)

        def get_next(self) -> dict[str, Any] | None:
            frame = next(self.left, None)
            return None if frame is None else {name: frame[None]}

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / 'float.onnx', Path(folder) / 'int8.onnx'
        onnx.save(model, source)
        logging.disable(logging.WARNING)  # it advises to pre-process, on the root logger
        try:
            quantization.quantize_static(
                source,
                target,
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=sorted(HEAVY),
                per_channel=True,
                activation_type=quantization.QuantType.QInt8,
                weight_type=quantization.QuantType.QInt8,
                extra_options={
                    'ActivationSymmetric': True,
                    'WeightSymmetric': True,
                    'QuantizeBias': False,
                    'OpTypesToExcludeOutputQuantization': sorted(HEAVY),
                },
            )
        finally:
            logging.disable(logging.NOTSET)
        return onnx.load(target)


def _fold_casts(model: Any) -> None:
    """Weights that are stored in half precision become float ones: only those are quantised."""
    onnx = _onnx('onnxruntime')
    stored = {item.name: item for item in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        item = stored.get(node.input[0]) if node.op_type == 'Cast' else None
        if item is None or item.data_type != onnx.TensorProto.FLOAT16:
            kept.append(node)
            continue
        values = onnx.numpy_helper.to_array(item).astype(np.float32)
        item.CopyFrom(onnx.numpy_helper.from_array(values, node.output[0]))
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _onnx(engine: str) -> Any:
    try:
        import onnx
        import onnx.utils
    except ImportError as error:
        raise EngineError(
            f'engine {engine} changes the graph with onnx, which cannot be imported ({error}). '
            f"Install it: pip install 'mtl_perception[onnxruntime]'"
        ) from error
    return onnx
