# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""ONNX Runtime engine: `model.onnx` on any CPU, and on CUDA or TensorRT where its providers are.

What is built is the optimised graph with its batch fixed; for TensorRT a graph that holds the
TensorRT engine. It may hold operators for one CPU family, therefore the cache key names the CPU and
its features. ONNX Runtime runs the whole graph whatever is fetched of it (1.31, measured), so a
subset of outputs is a smaller graph.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_perception.engines import cache, cuda
from mtl_perception.engines.base import EngineError
from mtl_perception.engines.built import BuiltEngine, Plan, check_graph, check_input
from mtl_perception.engines.onnx_graph import changed_graph, fixed_graph

_PROVIDERS = {
    'cpu': 'CPUExecutionProvider',
    'cuda': 'CUDAExecutionProvider',
    'tensorrt': 'TensorrtExecutionProvider',
}
_PRECISIONS = {
    'cpu': ('fp32', 'int8'),
    'cuda': ('fp32', 'fp16'),
    'tensorrt': ('fp32', 'fp16', 'int8'),
}
_DTYPES = {
    'tensor(float)': 'float32',
    'tensor(uint8)': 'uint8',
    'tensor(int64)': 'int64',
    'tensor(int32)': 'int32',
}


class OnnxRuntimeEngine(BuiltEngine):
    """The graph in an inference session; `info` says what is in force."""

    name = 'onnxruntime'
    errors = (Exception,)  # its exception classes have no base class of their own

    @classmethod
    def versions(cls) -> dict[str, str]:
        """ONNX Runtime's."""
        return {'onnxruntime': str(_onnxruntime().__version__)}

    @classmethod
    def device(cls, asked: str) -> str:
        """The provider's short name; `auto` is the CPU, a GPU is asked for by name."""
        name = 'cpu' if asked == 'auto' else asked.lower()
        if name not in _PROVIDERS:
            raise EngineError(
                f"engine onnxruntime: no device {asked!r}, expected 'auto' or one of "
                f'{list(_PROVIDERS)}'
            )
        if _PROVIDERS[name] not in _onnxruntime().get_available_providers():
            raise EngineError(
                f'engine onnxruntime: this build has no {_PROVIDERS[name]}, it has '
                f'{_onnxruntime().get_available_providers()}. For a GPU replace it: pip uninstall '
                f'onnxruntime && pip install onnxruntime-gpu'
            )
        return name

    @classmethod
    def precisions(cls, device: str) -> tuple[str, ...]:
        """What its kernels of the device compute; the CPU has none in half precision."""
        return _PRECISIONS[device]

    @classmethod
    def hardware(cls, device: str) -> str:
        """CPU or GPU."""
        return cache.cpu_name() if device == 'cpu' else cuda.name()

    @classmethod
    def build(cls, plan: Plan, path: Path) -> None:
        """Check, change the graph if asked for, optimise, save."""
        graph = plan.graph_bytes()
        first = _session(plan, graph, _options(), {})
        port = first.get_inputs()[0]
        symbols = {size for size in port.shape if isinstance(size, str)}
        shape = [size if isinstance(size, int) else None for size in port.shape]
        check_input(plan, port.name, shape, _DTYPES.get(port.type, port.type), plan.graph)
        del first
        # The TensorRT provider makes half precision itself, from the graph as it is.
        half = plan.precision == 'fp16' and plan.device == 'cuda'
        if half or plan.precision == 'int8' or plan.prunes:
            changed = changed_graph(plan, fp16=half, int8=plan.precision == 'int8')
            graph = changed.SerializeToString()
        options = _options()
        if plan.bundle.manifest.input.size_step:
            graph = fixed_graph(graph, plan)
        else:
            for symbol in symbols:
                options.add_free_dimension_override_by_name(symbol, plan.shape[0])
        if plan.device == 'tensorrt':
            options.add_session_config_entry('ep.context_enable', '1')
            options.add_session_config_entry('ep.context_file_path', str(path))
            options.add_session_config_entry('ep.context_embed_mode', '1')
        else:
            options.graph_optimization_level = _onnxruntime().GraphOptimizationLevel.ORT_ENABLE_ALL
            options.optimized_model_filepath = str(path)
        _check(plan, _session(plan, graph, options, _provider(plan)), plan.graph)

    def _load(self, plan: Plan, path: Path) -> dict[str, str]:
        # Optimised already; transformations that a provider requires are done at any level.
        options = _options()
        options.intra_op_num_threads = plan.threads
        session = _session(plan, str(path), options, _provider(plan))
        _check(plan, session, path)
        self._session: Any = session
        self._input = session.get_inputs()[0].name
        self._names = list(plan.outputs)
        return {'threads': str(plan.threads), 'providers': ', '.join(session.get_providers())}

    def _run(self, batch: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        values = self._session.run(self._names, {self._input: batch})
        return dict(zip(self._names, values, strict=True))

    def _close(self) -> None:
        self._session = None


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(
            f'engine onnxruntime: the package cannot be imported ({error}). '
            f"Install it: pip install 'mtl_perception[onnxruntime]'"
        ) from error
    return onnxruntime


def _options() -> Any:
    """Without optimisation: the graph was optimised when it was built."""
    options = _onnxruntime().SessionOptions()
    options.graph_optimization_level = _onnxruntime().GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3  # the note on hardware-specific graphs: the cache key handles it
    # Threads that wait busily for the next frame win 3 % and take a fifth more of the CPU.
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    return options


def _provider(plan: Plan) -> dict[str, str]:
    """Options of the provider; TF32 off, because fp32 is what was asked for."""
    if plan.device == 'cuda':
        return {'use_tf32': '0', 'cudnn_conv_algo_search': 'EXHAUSTIVE'}
    if plan.device == 'tensorrt':
        low = {'fp16': ('fp16',), 'int8': ('fp16', 'int8')}.get(plan.precision, ())
        return {f'trt_{name}_enable': '1' for name in low}
    return {}


def _session(plan: Plan, graph: str | bytes, options: Any, provider: dict[str, str]) -> Any:
    """A session whose first provider is the one asked for: it falls back to the CPU unasked."""
    wanted = _PROVIDERS[plan.device]
    names = dict.fromkeys([wanted, _PROVIDERS['cpu']])
    providers = [(name, provider if name == wanted else {}) for name in names]
    session = _onnxruntime().InferenceSession(graph, options, providers=providers)
    if session.get_providers()[0] != wanted:
        raise EngineError(
            f'engine onnxruntime: {wanted} did not start, only {session.get_providers()}. Check '
            f'that the CUDA and cuDNN libraries it needs are installed, or use --device cpu'
        )
    return session


def _check(plan: Plan, session: Any, where: Path) -> None:
    found = {
        port.name: (tuple(port.shape), _DTYPES.get(port.type, port.type))
        for port in session.get_outputs()
    }
    check_graph(plan, found, where)
