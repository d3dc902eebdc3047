# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What the engines on torch share: which device and precision, and how a built program runs.

torch is imported when one is built or loaded, not to say whether it could be: that would cost a
node that runs another engine seconds and memory. On a GPU a run is one CUDA graph between pinned
memory at both ends, on a stream of its own: copy in, network, copies out, one wait.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_perception.engines import cache, cuda
from mtl_perception.engines.base import EngineError
from mtl_perception.engines.built import BuiltEngine, Plan, check_graph
from mtl_perception.engines.torch_archive import ArchiveError

_WARM_UP = 3

Call = Callable[[Any], Sequence[Any]]
"""Uint8 tensor [B, H, W, 3] on the device -> the tensors wanted, in order."""


def distribution(name: str) -> str:
    """Version of an installed package, without importing it; raises EngineError."""
    try:
        return version(name)
    except PackageNotFoundError as error:
        raise EngineError(
            f'the package {name} is not installed. Install it: pip install {name}'
        ) from error


class TorchEngine(BuiltEngine):
    """An engine on torch; each makes a `Call` of its built file."""

    file = 'model.pt2'
    errors = (RuntimeError, ArchiveError)

    @classmethod
    def versions(cls) -> dict[str, str]:
        """Torch's; nothing is imported for it."""
        return {'torch': distribution('torch')}

    @classmethod
    def device(cls, asked: str) -> str:
        """`cuda` where there is a GPU, else `cpu`."""
        devices = ['cpu', *(['cuda'] if cuda.gpu() else [])]
        name = devices[-1] if asked == 'auto' else asked.lower()
        if name not in devices:
            raise EngineError(
                f"engine {cls.name}: no device {asked!r}, expected 'auto' or one of {devices}"
            )
        return name

    @classmethod
    def precisions(cls, device: str) -> tuple[str, ...]:
        """Half precision where it is fast: on GPUs, bfloat16 on CPUs that have it."""
        if device == 'cuda':
            return ('fp32', 'fp16', 'bf16')
        return ('fp32', 'bf16') if 'avx512_bf16' in cache.cpu_flags() else ('fp32',)

    @classmethod
    def hardware(cls, device: str) -> str:
        """CPU or GPU."""
        return cuda.name() if device == 'cuda' else cache.cpu_name()

    @abstractmethod
    def _open_file(self, plan: Plan, path: Path) -> Call:
        """Load the built file."""

    def _load(self, plan: Plan, path: Path) -> dict[str, str]:
        import torch

        torch.set_num_threads(plan.threads)
        self._torch: Any = torch
        self._names = plan.outputs
        self._graph: Any = None
        with torch.inference_mode():
            self._call: Any = self._open_file(plan, path)
            if plan.device == 'cuda':
                found = self._capture(plan)
            else:
                found = self._call(torch.zeros(plan.shape, dtype=torch.uint8))
        shapes = {
            name: (tuple(tensor.shape), str(tensor.dtype).removeprefix('torch.'))
            for name, tensor in zip(plan.outputs, found, strict=True)
        }
        check_graph(plan, shapes, path)
        return {'threads': str(plan.threads)} | (
            {} if self._graph is None else {'cuda_graph': 'yes'}
        )

    def _capture(self, plan: Plan) -> Sequence[Any]:
        """Record copies and network as one CUDA graph (`torch.cuda.graph`'s documentation)."""
        torch = self._torch
        self._stream = torch.cuda.Stream()
        host = torch.zeros(plan.shape, dtype=torch.uint8, pin_memory=True)
        self.input = host.numpy()
        image = torch.zeros(plan.shape, dtype=torch.uint8, device='cuda')
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UP):
                found = self._call(image)
            answers = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in found]
        self._stream.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=self._stream):
            image.copy_(host, non_blocking=True)
            for answer, tensor in zip(answers, self._call(image), strict=True):
                answer.copy_(tensor, non_blocking=True)
        self._held: Any = host, image, answers
        return answers

    def _run(self, batch: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        if self._graph is None:
            with self._torch.inference_mode():
                values = [t.numpy() for t in self._call(self._torch.from_numpy(batch))]
        else:
            if self.input is not None and batch is not self.input:
                self.input[:] = batch
            with self._torch.cuda.stream(self._stream):
                self._graph.replay()
            self._stream.synchronize()
            values = [answer.numpy().copy() for answer in self._held[2]]
        return dict(zip(self._names, values, strict=True))

    def _close(self) -> None:
        self._call = self._graph = self._held = None
