# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""AOTInductor engine: the bundle's program compiled to native code by torch's own compiler.

Building needs a C++ compiler on a CPU (and Triton on a GPU), running does not. What is built holds
instructions of this CPU or GPU and is tied to this torch. Only static shapes: with dynamic ones and
frozen weights torch 2.15 computes wrong outputs.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from mtl_perception.children import safe_path
from mtl_perception.engines.base import EngineError
from mtl_perception.engines.built import Plan
from mtl_perception.engines.torch_engine import Call, TorchEngine


class AotInductorEngine(TorchEngine):
    """A package of native code; `info` says what is in force."""

    name = 'aot_inductor'

    @classmethod
    def build(cls, plan: Plan, path: Path) -> None:
        """Compile ahead of time."""
        if shutil.which('g++') is None and shutil.which('clang++') is None:
            raise EngineError(
                'engine aot_inductor is built with a C++ compiler, and there is neither g++ nor '
                'clang++ here. Install one (apt install g++), or choose another engine.'
            )
        import torch

        from mtl_perception.engines.torch_program import program

        package = path.with_suffix('.pt2')  # it refuses every other name
        configuration: dict[str, Any] = {'freezing': True}
        if plan.device == 'cuda':
            configuration |= {'max_autotune': True}
        with torch.no_grad(), safe_path():  # it compiles in processes of its own
            torch._inductor.aoti_compile_and_package(
                program(plan), package_path=str(package), inductor_configs=configuration
            )
        package.rename(path)

    def _open_file(self, plan: Plan, path: Path) -> Call:
        import torch

        # One thread runs it, and its own synchronisation would break a CUDA graph.
        with path.open('rb') as file:
            call: Call = torch._inductor.aoti_load_package(file, run_single_threaded=True)
        return call
