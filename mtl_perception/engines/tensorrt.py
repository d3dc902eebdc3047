# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""TensorRT engine: `model.onnx` on NVIDIA GPUs, also where torch cannot be had (JetPack).

Networks are strongly typed: half precision and int8 are in the graph (`onnx_graph.py`), and
TensorRT follows it. That is the one way that TensorRT 10, 11 and TensorRT for RTX have in common.
A run is one CUDA graph between pinned memory at both ends. Building is tried without a GPU, through
TensorRT for RTX, in `test/vehicle/test_tensorrt.py`; running has not been, see docs/engines.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_perception.engines import cuda
from mtl_perception.engines.base import EngineError
from mtl_perception.engines.built import BuiltEngine, Plan, check_graph, check_input
from mtl_perception.engines.onnx_graph import cast_first, changed_graph

_WORKSPACE_BYTES = 1 << 30


class TensorRtEngine(BuiltEngine):
    """A TensorRT plan in an execution context; `info` says what is in force."""

    name = 'tensorrt'

    @classmethod
    def versions(cls) -> dict[str, str]:
        """TensorRT's."""
        return {'tensorrt': str(_tensorrt().__version__)}

    @classmethod
    def device(cls, asked: str) -> str:
        """The first NVIDIA GPU."""
        if asked.lower() not in ('auto', 'cuda'):
            raise EngineError(f"engine tensorrt: no device {asked!r}, expected 'auto' or 'cuda'")
        if cuda.gpu() is None:
            raise EngineError('engine tensorrt: no NVIDIA GPU or driver was found (libcuda.so.1)')
        return 'cuda'

    @classmethod
    def precisions(cls, device: str) -> tuple[str, ...]:
        """As the graph is typed."""
        return ('fp32', 'fp16', 'int8')

    @classmethod
    def hardware(cls, device: str) -> str:
        """The GPU: a plan runs on the model that it was built on."""
        return cuda.name()

    @classmethod
    def build(cls, plan: Plan, path: Path) -> None:
        """Type the graph, parse it, let TensorRT choose its kernels."""
        path.write_bytes(build_plan(_tensorrt(), plan))

    def _load(self, plan: Plan, path: Path) -> dict[str, str]:
        trt = _tensorrt()
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self._engine: Any = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise RuntimeError('TensorRT does not take the plan: of another version or GPU')
        self._context: Any = self._engine.create_execution_context()
        self._stream = cuda.Stream()
        name = plan.bundle.manifest.input.name
        pinned: NDArray[np.uint8] = self._stream.pinned(plan.shape, 'uint8')
        self.input = pinned
        image = self._stream.device(pinned.nbytes)
        self._context.set_input_shape(name, plan.shape)
        self._context.set_tensor_address(name, image)
        self._answers: dict[str, NDArray[Any]] = {}
        sources, shapes = {}, {}
        for output in plan.outputs:
            shape = tuple(self._context.get_tensor_shape(output))
            dtype = np.dtype(trt.nptype(self._engine.get_tensor_dtype(output))).name
            shapes[output] = shape, dtype
            self._answers[output] = self._stream.pinned(shape, dtype)
            sources[output] = self._stream.device(self._answers[output].nbytes)
            self._context.set_tensor_address(output, sources[output])
        check_graph(plan, shapes, path)

        def frame() -> None:
            self._stream.upload(image, pinned)
            if not self._context.execute_async_v3(self._stream.handle.value):
                raise RuntimeError('TensorRT refused to run; its own log says why')
            for output, answer in self._answers.items():
                self._stream.download(answer, sources[output])

        frame()  # TensorRT finishes setting up in the first run, which cannot be captured
        self._stream.wait()
        self._launch = self._stream.capture(frame)
        return {'cuda_graph': 'yes'}

    def _run(self, batch: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        if self.input is not None and batch is not self.input:
            self.input[:] = batch
        self._launch()
        self._stream.wait()
        return {name: answer.copy() for name, answer in self._answers.items()}

    def _close(self) -> None:
        self._answers = {}
        self._context = self._engine = None
        self._stream.close()


def build_plan(trt: Any, plan: Plan, capabilities: tuple[int, ...] = ()) -> bytes:
    """A serialised plan by `tensorrt`, or by `tensorrt_rtx` for GPUs that need not be there.

    capabilities: compute capabilities (86, 89, 120) to build for, only with `tensorrt_rtx`. Raises
    EngineError with what the parser or the builder says.
    """
    model = changed_graph(plan, fp16=plan.precision == 'fp16', int8=plan.precision == 'int8')
    port = model.graph.input[0]
    shape = [side.dim_value or None for side in port.type.tensor_type.shape.dim]
    is_uint8 = port.type.tensor_type.elem_type == 2  # TensorProto.UINT8
    check_input(plan, port.name, shape, 'uint8' if is_uint8 else 'float', plan.graph)
    cast_first(model)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString()):
        reasons = '; '.join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise EngineError(f'TensorRT cannot parse {plan.graph}: {reasons}')
    settings = builder.create_builder_config()
    settings.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, _WORKSPACE_BYTES)
    if plan.precision == 'fp32':
        settings.clear_flag(trt.BuilderFlag.TF32)
    profile = builder.create_optimization_profile()
    profile.set_shape(port.name, plan.shape, plan.shape, plan.shape)
    settings.add_optimization_profile(profile)
    if capabilities:
        settings.num_compute_capabilities = len(capabilities)
        for index, capability in enumerate(capabilities):
            settings.set_compute_capability(
                getattr(trt.ComputeCapability, f'SM{capability}'), index
            )
    serialised = builder.build_serialized_network(network, settings)
    if serialised is None:
        raise EngineError(
            f'TensorRT cannot build {plan.graph} at {plan.precision}; its own log says why'
        )
    return bytes(serialised)


def _strongly_typed(trt: Any) -> int:
    """The flag of TensorRT 10; later versions know nothing else and lack it, or keep it for all."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, 'STRONGLY_TYPED', None)
    return 0 if flag is None else 1 << int(flag)


def _tensorrt() -> Any:
    try:
        import tensorrt
    except (ImportError, OSError) as error:
        raise EngineError(
            f'engine tensorrt: the package cannot be imported ({error}). JetPack brings it '
            f'(python3-libnvinfer); elsewhere pip install tensorrt. docs/engines.md says more'
        ) from error
    return tensorrt
