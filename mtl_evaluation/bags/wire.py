# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What crosses from the process that parses a bag: plain data and arrays, in memory of their own.

One message is one sealed memory file: its length, a JSON header, the arrays. The file descriptor
goes over a socket, so the receiver maps what the sender wrote: nothing is copied twice, nothing is
unpickled, and a message lives as long as somebody holds an array of it. Needs Linux.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

DTYPES = ('uint8', 'float32', 'int64')
ALIGNMENT = 64
MAX_HEADER_BYTES = 64 << 20
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE

_LENGTH = struct.Struct('<Q')


class WireError(Exception):
    """A message that is not one, or a sender that went away."""


def send(channel: socket.socket, header: Mapping[str, Any], arrays: Sequence[NDArray[Any]]) -> None:
    """Write a message and hand it over; blocks while the receiver's queue is full."""
    places, at = [], 0
    for array in arrays:
        places.append((array.dtype.name, array.shape, at))
        at += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    text = json.dumps({**header, 'arrays': places}).encode()
    parts: list[bytes | memoryview] = [_LENGTH.pack(len(text)), text]
    parts.append(bytes(_start(len(text)) - _LENGTH.size - len(text)))
    for array in arrays:
        parts.append(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        parts.append(bytes(-array.nbytes % ALIGNMENT))
    file = os.memfd_create('frame', os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        for part in parts:
            view = memoryview(part)
            while view:
                view = view[os.write(file, view) :]
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, SEALS)
        socket.send_fds(channel, [b'm'], [file])
    finally:
        os.close(file)


def receive(channel: socket.socket) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    """Header and arrays of the next message; the arrays are writable and nobody else's.

    Raises WireError when the sender is gone or sent something else, TimeoutError as the channel
    does.
    """
    data, files, _, _ = socket.recv_fds(channel, 1, 1)
    if not data or not files:
        for file in files:
            os.close(file)
        raise WireError('the sender is gone')
    file = files[0]
    try:
        # A sealed file can no longer shrink under the map, which would end this process.
        if fcntl.fcntl(file, fcntl.F_GET_SEALS) & SEALS != SEALS:
            raise WireError('a message that is not sealed')
        memory = mmap.mmap(file, 0, access=mmap.ACCESS_COPY)
        return _read(memory)
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise WireError(f'a message that is not one: {error}') from error
    finally:
        os.close(file)


def _read(memory: mmap.mmap) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    (length,) = _LENGTH.unpack_from(memory)
    if length > MAX_HEADER_BYTES:
        raise WireError(f'a header of {length} bytes')
    header = json.loads(memory[_LENGTH.size : _LENGTH.size + length])
    start = _start(length)
    arrays = []
    for dtype, shape, at in header.pop('arrays'):
        if dtype not in DTYPES:
            raise WireError(f'an array of {dtype}')
        count = int(np.prod(shape, dtype=np.int64))
        # frombuffer raises ValueError when the array does not lie within the message.
        array = np.frombuffer(memory, dtype, count, start + at) if count else np.zeros(0, dtype)
        arrays.append(array.reshape(shape))
    return header, arrays


def _start(header: int) -> int:
    """Where the arrays begin: the first aligned place behind the header."""
    return -(-(_LENGTH.size + header) // ALIGNMENT) * ALIGNMENT
