# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""OpenVINO engine: `model.onnx` on Intel and Arm CPUs and Intel GPUs.

Precision is always set: left alone, OpenVINO runs bfloat16 where the CPU has it and says nothing.
Shapes are made static, which is 1.7 times faster than dynamic ones. At
bfloat16 OpenVINO itself keeps everything behind the last convolution or matrix product of an output
in single precision; int8 (post-training quantisation by nncf) is of heavy operations only.
"""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_perception.engines import cache
from mtl_perception.engines.base import EngineError
from mtl_perception.engines.built import BuiltEngine, Plan, check_graph, check_input

_HINTS = {'fp32': 'f32', 'bf16': 'bf16', 'fp16': 'f16'}
_HEAVY = {'Convolution', 'GroupConvolution', 'ConvolutionBackpropData', 'MatMul'}


class OpenVinoEngine(BuiltEngine):
    """The graph compiled by OpenVINO; `info` says what is in force."""

    name = 'openvino'

    @classmethod
    def versions(cls) -> dict[str, str]:
        """OpenVINO's."""
        return {'openvino': str(_openvino().get_version())}

    @classmethod
    def device(cls, asked: str) -> str:
        """`CPU` by default, a GPU is asked for by name."""
        name = 'CPU' if asked == 'auto' else asked.upper()
        found = _core().available_devices
        if name not in found:
            raise EngineError(
                f"engine openvino: no device {asked!r}, expected 'auto' or one of {found}"
            )
        return name

    @classmethod
    def precisions(cls, device: str) -> tuple[str, ...]:
        """Those that the device computes itself."""
        able = _core().get_property(device, 'OPTIMIZATION_CAPABILITIES')
        return tuple(name for name in (*_HINTS, 'int8') if name.upper() in able)

    @classmethod
    def hardware(cls, device: str) -> str:
        """The processor."""
        if device == 'CPU':
            return cache.cpu_name()
        return str(_core().get_property(device, 'FULL_DEVICE_NAME'))

    @classmethod
    def build(cls, plan: Plan, path: Path) -> None:
        """Read, prune, make static, quantise if asked for, compile, export."""
        model = _core().read_model(io.BytesIO(plan.graph_bytes()))
        port = model.inputs[0]
        shape = [None if side.is_dynamic else side.get_length() for side in port.partial_shape]
        dtype = port.get_element_type().to_dtype().name
        check_input(plan, port.any_name, shape, dtype, plan.graph)
        for result in list(model.get_results()):
            if not set(plan.outputs) & result.input_value(0).get_names():
                model.remove_result(result)
        model.reshape({plan.bundle.manifest.input.name: list(plan.shape)})
        if plan.precision == 'int8':
            model = _quantised(model, plan)
        compiled = _core().compile_model(model, plan.device, _config(plan, 0))
        _check(plan, compiled, plan.graph)
        path.write_bytes(compiled.export_model().getvalue())

    def _load(self, plan: Plan, path: Path) -> dict[str, str]:
        compiled = _core().import_model(path.read_bytes(), plan.device, _config(plan, plan.threads))
        wanted = _config(plan, 0)['INFERENCE_PRECISION_HINT']
        in_force = compiled.get_property('INFERENCE_PRECISION_HINT').get_type_name()
        if in_force != wanted:
            raise EngineError(
                f'OpenVINO would compute in {in_force} where {wanted} was asked for on '
                f'{plan.device}'
            )
        _check(plan, compiled, path)
        self._input = compiled.input(0).any_name
        self._ports = {name: compiled.output(name) for name in plan.outputs}
        self._request: Any = compiled.create_infer_request()
        return {'threads': str(plan.threads), 'computes_in': in_force}

    def _run(self, batch: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        results = self._request.infer({self._input: batch}, share_inputs=True)
        return {name: results[port] for name, port in self._ports.items()}

    def _close(self) -> None:
        self._request = None
        self._ports = {}


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise EngineError(
            f'engine openvino: the package cannot be imported ({error}). '
            f"Install it: pip install 'mtl_perception[openvino]'"
        ) from error
    return openvino


@lru_cache(maxsize=1)
def _core() -> Any:
    return _openvino().Core()


def _config(plan: Plan, threads: int) -> dict[str, Any]:
    """Compile and load with the same; int8 computes what is not quantised in bf16 where it can."""
    hint = _HINTS.get(plan.precision, 'f32')
    if plan.precision == 'int8' and 'bf16' in OpenVinoEngine.precisions(plan.device):
        hint = 'bf16'
    config: dict[str, Any] = {'INFERENCE_PRECISION_HINT': hint, 'PERFORMANCE_HINT': 'LATENCY'}
    # A GPU's plugin knows no number of threads, and says so by failing.
    on_cpu = plan.device == 'CPU'
    return config | ({'INFERENCE_NUM_THREADS': threads} if threads and on_cpu else {})


def _quantised(model: Any, plan: Plan) -> Any:
    """Post-training quantisation of the heavy operations, with the frames given.

    Not of what lies between them: quantised sums and norms cost this network more accuracy than
    they save time. Boxes and scores, behind the last heavy operation, stay in single precision.
    """
    try:
        import nncf
    except ImportError as error:
        raise EngineError(
            f'engine openvino quantises with nncf, which cannot be imported ({error}). Install it: '
            f"pip install 'mtl_perception[int8]'"
        ) from error
    frames = plan.calibrated().frames
    nncf.set_log_level('ERROR')
    others = [
        node.get_friendly_name()
        for node in model.get_ops()
        if node.get_type_name() not in {*_HEAVY, 'Constant', 'Parameter', 'Result'}
    ]
    return nncf.quantize(
        model,
        nncf.Dataset(frames, lambda frame: np.stack([frame] * plan.shape[0])),
        subset_size=len(frames),
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER,
        ignored_scope=nncf.IgnoredScope(names=others, validate=False),
    )


def _check(plan: Plan, compiled: Any, where: Path) -> None:
    found = {
        port.any_name: (tuple(port.get_shape()), port.get_element_type().to_dtype().name)
        for port in compiled.outputs
    }
    check_graph(plan, found, where)
