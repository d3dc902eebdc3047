# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Torch-TensorRT engine: the bundle's program, its parts that TensorRT takes compiled by it.

Half precision is in the program (`torch_runtime.lower`), so that TensorRT follows the types it
finds (`use_explicit_typing`) and no option decides what may lose bits. int8 goes through the ONNX
door (`tensorrt.py`): it takes quantised graphs as they are, without a further package.
Not run yet: torch_tensorrt cannot be imported without libnvinfer and a driver.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mtl_perception.engines.base import EngineError
from mtl_perception.engines.built import Plan
from mtl_perception.engines.torch_engine import Call, TorchEngine, distribution


class TorchTensorRtEngine(TorchEngine):
    """A program that holds TensorRT engines; `info` says what is in force."""

    name = 'torch_tensorrt'

    @classmethod
    def versions(cls) -> dict[str, str]:
        """Those of the three that have to fit."""
        return {
            'torch_tensorrt': distribution('torch-tensorrt'),
            'torch': distribution('torch'),
            'tensorrt': distribution('tensorrt'),
        }

    @classmethod
    def device(cls, asked: str) -> str:
        """An NVIDIA GPU only."""
        name = super().device('cuda' if asked == 'auto' else asked)
        if name != 'cuda':
            raise EngineError(f"engine torch_tensorrt: no device {asked!r}, expected 'cuda'")
        return name

    @classmethod
    def precisions(cls, device: str) -> tuple[str, ...]:
        """As the program is typed."""
        return ('fp32', 'fp16', 'bf16')

    @classmethod
    def build(cls, plan: Plan, path: Path) -> None:
        """Compile and save as an exported program, the engines inside."""
        import torch

        from mtl_perception.engines.torch_program import program

        trt = _torch_tensorrt()
        example = torch.zeros(plan.shape, dtype=torch.uint8, device='cuda')
        compiled = trt.dynamo.compile(
            program(plan),
            arg_inputs=[example],
            use_explicit_typing=True,
            disable_tf32=plan.precision == 'fp32',
            min_block_size=1,
            optimization_level=5,
        )
        package = path.with_suffix('.ep')
        trt.save(compiled, str(package), output_format='exported_program', arg_inputs=[example])
        package.rename(path)

    def _open_file(self, plan: Plan, path: Path) -> Call:
        import torch

        _torch_tensorrt()
        with path.open('rb') as file:
            call: Call = torch.export.load(file).module(check_guards=False)
        return call


def _torch_tensorrt() -> Any:
    try:
        import torch_tensorrt
    except (ImportError, OSError, RuntimeError) as error:
        raise EngineError(
            f'engine torch_tensorrt: the package cannot be imported ({error}). It wants the torch '
            f'that it was made for, TensorRT and an NVIDIA driver; see docs/engines.md'
        ) from error
    return torch_tensorrt
