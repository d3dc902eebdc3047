# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""CUDA's driver and runtime libraries through ctypes: which GPU there is, memory, streams, graphs.

For engines that have no torch beside them (JetPack), and so that asking for a GPU imports nothing.
Names and error codes are those of the CUDA Driver API (12, 13) and Runtime API.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from ctypes import c_char_p, c_int, c_size_t, c_void_p
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_perception.engine_error import EngineError

_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR."""
_HOST_TO_DEVICE, _DEVICE_TO_HOST = 1, 2
_CAPTURE_THREAD_LOCAL = 1
_RUNTIMES = ('libcudart.so', 'libcudart.so.13', 'libcudart.so.12', 'libcudart.so.11.0')


@lru_cache(maxsize=1)
def gpu() -> tuple[str, int] | None:
    """Name and compute capability (86 for 8.6) of GPU 0; None without a driver or GPU."""
    try:
        driver = ctypes.CDLL('libcuda.so.1')
    except OSError:
        return None
    device, major, minor = c_int(), c_int(), c_int()
    text = ctypes.create_string_buffer(256)
    calls: Sequence[Callable[[], int]] = (
        lambda: driver.cuInit(0),
        lambda: driver.cuDeviceGet(ctypes.byref(device), 0),
        lambda: driver.cuDeviceGetName(text, 256, device),
        lambda: driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device),
        lambda: driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device),
    )
    if any(call() for call in calls):
        return None
    return text.value.decode(errors='replace'), 10 * major.value + minor.value


def name() -> str:
    """The GPU as a cache key names it."""
    found = gpu()
    return 'no GPU' if found is None else f'{found[0]} sm_{found[1]}'


class Stream:
    """A stream, memory that belongs to it, and work captured from it. Freed by `close`."""

    def __init__(self) -> None:
        """Raises EngineError without the CUDA runtime library or a GPU."""
        self._library = _library()
        self._freed: list[tuple[str, Any]] = []
        self.handle = c_void_p()
        self._call('cudaStreamCreate', ctypes.byref(self.handle))

    def device(self, size: int) -> int:
        """Address of new memory of the GPU, `size` bytes."""
        address = c_void_p()
        self._call('cudaMalloc', ctypes.byref(address), c_size_t(size))
        self._freed.append(('cudaFree', address))
        return int(address.value or 0)

    def pinned(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """An array in memory that the GPU copies from and to by itself; unusable after `close`."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        address = c_void_p()
        self._call('cudaMallocHost', ctypes.byref(address), c_size_t(size))
        self._freed.append(('cudaFreeHost', address))
        block = (ctypes.c_uint8 * size).from_address(int(address.value or 0))
        return np.ctypeslib.as_array(block).view(dtype).reshape(shape)

    def upload(self, target: int, source: NDArray[Any]) -> None:
        """Queue a copy of a pinned array to the GPU."""
        self._copy(target, source.ctypes.data, source.nbytes, _HOST_TO_DEVICE)

    def download(self, target: NDArray[Any], source: int) -> None:
        """Queue a copy from the GPU into a pinned array."""
        self._copy(target.ctypes.data, source, target.nbytes, _DEVICE_TO_HOST)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record what `work` queues as one CUDA graph; returns what launches it."""
        graph, executable = c_void_p(), c_void_p()
        self._call('cudaStreamBeginCapture', self.handle, c_int(_CAPTURE_THREAD_LOCAL))
        try:
            work()
        finally:
            self._call('cudaStreamEndCapture', self.handle, ctypes.byref(graph))
        self._call(
            'cudaGraphInstantiateWithFlags', ctypes.byref(executable), graph, ctypes.c_ulonglong(0)
        )
        self._freed += [('cudaGraphDestroy', graph), ('cudaGraphExecDestroy', executable)]
        return lambda: self._call('cudaGraphLaunch', executable, self.handle)

    def wait(self) -> None:
        """Until everything queued is done."""
        self._call('cudaStreamSynchronize', self.handle)

    def close(self) -> None:
        """Free all of it."""
        while self._freed:
            function, address = self._freed.pop()
            getattr(self._library, function)(address)
        if self.handle:
            self._library.cudaStreamDestroy(self.handle)
            self.handle = c_void_p()

    def _copy(self, target: int, source: int, size: int, kind: int) -> None:
        self._call(
            'cudaMemcpyAsync', c_void_p(target), c_void_p(source), c_size_t(size), c_int(kind),
            self.handle,
        )  # fmt: skip

    def _call(self, function: str, *arguments: Any) -> None:
        code = getattr(self._library, function)(*arguments)
        if code:
            text = self._library.cudaGetErrorString(code).decode()
            raise EngineError(f'CUDA: {function} failed with {code}, {text}')


@lru_cache(maxsize=1)
def _library() -> Any:
    for file in _RUNTIMES:
        try:
            library = ctypes.CDLL(file)
        except OSError:
            continue
        library.cudaGetErrorString.restype = c_char_p
        library.cudaGetErrorString.argtypes = [c_int]
        return library
    raise EngineError(
        f'the CUDA runtime library was not found (looked for {", ".join(_RUNTIMES)}). Install CUDA '
        f'or put its folder into LD_LIBRARY_PATH; torch brings one in nvidia/*/lib'
    )
