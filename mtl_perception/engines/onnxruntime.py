"""ONNX Runtime engine: `model.onnx` on any CPU, and on CUDA or TensorRT where its providers are.

What is built is the optimised graph with its batch fixed. It may hold operators for one CPU family,
therefore the cache key names the CPU and its features.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_perception.bundle import Bundle
from mtl_perception.engines import cache
from mtl_perception.engines.base import (
    EngineError,
    EngineInfo,
    check_batch,
    check_graph,
    check_input,
    cores,
    wanted_outputs,
)

GRAPH = 'model.onnx'
_PROVIDERS = {
    'cpu': 'CPUExecutionProvider',
    'cuda': 'CUDAExecutionProvider',
    'tensorrt': 'TensorrtExecutionProvider',
}
_DTYPES = {
    'tensor(float)': 'float32',
    'tensor(uint8)': 'uint8',
    'tensor(int64)': 'int64',
    'tensor(int32)': 'int32',
}


def version() -> str:
    """Version of the installed package; raises EngineError when it is missing."""
    return str(_onnxruntime().__version__)


class OnnxRuntimeEngine:
    """The graph in an inference session; `info` says what is in force. Not thread-safe.

    A subset of outputs is returned, but the whole graph runs: ONNX Runtime 1.31 neither skips nor
    removes nodes that nobody asks for (`only_execute_path_to_fetches` changes nothing, measured).
    """

    name = 'onnxruntime'

    def __init__(self, session: Any, info: EngineInfo, shape: tuple[int, ...]) -> None:
        """Wrap a session; use `open`."""
        self.info = info
        self._session: Any = session
        self._shape = shape
        self._input = session.get_inputs()[0].name

    @classmethod
    def key(
        cls,
        bundle: Bundle,
        outputs: Sequence[str] | None = None,
        device: str = 'auto',
        precision: str = 'auto',
        batch: int = 1,
    ) -> cache.CacheKey:
        """What a built engine depends on; one engine serves every subset of `outputs`."""
        if precision not in ('auto', 'fp32'):
            raise EngineError(
                f"engine onnxruntime runs the graph as exported, precision 'auto' or 'fp32', found "
                f'{precision!r}. For bf16 use --engine openvino.'
            )
        spec = bundle.manifest.input
        return cache.CacheKey(
            bundle=bundle.manifest.name,
            bundle_hash=bundle.hash,
            engine=cls.name,
            precision='fp32',
            shape=(batch, spec.height, spec.width, 3),
            device=f'{_device(device)} {cache.cpu_name()}',
            versions={'onnxruntime': version()},
        )

    @classmethod
    def compile(
        cls,
        bundle: Bundle,
        outputs: Sequence[str] | None = None,
        device: str = 'auto',
        precision: str = 'auto',
        batch: int = 1,
    ) -> Path:
        """Build the engine into the cache, replacing an older one; returns the built file.

        Raises EngineError when the graph cannot be read or differs from the manifest.
        """
        key = cls.key(bundle, outputs, device, precision, batch)
        graph = bundle.file(GRAPH)
        ort = _onnxruntime()
        first = _session(graph, _options(ort.GraphOptimizationLevel.ORT_DISABLE_ALL), 'cpu')
        known = [port.name for port in first.get_outputs()]
        wanted_outputs(bundle, outputs, known, str(graph))
        port = first.get_inputs()[0]
        symbols = {size for size in port.shape if isinstance(size, str)}
        shape = [size if isinstance(size, int) else None for size in port.shape]
        dtype = _DTYPES.get(port.type, port.type)
        check_input(bundle, batch, port.name, shape, dtype, str(graph))
        del first

        def write(path: Path) -> None:
            options = _options(ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
            options.optimized_model_filepath = str(path)
            for symbol in symbols:
                options.add_free_dimension_override_by_name(symbol, batch)
            _check(bundle, _session(graph, options, _device(device)), batch, str(graph))

        return cache.build(key, write)

    @classmethod
    def open(
        cls,
        bundle: Bundle,
        outputs: Sequence[str] | None = None,
        device: str = 'auto',
        precision: str = 'auto',
        batch: int = 1,
        threads: int = 0,
    ) -> OnnxRuntimeEngine:
        """Load the built engine from the cache. `threads` 0: all cores this process may use.

        Raises EngineError when it is not built or damaged (with the command that builds it), or
        when the provider asked for does not start.
        """
        key = cls.key(bundle, outputs, device, precision, batch)
        path = cache.built_file(key, bundle)
        threads = threads or cores()
        # Optimised already; transformations that a provider requires are done at any level.
        options = _options(_onnxruntime().GraphOptimizationLevel.ORT_DISABLE_ALL)
        options.intra_op_num_threads = threads
        try:
            session = _session(path, options, _device(device))
        except EngineError as error:
            command = cache.compile_command(bundle, cls.name, key.precision, force=True)
            raise EngineError(f'{error}. Build it again: {command}') from error
        _check(bundle, session, batch, str(path))
        known = [port.name for port in session.get_outputs()]
        info = EngineInfo(
            name=cls.name,
            version=version(),
            device=key.device,
            precision=key.precision,
            batch=batch,
            outputs=wanted_outputs(bundle, outputs, known, str(path)),
            detail={
                'threads': str(threads),
                'file': str(path),
                'providers': ', '.join(session.get_providers()),
            },
        )
        return cls(session, info, key.shape)

    def run(self, batch: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        """Uint8 [B, H, W, 3] -> outputs by name; arrays belong to the caller."""
        check_batch(self.name, batch, self._shape)
        if self._session is None:
            raise EngineError('engine onnxruntime: run after close')
        names = list(self.info.outputs)
        try:
            values = self._session.run(names, {self._input: batch})
        except Exception as error:  # its exception classes have no base class of their own
            raise EngineError(f'ONNX Runtime failed to run: {error}') from error
        return dict(zip(names, values, strict=True))

    def close(self) -> None:
        """Free the session."""
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


def _device(device: str) -> str:
    """The provider's short name; `auto` is the CPU, a GPU is asked for by name."""
    name = 'cpu' if device == 'auto' else device.lower()
    if name not in _PROVIDERS:
        raise EngineError(
            f"engine onnxruntime: no device {device!r}, expected 'auto' or one of "
            f'{list(_PROVIDERS)}'
        )
    if _PROVIDERS[name] not in _onnxruntime().get_available_providers():
        raise EngineError(
            f'engine onnxruntime: this build has no {_PROVIDERS[name]}, it has '
            f'{_onnxruntime().get_available_providers()}. For a GPU replace it: pip uninstall '
            f'onnxruntime && pip install onnxruntime-gpu'
        )
    return name


def _options(level: Any) -> Any:
    options = _onnxruntime().SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 3  # the note on hardware-specific graphs: the cache key handles it
    return options


def _session(path: Path, options: Any, device: str) -> Any:
    """A session whose first provider is the one asked for: it falls back to the CPU unasked."""
    provider = _PROVIDERS[device]
    providers = list(dict.fromkeys([provider, _PROVIDERS['cpu']]))
    try:
        session = _onnxruntime().InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # its exception classes have no base class of their own
        raise EngineError(f'ONNX Runtime cannot load {path}: {error}') from error
    if session.get_providers()[0] != provider:
        raise EngineError(
            f'engine onnxruntime: {provider} did not start, only {session.get_providers()}. Check '
            f'that the CUDA and cuDNN libraries it needs are installed, or use --device cpu'
        )
    return session


def _check(bundle: Bundle, session: Any, batch: int, where: str) -> None:
    found = {
        port.name: (tuple(port.shape), _DTYPES.get(port.type, port.type))
        for port in session.get_outputs()
    }
    check_graph(bundle, batch, found, where)
