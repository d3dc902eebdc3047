"""OpenVINO engine: `model.onnx` on Intel and Arm CPUs and Intel GPUs.

Precision is always set: left alone, OpenVINO runs bfloat16 where the CPU has it and says nothing.
Shapes are made static, which is 1.7 times faster than dynamic ones (FACTS.md section 7).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
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
_HINTS = {'fp32': 'f32', 'bf16': 'bf16', 'fp16': 'f16'}


def version() -> str:
    """Version of the installed package; raises EngineError when it is missing."""
    return str(_openvino().get_version())


class OpenVinoEngine:
    """The graph compiled by OpenVINO; `info` says what is in force. Not thread-safe."""

    name = 'openvino'

    def __init__(self, compiled: Any, info: EngineInfo, shape: tuple[int, ...]) -> None:
        """Wrap a compiled model; use `open`."""
        self.info = info
        self._shape = shape
        self._input = compiled.input(0).any_name
        self._ports = {name: compiled.output(name) for name in info.outputs}
        self._request: Any = compiled.create_infer_request()

    @classmethod
    def key(
        cls,
        bundle: Bundle,
        outputs: Sequence[str] | None = None,
        device: str = 'auto',
        precision: str = 'auto',
        batch: int = 1,
    ) -> cache.CacheKey:
        """What a built engine with these arguments depends on."""
        device = _device(device)
        precision = _precision(device, precision)
        hardware = cache.cpu_name()
        if device != 'CPU':
            hardware = str(_core().get_property(device, 'FULL_DEVICE_NAME'))
        spec = bundle.manifest.input
        return cache.CacheKey(
            bundle=bundle.manifest.name,
            bundle_hash=bundle.hash,
            engine=cls.name,
            precision=precision,
            shape=(batch, spec.height, spec.width, 3),
            device=f'{device} {hardware}',
            versions={'openvino': version()},
            outputs=tuple(sorted(outputs)) if outputs is not None else (),
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

        Raises EngineError when the graph cannot be read, differs from the manifest or does not
        compile.
        """
        key = cls.key(bundle, outputs, device, precision, batch)
        device = _device(device)
        graph = bundle.file(GRAPH)
        try:
            model = _core().read_model(str(graph))
        except RuntimeError as error:
            raise EngineError(f'OpenVINO cannot read {graph}: {_last_line(error)}') from error
        _check_input(bundle, model, batch, str(graph))
        known = [port.any_name for port in model.outputs]
        wanted = wanted_outputs(bundle, outputs, known, str(graph))
        for result in list(model.get_results()):
            if not set(wanted) & result.input_value(0).get_names():
                model.remove_result(result)
        try:
            model.reshape({bundle.manifest.input.name: list(key.shape)})
            compiled = _core().compile_model(model, device, _config(key.precision, 0))
        except RuntimeError as error:
            raise EngineError(
                f'OpenVINO cannot compile {graph} for {device} at {key.precision}: '
                f'{_last_line(error)}'
            ) from error
        _check(bundle, compiled, batch, str(graph))
        return cache.build(key, lambda path: _export(compiled, path))

    @classmethod
    def open(
        cls,
        bundle: Bundle,
        outputs: Sequence[str] | None = None,
        device: str = 'auto',
        precision: str = 'auto',
        batch: int = 1,
        threads: int = 0,
    ) -> OpenVinoEngine:
        """Load the built engine from the cache. `threads` 0: all cores this process may use.

        Raises EngineError when it is not built or damaged (with the command that builds it), or
        when another precision than the one asked for would run.
        """
        key = cls.key(bundle, outputs, device, precision, batch)
        device = _device(device)
        path = cache.built_file(key, bundle)
        threads = threads or cores()
        try:
            blob = path.read_bytes()
            compiled = _core().import_model(blob, device, _config(key.precision, threads))
        except (OSError, RuntimeError) as error:
            command = cache.compile_command(bundle, cls.name, key.precision, force=True)
            raise EngineError(
                f'OpenVINO cannot load {path}: {_last_line(error)}. Build it again: {command}'
            ) from error
        in_force = _in_force(compiled)
        if in_force != key.precision:
            raise EngineError(
                f'OpenVINO would run {in_force} where {key.precision} was asked for on {device}'
            )
        _check(bundle, compiled, batch, str(path))
        names = [port.any_name for port in compiled.outputs]
        info = EngineInfo(
            name=cls.name,
            version=version(),
            device=key.device,
            precision=in_force,
            batch=batch,
            outputs=tuple(spec.name for spec in bundle.manifest.outputs if spec.name in names),
            detail={'threads': str(threads), 'file': str(path)},
        )
        return cls(compiled, info, key.shape)

    def run(self, batch: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        """Uint8 [B, H, W, 3] -> outputs by name; arrays belong to the caller."""
        check_batch(self.name, batch, self._shape)
        if self._request is None:
            raise EngineError('engine openvino: run after close')
        try:
            results = self._request.infer({self._input: batch}, share_inputs=True)
        except RuntimeError as error:
            raise EngineError(f'OpenVINO failed to run: {_last_line(error)}') from error
        return {name: results[port] for name, port in self._ports.items()}

    def close(self) -> None:
        """Free the compiled model."""
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


def _device(device: str) -> str:
    name = 'CPU' if device == 'auto' else device.upper()
    found = _core().available_devices
    if name not in found:
        raise EngineError(
            f"engine openvino: no device {device!r}, expected 'auto' or one of {found}"
        )
    return name


def _precision(device: str, precision: str) -> str:
    """The precision to ask for; `auto` is fp32, the one the bundle's metrics were measured with."""
    if precision == 'auto':
        return 'fp32'
    able = _core().get_property(device, 'OPTIMIZATION_CAPABILITIES')
    choices = [name for name in _HINTS if name.upper() in able]
    if precision not in choices:
        raise EngineError(
            f'engine openvino: {device} of this machine cannot run {precision!r}, '
            f"expected 'auto' or one of {choices}"
        )
    return precision


def _config(precision: str, threads: int) -> dict[str, Any]:
    config: dict[str, Any] = {
        'INFERENCE_PRECISION_HINT': _HINTS[precision],
        'PERFORMANCE_HINT': 'LATENCY',
    }
    return config | ({'INFERENCE_NUM_THREADS': threads} if threads else {})


def _in_force(compiled: Any) -> str:
    name = compiled.get_property('INFERENCE_PRECISION_HINT').get_type_name()
    return {hint: precision for precision, hint in _HINTS.items()}.get(name, name)


def _check(bundle: Bundle, compiled: Any, batch: int, where: str) -> None:
    found = {
        port.any_name: (tuple(port.get_shape()), port.get_element_type().to_dtype().name)
        for port in compiled.outputs
    }
    check_graph(bundle, batch, found, where)


def _check_input(bundle: Bundle, model: Any, batch: int, where: str) -> None:
    port = model.inputs[0]
    shape = [None if side.is_dynamic else side.get_length() for side in port.partial_shape]
    dtype = port.get_element_type().to_dtype().name
    check_input(bundle, batch, port.any_name, shape, dtype, where)


def _export(compiled: Any, path: Path) -> None:
    path.write_bytes(compiled.export_model().getvalue())


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
